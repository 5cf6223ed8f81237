"""Crops of a map: each region resampled to the same size."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

from models.detection.boxes import STRIDE, clip

# Rounding may carry a sample across the last cell, where `crop_and_resize` would return 0.
_CELL_MARGIN = 1e-3


def crop(maps: tf.Tensor, cells: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    """Resamples the regions `boxes` of maps of stride 16 to size x size, without averaging.

    A box is divided into size x size parts, and the map is interpolated bilinearly at the center
    of each, as torchvision's `roi_align` does with one sample per part.
    `tf.image.crop_and_resize` has another convention, which would stretch the regions: it samples
    from the first corner to the last, inclusive, in units of the map's height - 1 and width - 1.
    So it gets the first and last center. Cell i of the map is centered on pixel 16 i (every
    convolution pads both sides alike), the point 16 i + 0.5 of the image. Samples beyond the
    centers of the first and last cell, where there is nothing to interpolate, move there.

    Args:
      maps: [B, h, w, C].
      cells: int32 [B, 2], rows and columns of each map that belong to the image; the others are
        never read.
      boxes: [B, R, 4] in pixels; they have no gradient.

    Returns:
      float32 [B * R, size, size, C].
    """
    batch, regions = tf.shape(boxes)[0], tf.shape(boxes)[1]
    half_part = (boxes[..., 2:] - boxes[..., :2]) / (2 * size)
    points = tf.concat([boxes[..., :2] + half_part, boxes[..., 2:] - half_part], axis=-1)
    last = tf.maximum(tf.cast(cells, tf.float32) - 1 - _CELL_MARGIN, 0.0)
    points = tf.reshape(clip((points - 0.5) / STRIDE, last[:, None]), [-1, 4])
    numbers = tf.repeat(tf.range(batch), regions)
    # It has no bfloat16.
    return _resample(tf.cast(maps, tf.float32), tf.stop_gradient(points), numbers, size)


def _resample(maps: tf.Tensor, points: tf.Tensor, numbers: tf.Tensor, size: int) -> tf.Tensor:
    """size x size samples between the corners `points` [N, 4] of map `numbers` [N], in cells.

    The gradient is ours: on a CPU with several threads that of `crop_and_resize` loses addends
    (TensorFlow 2.21: its threads add to the same cell without a lock).
    """

    @tf.custom_gradient
    def resample(maps: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        whole = tf.maximum(tf.cast(tf.shape(maps)[1:3], tf.float32) - 1, 1.0)
        crops = tf.image.crop_and_resize(maps, points / tf.tile(whole, [2]), numbers, [size, size])
        return crops, lambda gradient: _spread(gradient, tf.shape(maps), points, numbers)

    return resample(maps)


def _spread(
    gradient: tf.Tensor, shape: tf.Tensor, points: tf.Tensor, numbers: tf.Tensor
) -> tf.Tensor:
    """The gradient of maps of this shape, from that of their crops [N, size, size, C].

    Each sample is a weighted sum of four cells, so crops are a sparse matrix times the map.
    """
    size, height, width = gradient.shape[1], shape[1], shape[2]
    fractions = tf.linspace(0.0, 1.0, size)
    first, last = points[:, :2, None], points[:, 2:, None]
    places = first + (last - first) * fractions  # [N, 2, size]
    lower = tf.floor(places)
    part, lower = places - lower, tf.cast(lower, tf.int32)
    upper = tf.minimum(lower + 1, shape[1:3][:, None] - 1)
    rows = (lower[:, 0], 1 - part[:, 0]), (upper[:, 0], part[:, 0])
    columns = (lower[:, 1], 1 - part[:, 1]), (upper[:, 1], part[:, 1])
    indices, weights = [], []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        row += numbers[:, None] * height
        cell = tf.reshape(row[:, :, None] * width + column[:, None], [-1])
        indices.append(tf.stack([tf.range(tf.size(cell)), cell], axis=1))
        weights.append(tf.reshape(row_weight[:, :, None] * column_weight[:, None], [-1]))
    indices = tf.cast(tf.concat(indices, axis=0), tf.int64)
    gradient = tf.reshape(gradient, [-1, shape[3]])
    cells = tf.stack([tf.shape(gradient)[0], shape[0] * height * width])
    matrix = tf.SparseTensor(indices, tf.concat(weights, axis=0), tf.cast(cells, tf.int64))
    return tf.reshape(tf.sparse.sparse_dense_matmul(matrix, gradient, adjoint_a=True), shape)
