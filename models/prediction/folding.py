"""The network for inference alone, its batch norms folded into convolutions where possible.

In a pre-activation block (spec section 2) a batch norm that follows a convolution of the same
block is an affine function of that convolution's output: its scale goes into the kernel, its
offset becomes a bias. A block's first batch norm and the last one of the network do not follow
a convolution of the same block, so they stay.
"""

import itertools
from typing import Any

import tensorflow as tf

from models.architecture import kernel_name, norm_names
from models.layers import scale_and_shift
from models.resnet import ResNet


class FoldedResNet(ResNet):
    """A `ResNet` whose variables are filled once and then folded; it cannot be trained.

    `fold` is called after the checkpoint has been restored: until then it is the plain network.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._offsets: dict[str, tf.Variable] = {}

    def fold(self) -> "FoldedResNet":
        """Folds two of the three batch norms of every block; returns the network itself."""
        for block in self._blocks:
            for before, after in itertools.pairwise(block.branch):
                norm = f"{after.name}_bn"
                values = [self._by_name[name] for name in norm_names(norm)]
                scale, offset = scale_and_shift(*values, self._epsilon)
                kernel = self._by_name[kernel_name(before.name)]
                kernel.assign(kernel * scale)
                self._offsets[norm] = tf.Variable(offset, trainable=False)
        return self

    def _norm_relu(self, x: tf.Tensor, name: str, training: bool, moments: dict) -> tf.Tensor:
        offset = self._offsets.get(name)
        if offset is None or training:
            return super()._norm_relu(x, name, training, moments)
        offset = tf.cast(offset, x.dtype)
        return tf.nn.relu(tf.nn.bias_add(x, offset, data_format=self.data_format))
