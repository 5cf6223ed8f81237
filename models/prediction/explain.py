"""Grad-CAM heat maps: where in an image a network sees a class.

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization"
(ICCV 2017): the channels of the last map are weighted by the gradient of the class's logit and
summed, and negative values are set to 0. Our map is followed by a mean over its cells and the
classifier. So the gradient is the same in all cells, and we take it at the mean; for a linear
classifier it is the class's weights, and the heat map is that of CAM (Zhou et al., CVPR 2016).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError


class Explainer:
    """Makes heat maps of classes.

    Args:
      network: a backbone with `feature_map`, whose mean over the cells are its `features`, and
        `output_stride` s: cell (i, j) is centered on the pixel (s i, s j).
      image_size: side S of the images in pixels.

    Raises:
      UserError: the backbone has no feature map, or its map of such images is a single cell.
    """

    def __init__(self, network: Any, image_size: int) -> None:
        if not hasattr(network, "feature_map"):
            raise UserError("--explain: this backbone has no feature map")
        self._network = network
        image = tf.TensorSpec([image_size, image_size, 3], tf.float32)
        run = tf.function(self._heat, autograph=False)
        self._run = run.get_concrete_function(image, tf.TensorSpec([None], tf.int32))
        cells = self._run.output_shapes[-1]
        if cells < 2:
            raise UserError(
                f"--explain: the last map of {image_size} x {image_size} pixels is a single cell,"
                " which cannot show a location: use a network for larger images"
            )
        # The bilinear weight of each cell in each pixel of a row or a column.
        at = np.minimum(np.arange(image_size) / network.output_stride, cells - 1)
        self._to_pixels = np.maximum(0, 1 - abs(at[:, np.newaxis] - np.arange(cells)))

    def __call__(self, image: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """The heat maps of some classes over an image.

        Args:
          image: float32 [S, S, 3] in [-1, 1].
          classes: indices [L].

        Returns:
          float [L, S, S]; the largest value of a map is 1, or 0 if no cell supports the class.
        """
        heat = self._run(tf.constant(image), tf.constant(classes, tf.int32)).numpy()
        heat = heat / np.maximum(heat.max((1, 2), keepdims=True), np.finfo(np.float32).tiny)
        return self._to_pixels @ heat @ self._to_pixels.T

    def _heat(self, image: tf.Tensor, classes: tf.Tensor) -> tf.Tensor:
        """float32 [L, h, w], at least 0, of an image [S, S, 3] and classes [L]."""
        cells = self._network.feature_map(image[tf.newaxis])[0]
        features = tf.reduce_mean(cells, [0, 1])
        with tf.GradientTape() as tape:
            repeated = tf.tile(features[tf.newaxis], [tf.size(classes), 1])  # a row per class
            tape.watch(repeated)
            logits = tf.gather(self._network.logits(repeated), classes, batch_dims=1)
        weights = tape.gradient(logits, repeated)
        return tf.nn.relu(tf.einsum("hwd,ld->lhw", cells, weights))
