"""Boxes, anchors and crops against plain NumPy, and against numbers that torchvision 0.29 gave."""

import zlib

import numpy as np
import pytest
import tensorflow as tf
from plain_boxes import plain_ious, plain_nms, random_boxes, summary

from models.detection import anchors, boxes, crops
from models.detection.boxes import REGION_WEIGHTS

A, B = random_boxes(1), random_boxes(2)
# IoU, boxes that stay, checksum of their places.
NMS = [(0.3, 147, 2439932548), (0.7, 287, 2390332522)]


def random_offsets() -> np.ndarray:
    offsets = np.random.RandomState(3).randint(-2000, 2000, (300, 4)).astype(np.float32) / 500
    offsets[:3, 2:] = 40  # too large to be exponentiated
    return offsets


def test_iou():
    ious = boxes.iou(A, B).numpy()
    np.testing.assert_allclose(ious, plain_ious(A, B), atol=1e-6)
    torchvision = [1710.196246364536, -36.22670039052228, 0.980452835559845]
    np.testing.assert_allclose(summary(ious), torchvision, rtol=1e-6)


def test_iou_of_boxes_apart_touching_and_empty():
    box = np.float32([[0, 0, 2, 2]])
    others = np.float32([[5, 5, 6, 6], [0, 2, 2, 4], [1, 1, 1, 2], [0, 0, 2, 2], [1, 1, 3, 3]])
    np.testing.assert_allclose(boxes.iou(box, others)[0], [0, 0, 0, 1, 1 / 7], atol=1e-7)
    empty = np.zeros((1, 4), np.float32)
    assert boxes.iou(empty, empty).numpy() == 0


def test_encode():
    offsets = boxes.encode(A, B, REGION_WEIGHTS).numpy()
    torchvision = [-237.36851791013032, -1696.3369747513543, 309.3333435058594]
    np.testing.assert_allclose(summary(offsets), torchvision, rtol=2e-6)
    # A box of the same height, half as wide again, two pixels lower, in an anchor of 4 x 8.
    anchor, box = np.float32([[0, 0, 4, 8]]), np.float32([[2, -2, 6, 10]])
    wanted = [2 / 4 * 10, 0, 0, np.log(1.5) * 5]
    np.testing.assert_allclose(boxes.encode(box, anchor, REGION_WEIGHTS)[0], wanted, atol=1e-6)


def test_decode():
    decoded = boxes.decode(random_offsets(), B, REGION_WEIGHTS).numpy()
    torchvision = [347776.6806907654, -3801.743253981348, 5879.08837890625]
    np.testing.assert_allclose(summary(decoded), torchvision, rtol=2e-6)
    back = boxes.decode(boxes.encode(A, B, REGION_WEIGHTS), B, REGION_WEIGHTS)
    np.testing.assert_allclose(back, A, atol=1e-3)


def test_clip():
    box = np.float32([[-3, 5, 70, 200], [70, 1, 80, 3]])
    size = np.int32([60, 100])
    clipped = boxes.clip(box, size).numpy()
    assert clipped.tolist() == [[0, 5, 60, 100], [60, 1, 60, 3]]
    assert boxes.areas(clipped).numpy().tolist() == [60 * 95, 0]


@pytest.mark.parametrize(("threshold", "count", "crc"), NMS)
def test_nms_is_that_of_torchvision(threshold, count, crc):
    scores = np.random.RandomState(4).permutation(300).astype(np.float32)
    kept = tf.image.non_max_suppression(A, scores, 300, threshold).numpy()
    assert kept.tolist() == plain_nms(A, scores, threshold)
    assert (len(kept), zlib.crc32(kept.astype("<i4").tobytes())) == (count, crc)


def plain_crop(image: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """One region, sample by sample; what is beyond the last centers takes their value."""
    last = np.array(image.shape[:2]) - 1
    half = (box[2:] - box[:2]) / size / 2
    corners = (np.stack([box[:2] + half, box[2:] - half]) - 0.5) / 16
    first, final = np.clip(corners, 0, last)
    result = np.zeros((size, size, image.shape[2]))
    for i in range(size):
        for j in range(size):
            y, x = first + (final - first) * np.array([i, j]) / (size - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, last[0]), min(left + 1, last[1])
            upper = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
            lower = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
            result[i, j] = upper * (1 - y + top) + lower * (y - top)
    return result


def random_map(rows: int = 20, columns: int = 24) -> np.ndarray:
    draw = np.random.RandomState(5)
    return draw.randint(-100, 100, (1, rows, columns, 3)).astype(np.float32) / 16


def test_crop_is_roi_align_with_one_sample():
    regions = random_boxes(6, side=288)  # away from the last cells, where roi_align differs
    got = crops.crop(random_map(), regions, 7).numpy()
    torchvision = [-4405.809404172935, 150.18052588903967, 6.167304039001465]
    np.testing.assert_allclose(summary(got), torchvision, rtol=2e-5)


def test_crop_at_the_border():
    regions = np.float32(
        [[0, 0, 320, 384], [300, 370, 320, 384], [0, 0, 1, 1], [0, 90, 320, 100], [17, 3, 90, 384]]
    )
    got = crops.crop(random_map(), regions, 7).numpy()
    for region, crop in zip(regions, got, strict=True):
        wanted = plain_crop(random_map()[0], region, 7)
        np.testing.assert_allclose(crop, wanted, atol=0.02)  # a thousandth of a cell


def test_crop_of_a_map_of_one_cell():
    got = crops.crop(random_map()[:, :1, :1], np.float32([[2, 2, 9, 9]]), 3)
    np.testing.assert_allclose(got[0], np.broadcast_to(random_map()[0, :1, :1], (3, 3, 3)))


def test_gradient_of_crop():
    """It is the transpose of the crop, which is linear, to every cell that has a part."""
    image_map = tf.constant(random_map(rows=5, columns=6))
    regions = random_boxes(9, count=8, side=80)
    with tf.GradientTape() as tape:
        tape.watch(image_map)
        crop = crops.crop(image_map, regions, 7)
        weights = tf.random.stateless_normal(tf.shape(crop), [1, 2])
        total = tf.reduce_sum(crop * weights)
    gradient = tape.gradient(total, image_map).numpy()
    for place in np.ndindex(1, 5, 6):
        one = np.zeros(image_map.shape, np.float32)
        one[place] = 1
        wanted = tf.reduce_sum(crops.crop(one, regions, 7) * weights, axis=[0, 1, 2])
        np.testing.assert_allclose(gradient[place], wanted, atol=1e-4)


def test_cell_anchors():
    got = anchors.cell_anchors((8, 16, 32), (0.5, 1, 2))
    torchvision = [[-45, -91, 45, 91], [-91, -181, 91, 181], [-181, -362, 181, 362]]
    np.testing.assert_allclose(got[:3], torchvision, atol=0.51)  # it rounds to whole pixels
    sides = got[:, 2:] - got[:, :2]
    np.testing.assert_allclose(sides.prod(axis=1), [128**2, 256**2, 512**2] * 3, rtol=1e-6)
    np.testing.assert_allclose(sides[:, 0] / sides[:, 1], [0.5] * 3 + [1] * 3 + [2] * 3, rtol=1e-6)


def test_image_anchors():
    of_cell = anchors.cell_anchors((1,), (1, 4))
    got = anchors.image_anchors(np.int32([2, 3]), of_cell).numpy()
    assert got.shape == (12, 4)
    assert got[0].tolist() == [0, 0, 16, 16]
    assert got[1].tolist() == [-8, 4, 24, 12]
    assert got[10].tolist() == [16, 32, 32, 48]  # the second row's last cell
    inside = anchors.inside(got, np.int32([32, 40])).numpy()
    assert np.flatnonzero(inside).tolist() == [0, 2, 6, 8]


def propose(scores, found, size=(512, 512), **options):
    """Proposals where the offsets of one large anchor lead to the boxes `found`."""
    anchor = np.tile(np.float32([[0, 0, 512, 512]]), (len(found), 1))
    options = {"before_nms": 100, "count": 6, "nms_iou": 0.7, **options}
    offsets = boxes.encode(found, anchor)
    return anchors.propose(anchor, np.float32(scores), offsets, np.int32(size), **options)


def test_propose():
    found = np.float32(
        [[0, 0, 100, 100], [0, 0, 100, 95], [600, 0, 700, 50], [9, 9, 600, 60], [3, 3, 50, 50]]
    )
    got = propose([1, 3, 9, -2, -1], found)
    wanted = found[[1, 4, 3]]
    wanted[2, 2] = 512  # clipped; the third has nothing in the image, the first is as the second
    assert got.valid.numpy().tolist() == [True] * 3 + [False] * 3
    np.testing.assert_allclose(got.boxes[:3], wanted, atol=1e-3)
    assert not got.boxes[3:].numpy().any()


def test_propose_compares_the_best_and_keeps_the_best():
    found = random_boxes(10, 50)
    scores = np.random.RandomState(1).permutation(50)
    best = np.argsort(-scores)[:20]
    kept = best[plain_nms(found[best], scores[best], 0.5)][:6]
    got = propose(scores, found, before_nms=20, nms_iou=0.5)
    np.testing.assert_allclose(got.boxes, found[kept], atol=1e-3)
