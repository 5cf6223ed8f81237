"""Architecture of the network: blocks, variable names and shapes.

Source: spec section 2. Pure Python, so checkpoints and exports can be checked without TensorFlow.
Variables are addressed by the names they have in the released checkpoints, never by `v.name`.
"""

import fnmatch
import math
from collections.abc import Iterable
from typing import NamedTuple

from data.common.errors import UserError

BLOCKS = {  # depth -> number of blocks in each stage
    14: (1, 1, 1, 1),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
STEM = "init/init_conv"
FINAL_NORM = "global_pool/bn"
DENSE_KERNEL = "logits/dense/kernel"
DENSE_BIAS = "logits/dense/bias"

OUTPUT_STRIDES = (8, 16, 32)
"""Image size divided by the size of the last map: 32 as released, less for dense prediction."""

_STEM_SIZE, _STEM_STRIDE = 7, 2
_NORM_PARTS = ("gamma", "beta", "moving_mean", "moving_variance")


class PreActConv(NamedTuple):
    """Batch norm `{name}_bn`, ReLU, then the convolution `{name}` (kernel `size` x `size`)."""

    name: str
    size: int
    inputs: int
    outputs: int
    stride: int = 1
    dilation: int = 1


class Block(NamedTuple):
    """A residual block: `branch` units in sequence plus the shortcut (None: the raw input)."""

    stage: int
    index: int
    branch: tuple[PreActConv, ...]
    shortcut: PreActConv | None

    def units(self) -> tuple[PreActConv, ...]:
        """All units, the shortcut's first."""
        return self.branch if self.shortcut is None else (self.shortcut, *self.branch)

    def with_stride(self, stride: int) -> "Block":
        """The same block without dilation; `stride` applies if it is the first of its stage."""
        first = self.index == 0
        branch = tuple(
            unit._replace(stride=stride if first and unit.size > 1 else 1, dilation=1)
            for unit in self.branch
        )
        shortcut = self.shortcut and self.shortcut._replace(stride=stride)
        return self._replace(branch=branch, shortcut=shortcut)


def kernel_name(conv: str) -> str:
    """Checkpoint name of a convolution's kernel [height, width, inputs, outputs]."""
    return f"{conv}/conv2d/kernel"


def norm_names(norm: str) -> tuple[str, ...]:
    """Checkpoint names of a batch norm's gamma, beta, moving mean and moving variance."""
    return tuple(f"{norm}/batch_normalization/{part}" for part in _NORM_PARTS)


def is_batch_norm(name: str) -> bool:
    """Whether a checkpoint name belongs to a batch norm (spec section 3: not decayed)."""
    return "/batch_normalization/" in name


def is_trainable(name: str) -> bool:
    """Whether a network variable, by its checkpoint name, is not a moving statistic."""
    return not name.endswith(_NORM_PARTS[2:])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a checkpoint name matches one of the patterns, such as `stages_3_*`."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def blocks(resnet_size: int, width: int = 64, output_stride: int = 32) -> tuple[Block, ...]:
    """The residual blocks from input to output (spec section 2), for a stem of `width` filters.

    Once the map is `output_stride` times smaller than the image, later stages keep its size: their
    3 x 3 kernels are dilated instead, so that they read the same pixels as with strides. Every
    second row and column of the map at output stride 16 is the map at output stride 32.

    Raises UserError if the depth is not in `BLOCKS` or the output stride not in `OUTPUT_STRIDES`.
    """
    if resnet_size not in BLOCKS:
        raise UserError(f"resnet_size is {resnet_size}: use one of {sorted(BLOCKS)}")
    if output_stride not in OUTPUT_STRIDES:
        raise UserError(f"output_stride is {output_stride}: use one of {OUTPUT_STRIDES}")
    made, inputs = [], width
    reached, dilation = _STEM_STRIDE, 1
    for stage, count in enumerate(BLOCKS[resnet_size]):
        inner, stride = width << stage, 2 if reached < output_stride else 1
        for index in range(count):
            made.append(_block(stage, index, inputs, inner, stride if index == 0 else 1, dilation))
            inputs = 4 * inner
            if index == 0:  # after this block: its own kernel reads the map of the previous stage
                reached, dilation = reached * stride, dilation * (2 // stride)
    return tuple(made)


def _block(stage: int, index: int, inputs: int, inner: int, stride: int, dilation: int) -> Block:
    name, outputs = f"stages_{stage}_block_{index}", 4 * inner
    branch = (
        PreActConv(f"{name}/conv1_b2", 1, inputs, inner),
        PreActConv(f"{name}/conv2_b2", 3, inner, inner, stride, dilation),
        PreActConv(f"{name}/conv3_b2", 1, inner, outputs),
    )
    shortcut = PreActConv(f"{name}/conv1_b1", 1, inputs, outputs, stride) if index == 0 else None
    return Block(stage, index, branch, shortcut)


def variable_shapes(
    resnet_size: int, class_num: int, width: int = 64
) -> dict[str, tuple[int, ...]]:
    """Checkpoint name -> shape of every variable of the network, in network order."""
    shapes = {kernel_name(STEM): (_STEM_SIZE, _STEM_SIZE, 3, width)}
    for block in blocks(resnet_size, width):
        for unit in block.units():
            shapes |= dict.fromkeys(norm_names(f"{unit.name}_bn"), (unit.inputs,))
            shapes[kernel_name(unit.name)] = (unit.size, unit.size, unit.inputs, unit.outputs)
    features = 32 * width
    shapes |= dict.fromkeys(norm_names(FINAL_NORM), (features,))
    shapes[DENSE_KERNEL] = (features, class_num)
    shapes[DENSE_BIAS] = (class_num,)
    return shapes


def parameter_count(resnet_size: int, class_num: int, width: int = 64) -> int:
    """The number of trainable parameters (spec section 2: moving statistics do not count)."""
    shapes = variable_shapes(resnet_size, class_num, width)
    return sum(math.prod(shape) for name, shape in shapes.items() if is_trainable(name))
