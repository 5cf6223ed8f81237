"""The network and its preprocessing as a SavedModel: from image files to class names."""

from collections.abc import Callable, Sequence
from pathlib import Path

import tensorflow as tf

from models.calibration import Calibration
from models.resnet import ResNet

BYTES_SIGNATURE, TENSOR_SIGNATURE = "serving_default", "tensors"


class ServedNetwork(tf.Module):
    """A network, its preprocessing and its class names.

    Args:
      network: faster with folded batch norms.
      prepare: TensorFlow function from an encoded image (string scalar) to float32 [S, S, 3] in
        [-1, 1].
      image_size: S, in pixels.
      names: of the classes, C of them.
      calibration: how scores are computed from logits.
      top_k: number of best classes returned per image.
    """

    def __init__(
        self,
        network: ResNet,
        prepare: Callable[[tf.Tensor], tf.Tensor],
        image_size: int,
        names: Sequence[str],
        calibration: Calibration,
        top_k: int,
    ) -> None:
        super().__init__(name="served_network")
        self._network, self._prepare, self._image_size = network, prepare, image_size
        self._names = tf.constant(list(names))
        self._score, self._top_k = calibration.activate, min(top_k, len(names))

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify(self, image_bytes: tf.Tensor) -> dict[str, tf.Tensor]:
        """The best classes of image files, best first.

        Args:
          image_bytes: string [B], the contents of JPEG or PNG files.

        Returns:
          `names` string, `scores` float32 and `classes` int32, each [B, top_k].
        """
        side = self._image_size
        images = tf.map_fn(
            self._prepare,
            image_bytes,
            fn_output_signature=tf.TensorSpec([side, side, 3], tf.float32),
        )
        scores, classes = tf.math.top_k(self._score(self._network(images)), self._top_k)
        return {"names": tf.gather(self._names, classes), "scores": scores, "classes": classes}

    @tf.function(
        autograph=False,
        input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32, "images")],
    )
    def predict(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        """`features` [B, D], `logits` and `scores` [B, C], all float32, of preprocessed images.

        Args:
          images: float32 [B, H, W, 3], RGB in [-1, 1].
        """
        features = self._network.features(images)
        logits = self._network.logits(features)
        return {"features": features, "logits": logits, "scores": self._score(logits)}

    def save(self, path: Path) -> None:
        """Writes the SavedModel to the folder `path`, with both functions as signatures."""
        signatures = {BYTES_SIGNATURE: self.classify, TENSOR_SIGNATURE: self.predict}
        tf.saved_model.save(self, str(path), signatures=signatures)
