"""Geometry of boxes: overlap, offsets from anchors, and clipping.

A box is float32 (y1, x1, y2, x2) in pixels with continuous edges: the pixel in row i covers i to
i + 1, so its height is y2 - y1 (VOC's y2 - y1 + 1 in whole pixels).
"""

import math

import tensorflow as tf

# Stride of the map that regions are proposed on and cropped from.
STRIDE = 16
# Region offsets are divided by 0.1, 0.1, 0.2, 0.2, so that they vary as much as class scores.
REGION_WEIGHTS = (10.0, 10.0, 5.0, 5.0)
UNIT_WEIGHTS = (1.0, 1.0, 1.0, 1.0)
# exp() of an extreme offset would overflow: no box is more than 62.5 times as large as its anchor.
MAX_LOG_SCALE = math.log(1000 / 16)


def areas(boxes: tf.Tensor) -> tf.Tensor:
    """Areas [...] of boxes [..., 4]; 0 for a box of no height or no width."""
    y1, x1, y2, x2 = tf.unstack(boxes, axis=-1)
    return tf.maximum(y2 - y1, 0.0) * tf.maximum(x2 - x1, 0.0)


def iou(boxes: tf.Tensor, others: tf.Tensor) -> tf.Tensor:
    """Intersection over union [A, N] of boxes [A, 4] and others [N, 4]; 0 where both are empty."""
    top_left = tf.maximum(boxes[:, None, :2], others[None, :, :2])
    bottom_right = tf.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = areas(tf.concat([top_left, bottom_right], axis=-1))
    union = areas(boxes)[:, None] + areas(others)[None, :] - common
    return tf.math.divide_no_nan(common, union)


def encode(
    boxes: tf.Tensor, anchors: tf.Tensor, weights: tuple[float, ...] = UNIT_WEIGHTS
) -> tf.Tensor:
    """Offsets (dy, dx, log height, log width) [..., 4] of boxes from anchors, both [..., 4].

    Center distances in units of the anchor's size, and logarithms of size ratios, times `weights`.
    All sizes are above 0.
    """
    center, size = _center_and_size(boxes)
    anchor_center, anchor_size = _center_and_size(anchors)
    offsets = [(center - anchor_center) / anchor_size, tf.math.log(size / anchor_size)]
    return tf.concat(offsets, axis=-1) * tf.constant(weights)


def decode(
    offsets: tf.Tensor, anchors: tf.Tensor, weights: tuple[float, ...] = UNIT_WEIGHTS
) -> tf.Tensor:
    """Boxes [..., 4] at these offsets from the anchors: the inverse of `encode`.

    Sizes are at most 62.5 times the anchor's.
    """
    offsets = offsets / tf.constant(weights)
    anchor_center, anchor_size = _center_and_size(anchors)
    center = offsets[..., :2] * anchor_size + anchor_center
    half = 0.5 * tf.exp(tf.minimum(offsets[..., 2:], MAX_LOG_SCALE)) * anchor_size
    return tf.concat([center - half, center + half], axis=-1)


def clip(boxes: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The parts of boxes [..., 4] inside an image of height and width `size`, [2] or [..., 2]."""
    size = tf.cast(size, tf.float32)
    return tf.minimum(tf.maximum(boxes, 0.0), tf.concat([size, size], axis=-1))


def _center_and_size(boxes: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """(y, x) and (height, width) [..., 2] of boxes [..., 4]."""
    first, last = boxes[..., :2], boxes[..., 2:]
    return 0.5 * (first + last), last - first
