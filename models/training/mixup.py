"""Mixup: training on blends of two images and their labels (Zhang et al., arXiv 1710.09412)."""

import tensorflow as tf

from models.losses import mix_labels

TINY = 1e-30  # both draws may round to 0 when alpha is small


class Mixup:
    """Blends every image of a batch with another image of the batch.

    One fraction per batch, from Beta(alpha, alpha): a stateless function of (seed, step, rank), so
    a resumed run blends as the uninterrupted one would. The partner of image i is image B-1-i, as
    in timm: the batch is in random order already.
    """

    def __init__(self, alpha: float, seed: int, rank: int = 0) -> None:
        self._alpha, self._seed, self._rank = alpha, seed, rank

    def __call__(
        self, images: tf.Tensor, index: tf.Tensor, value: tf.Tensor, step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Blended images [B, H, W, 3] and padded-sparse labels [B, 2K].

        Args:
          images: float32 [B, H, W, 3].
          index, value: padded-sparse labels [B, K].
          step: int64 [].
        """
        key = tf.stack([tf.constant(self._seed, tf.int64), step * 2**16 + self._rank])
        first, second = tf.unstack(tf.random.stateless_gamma([2], key, self._alpha))
        fraction = first / tf.maximum(first + second, TINY)
        order = tf.range(tf.shape(images)[0])[::-1]
        blended = fraction * images + (1.0 - fraction) * tf.gather(images, order)
        return blended, *mix_labels(index, value, order, fraction)
