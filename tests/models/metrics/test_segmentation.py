"""Mean IoU and accuracies by hand, and over workers."""

import numpy as np
import pytest

from data.common.errors import UserError
from data.dense.annotation import IGNORED
from models.distributed.base import SingleProcess
from models.metrics import definitions
from models.metrics.counts import UndefinedError
from models.metrics.segmentation import SegmentationEvaluator


def evaluator_of(class_num: int, *pairs: tuple[list, list]) -> SegmentationEvaluator:
    """Of (prediction, mask) pairs."""
    evaluator = SegmentationEvaluator(class_num)
    for prediction, mask in pairs:
        evaluator.update(np.array(prediction), np.array(mask))
    return evaluator


def test_two_images_by_hand():
    evaluator = evaluator_of(
        3,
        ([[0, 0, 1], [1, 2, 2]], [[0, 1, 1], [1, 2, 0]]),
        ([[0, 0, 2]], [[0, 0, 1]]),
    )
    counts = evaluator.measure()
    # Rows are the mask's classes.
    np.testing.assert_array_equal(counts.confusion, [[3, 0, 1], [1, 2, 1], [0, 0, 1]])
    np.testing.assert_allclose(counts.iou, [3 / 5, 2 / 4, 1 / 3])
    assert evaluator.result() == pytest.approx(
        {
            "images": 2,
            "miou": (3 / 5 + 2 / 4 + 1 / 3) / 3,
            "pixel_accuracy": 6 / 9,
            "mean_accuracy": (3 / 4 + 2 / 4 + 1) / 3,
        }
    )


def test_ignored_pixels_do_not_count_whatever_is_predicted():
    mask = [[0, IGNORED, 1, IGNORED]]
    one = evaluator_of(2, ([[0, 1, 1, 0]], mask))
    other = evaluator_of(2, ([[0, 99, 1, IGNORED]], mask))
    np.testing.assert_array_equal(one.measure().confusion, [[1, 0], [0, 1]])
    np.testing.assert_array_equal(other.measure().confusion, [[1, 0], [0, 1]])
    assert one.result()["pixel_accuracy"] == 1


def test_classes_without_pixels_are_left_out_but_not_false_ones():
    """Class 1 is only predicted: an IoU of 0. Classes 2 and 3 occur nowhere."""
    evaluator = evaluator_of(4, ([[0, 0, 1, 1]], [[0, 0, 0, 0]]))
    np.testing.assert_array_equal(evaluator.measure().iou, [0.5, 0, np.nan, np.nan])
    result = evaluator.result()
    assert (result["miou"], result["mean_accuracy"]) == (0.25, 0.5)


def test_a_class_that_is_never_found_counts():
    evaluator = evaluator_of(2, ([[0, 0]], [[0, 1]]))
    assert evaluator.result()["miou"] == 0.25 and evaluator.result()["mean_accuracy"] == 0.5


def test_without_a_labeled_pixel_there_is_no_metric():
    for evaluator in (evaluator_of(2), evaluator_of(2, ([[0, 1]], [[IGNORED, IGNORED]]))):
        with pytest.raises(UndefinedError, match="no labeled pixel"):
            evaluator.result()


def test_unsigned_bytes_do_not_overflow():
    mask = np.full((300, 300), 254, np.uint8)
    evaluator = SegmentationEvaluator(255)
    evaluator.update(mask, mask)
    assert evaluator.measure().confusion[254, 254] == 90_000


@pytest.mark.parametrize(
    ("prediction", "mask", "message"),
    [
        (
            [[0, 1]],
            [[0], [1]],
            r"a mask of shape \[2, 1\] does not fit a prediction of .* \[1, 2\]",
        ),
        ([0, 1], [0, 1], r"a mask of shape \[2\]"),
        ([[0, 3]], [[0, 1]], "a prediction has class 3, but classes are 0 to 2"),
        ([[0, IGNORED]], [[0, 1]], "a prediction has class 255"),
        ([[0, 1]], [[0, -1]], "a mask has class -1"),
    ],
)
def test_what_does_not_fit(prediction, mask, message):
    with pytest.raises(UserError, match=message):
        evaluator_of(3, (prediction, mask))


class Both(SingleProcess):
    """Adds what another worker has, in the order in which it is asked for."""

    def __init__(self, others: list[np.ndarray]) -> None:
        super().__init__()
        self.others = iter(others)

    def sum(self, array: np.ndarray) -> np.ndarray:
        return array + next(self.others)


def test_workers_add_up():
    draw = np.random.default_rng(5)
    predictions, masks = draw.integers(0, 4, (2, 3, 20, 30))
    masks[0, :5] = IGNORED
    whole, first = SegmentationEvaluator(4), SegmentationEvaluator(4)
    second = SegmentationEvaluator(4)
    for i in range(3):
        whole.update(predictions[i], masks[i])
        (first if i == 0 else second).update(predictions[i], masks[i])
    theirs = second.measure()
    joined = SegmentationEvaluator(4, Both([theirs.confusion, np.array([theirs.images])]))
    joined.update(predictions[0], masks[0])
    assert joined.result() == whole.result()


def test_the_metrics_are_known_by_name():
    assert definitions.find("miou").headline and definitions.find("miou").better == "higher"
    assert definitions.find("ema_pixel_accuracy").meaning.startswith("fraction of labeled")
