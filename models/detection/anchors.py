"""Anchors: the boxes that the region proposal network starts from, and its proposals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from models.detection import boxes
from models.detection.boxes import STRIDE

# Below any logit of a network; boxes to leave out get minus infinity.
_LOWEST = -1e30


class Proposals(NamedTuple):
    """boxes: float32 [P, 4], best first, then zeros. valid: bool [P], which are proposals."""

    boxes: tf.Tensor
    valid: tf.Tensor


def cell_anchors(scales: tuple[float, ...], ratios: tuple[float, ...]) -> np.ndarray:
    """The anchors centered at the origin, float32 [K, 4]: for each ratio, each scale.

    An anchor's area is (16 scale)^2, and its height is `ratio` times its width. tf-faster-rcnn
    rounds the sides of the base anchors to whole pixels; these are exact.
    """
    sides = STRIDE * np.array(scales)
    root = np.sqrt(np.array(ratios))[:, None]
    half = np.stack([root * sides, sides / root], axis=-1).reshape(-1, 2) / 2
    return np.concatenate([-half, half], axis=1).astype(np.float32)


def image_anchors(cells: tf.Tensor, of_cell: np.ndarray) -> tf.Tensor:
    """Anchors float32 [h * w * K, 4] of a map of `cells` (h, w), row by row, anchor by anchor.

    Those of cell (i, j) are centered at (16 i + 8, 16 j + 8), the middle of 16 x 16 pixels.
    """
    y = (tf.cast(tf.range(cells[0]), tf.float32) + 0.5) * STRIDE
    x = (tf.cast(tf.range(cells[1]), tf.float32) + 0.5) * STRIDE
    y, x = tf.meshgrid(y, x, indexing="ij")
    centers = tf.stack([y, x, y, x], axis=-1)
    return tf.reshape(centers[:, :, None] + of_cell, [-1, 4])


def inside(anchors: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """bool [A]: which anchors [A, 4] lie within an image of height and width `size` [2]."""
    return tf.reduce_all(tf.equal(boxes.clip(anchors, size), anchors), axis=1)


def propose(
    anchors: tf.Tensor,
    scores: tf.Tensor,
    offsets: tf.Tensor,
    size: tf.Tensor,
    *,
    before_nms: int,
    count: int,
    nms_iou: float,
) -> Proposals:
    """The best boxes of an image that do not overlap each other by more than `nms_iou`.

    Args:
      anchors: [A, 4].
      scores: [A], objectness logits.
      offsets: [A, 4] of the boxes from their anchors.
      size: int32 [2], the image's height and width, to which boxes are clipped; boxes with no area
        left are dropped.
      before_nms: number of best boxes that enter non-maximum suppression.
      count: P, proposals to return.

    Returns:
      P proposals, without a gradient.
    """
    scores, best = tf.math.top_k(tf.stop_gradient(scores), tf.minimum(before_nms, tf.size(scores)))
    offsets = tf.gather(tf.stop_gradient(offsets), best)
    found = boxes.clip(boxes.decode(offsets, tf.gather(anchors, best)), size)
    scores = tf.where(boxes.areas(found) > 0, scores, -np.inf)
    kept = tf.image.non_max_suppression(found, scores, count, nms_iou, _LOWEST)
    valid = tf.range(count) < tf.size(kept)
    kept = tf.pad(tf.gather(found, kept), [[0, count - tf.size(kept)], [0, 0]])
    return Proposals(tf.ensure_shape(kept, [count, 4]), valid)
