"""Files with a threshold for each class, or with the classes that count."""

import numpy as np
import pytest

from data.common.errors import UserError
from data.lists.class_files import read_class_mask, read_thresholds


def test_a_threshold_file_overrides_the_threshold(tmp_path):
    (tmp_path / "t").write_text("class\tthreshold\n# note\n1\t0.25\n\n4 0.5\n")
    thresholds = read_thresholds(tmp_path / "t", 5, 0.1)
    np.testing.assert_allclose(thresholds, [0.1, 0.25, 0.1, 0.1, 0.5])
    for row, message in (("5\t0.1", r"t:1: class 5 is not in 0..4"), ("1", "t:1: expected")):
        (tmp_path / "t").write_text(row + "\n")
        with pytest.raises(UserError, match=message):
            read_thresholds(tmp_path / "t", 5, 0.1)


def test_the_classes_that_a_file_lists(tmp_path):
    (tmp_path / "classes").write_text("# kept\n3\tcat\n\n0 thing\n")
    assert read_class_mask(tmp_path / "classes", 5).tolist() == [True, False, False, True, False]
    (tmp_path / "classes").write_text("3\nfive\n")
    with pytest.raises(UserError, match=r"classes:2: 'five' is not a class in 0..13"):
        read_class_mask(tmp_path / "classes", 14)
