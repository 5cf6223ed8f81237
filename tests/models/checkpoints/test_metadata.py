"""What a checkpoint's JSON says of its classes, and what is believed of it."""

import json

import pytest

from data.common.errors import UserError
from models.checkpoints import checkpoint, metadata
from models.checkpoints.checkpoint import CheckpointError

HASH = "0" * 64
CLASSES = {"names": ["thing", "cat"], "sha256": HASH}


def saved(folder, classes):
    meta = {"classes": classes} if classes else {}
    return checkpoint.save(folder / "model.ckpt-1", {"v": 0.0}, meta)


def test_a_dictionary_goes_before_the_checkpoints_names_and_those_before_numbers(tmp_path):
    (tmp_path / "own.txt").write_text("0\tone\n1\ttwo\n")
    named = saved(tmp_path / "named", CLASSES)
    assert metadata.classes_of(named, 2, str(tmp_path / "own.txt")).names == ["one", "two"]
    assert metadata.classes_of(named, 2).names == metadata.classes_of(named, 2, "").names
    assert metadata.classes_of(named, 2).names == ["thing", "cat"]
    assert metadata.classes_of(saved(tmp_path / "none", None), 2).names == ["class 0", "class 1"]
    assert metadata.kept_classes(tmp_path / "none/model.ckpt-1") is None


def test_names_of_another_number_of_classes_are_an_error(tmp_path):
    with pytest.raises(UserError, match=r"ckpt-1.json names 2 classes, the network has 3"):
        metadata.classes_of(saved(tmp_path, CLASSES), 3)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"names": ["a", 1], "sha256": HASH}, r"classes.names\[1\] should be a text"),
        ({"names": ["a"], "sha256": "x"}, "classes.sha256"),
        (CLASSES | {"hierarchy": {"parents": [-2, 0], "ids": ["a", "b"]}}, "a class, or -1"),
        (CLASSES | {"hierarchy": {"parents": [-1, 1], "ids": ["a", "b"]}}, "not form a hierarchy"),
    ],
)
def test_what_cannot_be_is_not_believed(tmp_path, classes, message):
    """Even in a file without a checksum, which someone wrote by hand."""
    prefix = saved(tmp_path, None)
    document = {"versions": {}, "classes": classes}
    (tmp_path / "model.ckpt-1.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=message):
        metadata.kept_classes(prefix)
