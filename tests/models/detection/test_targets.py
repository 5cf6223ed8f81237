"""Targets against plain NumPy, and the draws of anchors and regions."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from plain_boxes import plain_ious, random_boxes

from data.common.errors import UserError
from models.detection import anchors, boxes, targets
from models.detection.anchors import Proposals
from models.detection.boxes import REGION_WEIGHTS
from models.detection.options import DetectionOptions
from models.detection.targets import Objects

KEY = np.int64([1, 2])
SIZE = np.int32([512, 512])
OPTIONS = DetectionOptions()


def objects_of(found: np.ndarray, classes: np.ndarray | None = None) -> Objects:
    """With two entries of padding."""
    classes = np.zeros(len(found), np.int32) if classes is None else classes
    padding = np.int32([-1, -1])
    return Objects(
        tf.concat([found, np.zeros((2, 4), np.float32)], 0), tf.concat([classes, padding], 0)
    )


def plain_labels(anchor_boxes, found, size):
    """1 positive, 0 negative, -1 neither: anchor by anchor."""
    usable = [min(a[:2]) >= 0 and a[2] <= size[0] and a[3] <= size[1] for a in anchor_boxes]
    ious = plain_ious(anchor_boxes, found)
    labels = []
    for i in range(len(anchor_boxes)):
        if not usable[i]:
            labels.append(-1)
            continue
        is_best = any(
            ious[i, j] > 0 and ious[i, j] >= max(ious[usable, j]) - 1e-7 for j in range(len(found))
        )
        best = max(ious[i], default=0)
        labels.append(1 if best >= 0.7 or is_best else 0 if best < 0.3 else -1)
    return np.array(labels)


@pytest.mark.slow
def test_labels_of_anchors():
    of_cell = anchors.cell_anchors((2, 4, 8), (0.5, 1, 2))
    grid = anchors.image_anchors(np.int32([16, 20]), of_cell).numpy()
    size, found = np.int32([250, 315]), random_boxes(7, 5, side=250)
    found[4] = [3, 3, 9, 9]  # no anchor is like it, but one is the best
    positive, negative, nearest = targets.label_anchors(grid, objects_of(found), size, OPTIONS)
    labels = np.where(positive, 1, np.where(negative, 0, -1))
    np.testing.assert_array_equal(labels, plain_labels(grid, found, size))
    assert (labels == 1).sum() > 5 and (labels == -1).sum() > 100
    best = plain_ious(grid[positive], found).argmax(axis=1)
    np.testing.assert_array_equal(nearest.numpy()[positive], best)


def test_labels_are_those_of_torchvision():
    """Its `Matcher(0.7, 0.3, allow_low_quality_matches=True)`; all anchors are in the image."""
    found, some = random_boxes(7, 12), random_boxes(8, 3000)
    positive, negative, nearest = targets.label_anchors(some, objects_of(found), SIZE, OPTIONS)
    matches = np.where(positive, nearest, np.where(negative, -1, -2)).astype("<i4")
    assert (positive.numpy().sum(), negative.numpy().sum()) == (20, 2400)
    assert zlib.crc32(matches.tobytes()) == 235872960


def test_without_objects_all_anchors_inside_are_negative():
    none = Objects.padded(tf.zeros([0, 4]), tf.zeros([0], tf.int32))
    some = np.float32([[0, 0, 10, 10], [-1, 0, 10, 10]])
    positive, negative, _ = targets.label_anchors(some, none, SIZE, OPTIONS)
    assert not positive.numpy().any() and negative.numpy().tolist() == [True, False]
    drawn = targets.anchor_targets(some, none, SIZE, KEY, OPTIONS)
    assert drawn.used.numpy().tolist() == [1, 0]
    assert not drawn.objectness.numpy().any()


@pytest.mark.parametrize(
    ("positives", "negatives", "drawn_positives", "drawn_negatives"),
    [(3, 900, 3, 253), (500, 400, 128, 128), (500, 20, 128, 20), (0, 300, 0, 256), (0, 0, 0, 0)],
)
def test_draw(positives, negatives, drawn_positives, drawn_negatives):
    kinds = np.random.RandomState(0).permutation([1] * positives + [0] * negatives + [-1] * 100)
    sample = targets.draw(kinds == 1, kinds == 0, 256, 128, KEY)
    used, indices = sample.used.numpy(), sample.indices.numpy()
    assert len(indices) == min(256, len(kinds)) == len(set(indices))
    assert (used.sum(), sample.positive.numpy().sum()) == (
        drawn_positives + drawn_negatives,
        drawn_positives,
    )
    np.testing.assert_array_equal(kinds[indices][used], sample.positive.numpy()[used])


def test_draws_are_fair_and_a_function_of_the_key():
    kinds = np.array([1] * 20 + [0] * 60)

    @tf.function
    def draw(key):
        return targets.draw(kinds == 1, kinds == 0, 20, 5, key).indices

    def drawn(key):
        return draw(tf.constant(key, tf.int64)).numpy()

    counts = sum(np.bincount(drawn([3, i]), minlength=80) for i in range(400))
    # 5 of 20 and 15 of 60: each a quarter of the time, with a standard deviation of 8.7.
    assert counts.min() > 60 and counts.max() < 140
    assert drawn([3, 7]).tolist() == drawn([3, 7]).tolist() != drawn([4, 7]).tolist()
    first, second = (targets.draw_seed(3, purpose, 7).numpy().tolist() for purpose in (0, 1))
    assert first != second


def test_anchor_targets():
    found, some = random_boxes(7, 12), random_boxes(8, 3000)
    drawn = targets.anchor_targets(some, objects_of(found), SIZE, KEY, OPTIONS)
    positive = drawn.objectness.numpy() > 0
    assert (positive.sum(), drawn.used.numpy().sum()) == (20, 256)
    own = some[drawn.indices.numpy()][positive]
    nearest = found[plain_ious(own, found).argmax(axis=1)]
    decoded = boxes.decode(drawn.offsets.numpy()[positive], own)
    np.testing.assert_allclose(decoded, nearest, atol=1e-3)
    assert not drawn.offsets.numpy()[~positive].any()


def regions_of(proposals, found, classes, **options):
    valid = np.ones(len(proposals), bool)
    valid[-5:] = False
    options = DetectionOptions(**{"regions": 64, **options})
    objects = objects_of(found, classes)
    return targets.region_targets(Proposals(proposals, valid), objects, KEY, options)


def test_region_targets():
    found, classes = random_boxes(7, 12), np.arange(12, dtype=np.int32)
    proposals = np.concatenate([random_boxes(8, 600), found[:5]])  # the last five are not valid
    drawn = regions_of(proposals, found, classes, region_background_min_iou=0.1)
    regions = drawn.boxes.numpy()
    ious = plain_ious(regions, found)
    best, wanted = ious.max(axis=1), classes[ious.argmax(axis=1)] + 1
    foreground = drawn.classes.numpy() > 0
    assert foreground.sum() == 16 and drawn.used.numpy().all()
    np.testing.assert_array_equal(drawn.classes.numpy()[foreground], wanted[foreground])
    assert (best[foreground] >= 0.5).all()
    assert ((best[~foreground] < 0.5) & (best[~foreground] >= 0.1)).all()
    offsets = drawn.offsets.numpy()
    assert not offsets[~foreground].any()
    decoded = boxes.decode(offsets[foreground], regions[foreground], REGION_WEIGHTS)
    np.testing.assert_allclose(decoded, found[wanted[foreground] - 1], atol=1e-3)


def test_objects_are_regions_themselves():
    """Where no proposal is near, an object's own box is drawn, and fillers are not used."""
    found, classes = np.float32([[0, 0, 50, 50]]), np.int32([4])
    far = np.tile(np.float32([[300, 300, 400, 400]]), (9, 1))
    drawn = regions_of(far, found, classes)
    assert drawn.used.numpy().sum() == 5  # of nine the last five are not valid, and the object
    assert drawn.classes.numpy()[0] == 5 and drawn.boxes.numpy()[0].tolist() == found[0].tolist()
    assert not drawn.classes.numpy()[1:].any()
    assert drawn.boxes.shape == (64, 4)


def test_regions_without_objects_are_background():
    drawn = regions_of(random_boxes(8, 600), np.zeros((0, 4), np.float32), np.zeros(0, np.int32))
    assert drawn.used.numpy().all() and not drawn.classes.numpy().any()


@pytest.mark.parametrize(
    ("name", "value"),
    [("anchor_scales", ()), ("regions", 0), ("nms_iou", 1.5), ("rpn_negative_iou", 0.8)],
)
def test_options_out_of_range(name, value):
    with pytest.raises(UserError, match=name):
        DetectionOptions(**{name: value})
