"""Loads a checkpoint as a network for inference, and predicts batches of images with it."""

import dataclasses
import itertools
from typing import Any

import numpy as np
import tensorflow as tf

from data.common.errors import UserError
from models import backbones
from models.architecture import kernel_name, norm_names
from models.backbones import RESNET
from models.calibration import ACTIVATIONS, Calibration
from models.checkpoints import checkpoint
from models.layers import scale_and_shift
from models.resnet import ResNet

# Training flags of checkpoints that have no JSON next to them, such as the released ones.
RELEASED = {"image_size": 224, "batch_norm_epsilon": 1e-5}
STAGES = ("stage0", "stage1", "stage2", "stage3")
OUTPUTS = ("pooled", *STAGES, "logits", *ACTIVATIONS)

# Options that are read from the checkpoint unless the user sets them.
FROM_CHECKPOINT = ("resnet_size", "class_num", "image_size", "batch_norm_epsilon")


@dataclasses.dataclass(frozen=True)
class NetworkOptions:
    """How a checkpoint is loaded; the fields are the flags of the same name.

    Those of `FROM_CHECKPOINT` are read from the checkpoint if they are None; otherwise depth and
    number of classes must agree with it.
    """

    resnet_size: int | None = None
    class_num: int | None = None
    image_size: int | None = None
    batch_norm_epsilon: float | None = None
    data_format: str = "NHWC"
    precision: str = "float32"
    use_ema: bool = False
    fold_batch_norm: bool = True


@dataclasses.dataclass(frozen=True)
class Loaded:
    """A network with the weights of the checkpoint `prefix`, and the settings it was built with."""

    network: ResNet
    prefix: str
    image_size: int
    batch_norm_epsilon: float
    use_ema: bool = False

    def settings(self) -> dict[str, float]:
        """What determines the outputs besides the weights, by name."""
        return {name: getattr(self, name) for name in RELEASED}


def load(path: str, options: NetworkOptions) -> Loaded:
    """The network of a checkpoint.

    Options that are None have their training values, read from the JSON next to the checkpoint, or
    without one those of `RELEASED`.

    Args:
      path: a checkpoint's prefix or one of its files, or a folder, for the latest one in it.

    Raises:
      CheckpointError: it is missing or damaged, or of another depth or number of classes.
      UserError: the data format needs a GPU, and there is none.
    """
    prefix = checkpoint.find(path)
    found = checkpoint.describe(prefix).check(options.resnet_size, options.class_num)
    trained = RELEASED | checkpoint.read(prefix).meta().get("flags", {})
    reported = {name: trained[name] for name in RELEASED if getattr(options, name) is None}
    options = dataclasses.replace(options, **reported)
    folds = options.fold_batch_norm and found.backbone == RESNET
    network = (FoldedResNet if folds else backbones.find(found.backbone))(
        found.resnet_size,
        found.class_num,
        width=found.width,
        data_format=options.data_format,
        compute_dtype=options.precision,
        batch_norm_epsilon=options.batch_norm_epsilon,
        seed=None,
    )
    checkpoint.restore(
        prefix, network.variables_by_name(), checkpoint.TRAINING_STATE, average=options.use_ema
    )
    if folds:
        network.fold()
    built = options.image_size, options.batch_norm_epsilon, options.use_ema
    return Loaded(network, prefix, *built)


class FoldedResNet(ResNet):
    """A `ResNet` for inference, with batch norms folded into the convolutions before them.

    In a pre-activation block (spec section 2) a batch norm that follows a convolution of the same
    block scales and shifts that convolution's output: the scale goes into the kernel, the shift
    becomes a bias. A block's first batch norm, its shortcut's, and the network's last one follow
    no convolution of their block, so they stay.

    It is the plain network until `fold` is called, after the checkpoint is restored.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._offsets: dict[str, tf.Variable] = {}

    def fold(self) -> None:
        """Folds two of the three batch norms of every block; it cannot be trained afterwards."""
        for block in self._blocks:
            for before, after in itertools.pairwise(block.branch):
                norm = f"{after.name}_bn"
                values = [self._by_name[name] for name in norm_names(norm)]
                scale, offset = scale_and_shift(*values, self._norms.epsilon)
                kernel = self._by_name[kernel_name(before.name)]
                kernel.assign(kernel * scale)
                self._offsets[norm] = tf.Variable(offset, trainable=False)

    def _norm_relu(self, x: tf.Tensor, name: str, training: bool, moments: dict) -> tf.Tensor:
        offset = self._offsets.get(name)
        if offset is None or training:
            return super()._norm_relu(x, name, training, moments)
        offset = tf.cast(offset, x.dtype)
        return tf.nn.relu(tf.nn.bias_add(x, offset, data_format=self.data_format))


class Predictor:
    """Runs a network over batches of images, each of one or more crops.

    Args:
      output: one of OUTPUTS: the pooled features, a stage's pooled output, or scores of classes.
      l2_normalize: scale the output of each image to length 1.
      calibration: of class scores, if these are the output; None: raw scores.
    """

    def __init__(
        self,
        network: ResNet,
        output: str,
        l2_normalize: bool = False,
        calibration: Calibration | None = None,
    ) -> None:
        if output in STAGES and not hasattr(network, "stage_features"):
            raise UserError(f"this backbone has no {output}: use pooled or logits")
        self._network, self._output, self._l2_normalize = network, output, l2_normalize
        self._calibration = calibration or Calibration(output)
        # One trace for every batch size, including the smaller last batch.
        crops = tf.TensorSpec([None, None, None, None, 3], tf.float32)
        self._run = tf.function(self._forward, autograph=False, input_signature=[crops])

    def __call__(self, crops: np.ndarray) -> np.ndarray:
        """The output of each image, float32 [B, D].

        Args:
          crops: float32 [B, K, S, S, 3] in [-1, 1]. Features are averaged over the K crops (spec
            section 5); logits, being linear in them, are those of the average.
        """
        return self._run(crops).numpy()

    def _forward(self, crops: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(crops)
        images = tf.reshape(crops, tf.concat([[-1], shape[2:]], 0))
        if self._output in STAGES:
            features = self._network.stage_features(images, STAGES.index(self._output))
        else:
            features = self._network.features(images)
        width = features.shape[-1]
        output = tf.reduce_mean(tf.reshape(features, [shape[0], shape[1], width]), 1)
        if self._output in ("logits", *ACTIVATIONS):
            output = self._network.logits(output)
        if self._output in ACTIVATIONS:
            output = self._calibration.activate(output)
        return tf.math.l2_normalize(output, -1) if self._l2_normalize else output
