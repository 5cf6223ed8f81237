"""Crops of an image's map: each region resampled to the same size."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import tensorflow as tf

from models.detection.boxes import STRIDE, clip

# Rounding may move a sample beyond the last cell, where `crop_and_resize` would return 0.
_CELL_MARGIN = 1e-3


def crop(image_map: tf.Tensor, boxes: tf.Tensor, size: int) -> tf.Tensor:
    """Resamples the regions `boxes` of a map of stride 16 to size x size, without averaging.

    A box is divided into size x size parts, and the map is interpolated bilinearly at the center
    of each, as torchvision's `roi_align` does with one sample per part.
    `tf.image.crop_and_resize` has another convention, which would stretch the regions: it samples
    from the first corner to the last, inclusive, in units of the map's height - 1 and width - 1.
    So we pass it the first and last center. Cell i of the map is centered on pixel 16 i (every
    convolution pads both sides equally), the point 16 i + 0.5 of the image. Samples beyond the
    centers of the first and last cell, where there is nothing to interpolate, move to these.

    Args:
      image_map: [1, h, w, C].
      boxes: [R, 4] in pixels; they have no gradient.

    Returns:
      float32 [R, size, size, C].
    """
    half_part = (boxes[..., 2:] - boxes[..., :2]) / (2 * size)
    points = tf.concat([boxes[..., :2] + half_part, boxes[..., 2:] - half_part], axis=-1)
    cells = tf.cast(tf.shape(image_map)[1:3], tf.float32)
    points = clip((points - 0.5) / STRIDE, tf.maximum(cells - 1 - _CELL_MARGIN, 0.0))
    # `crop_and_resize` does not support bfloat16.
    return _resample(tf.cast(image_map, tf.float32), tf.stop_gradient(points), size)


def _resample(image_map: tf.Tensor, points: tf.Tensor, size: int) -> tf.Tensor:
    """size x size samples between the corners `points` [R, 4] of a map [1, h, w, C], in cells.

    The gradient is ours: on a CPU with several threads, that of `crop_and_resize` loses addends
    (TensorFlow 2.21: its threads add to the same cell without a lock).
    """

    @tf.custom_gradient
    def resample(image_map: tf.Tensor) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        shape = tf.shape(image_map)
        whole = tf.maximum(tf.cast(shape[1:3], tf.float32) - 1, 1.0)
        first = tf.zeros(tf.shape(points)[:1], tf.int32)
        crops = tf.image.crop_and_resize(
            image_map, points / tf.tile(whole, [2]), first, [size, size]
        )
        return crops, lambda gradient: _spread(gradient, shape, points)

    return resample(image_map)


def _spread(gradient: tf.Tensor, shape: tf.Tensor, points: tf.Tensor) -> tf.Tensor:
    """The gradient for a map of this shape, from that of its crops [R, size, size, C].

    Each sample is a weighted sum of four cells, so the crops are a sparse matrix times the map.
    """
    size, width = gradient.shape[1], shape[2]
    fractions = tf.linspace(0.0, 1.0, size)
    first, last = points[:, :2, None], points[:, 2:, None]
    places = first + (last - first) * fractions  # [R, 2, size]
    lower = tf.floor(places)
    part, lower = places - lower, tf.cast(lower, tf.int32)
    upper = tf.minimum(lower + 1, shape[1:3][:, None] - 1)
    rows = (lower[:, 0], 1 - part[:, 0]), (upper[:, 0], part[:, 0])
    columns = (lower[:, 1], 1 - part[:, 1]), (upper[:, 1], part[:, 1])
    indices, weights = [], []
    for (row, row_weight), (column, column_weight) in itertools.product(rows, columns):
        cell = tf.reshape(row[:, :, None] * width + column[:, None], [-1])
        indices.append(tf.stack([tf.range(tf.size(cell)), cell], axis=1))
        weights.append(tf.reshape(row_weight[:, :, None] * column_weight[:, None], [-1]))
    indices = tf.cast(tf.concat(indices, axis=0), tf.int64)
    gradient = tf.reshape(gradient, [-1, shape[3]])
    cells = tf.stack([tf.shape(gradient)[0], shape[1] * width])
    matrix = tf.SparseTensor(indices, tf.concat(weights, axis=0), tf.cast(cells, tf.int64))
    return tf.reshape(tf.sparse.sparse_dense_matmul(matrix, gradient, adjoint_a=True), shape)
