"""Weights under PyTorch's names and in its layout, as a safetensors file, both ways.

The names are those of timm's `ResNetV2`; kernels are OIHW, the dense kernel is [C, features].
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from models.architecture import (
    BLOCKS,
    DENSE_BIAS,
    DENSE_KERNEL,
    FINAL_NORM,
    STEM,
    blocks,
    kernel_name,
    norm_names,
)

_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")
_UNIT_NUMBERS = (1, 2, 3)


def names(resnet_size: int) -> dict[str, str]:
    """PyTorch's name of each variable -> its checkpoint name, in network order."""
    made = {"stem.conv.weight": kernel_name(STEM)}
    for block in blocks(resnet_size):
        base = f"stages.{block.stage}.blocks.{block.index}"
        if block.shortcut is not None:
            made |= _norm(f"{base}.downsample.norm", f"{block.shortcut.name}_bn")
            made[f"{base}.downsample.conv.weight"] = kernel_name(block.shortcut.name)
        for number, unit in zip(_UNIT_NUMBERS, block.branch, strict=True):
            made |= _norm(f"{base}.norm{number}", f"{unit.name}_bn")
            made[f"{base}.conv{number}.weight"] = kernel_name(unit.name)
    made |= _norm("norm", FINAL_NORM)
    return made | {"head.fc.weight": DENSE_KERNEL, "head.fc.bias": DENSE_BIAS}


def _norm(theirs: str, ours: str) -> dict[str, str]:
    return {
        f"{theirs}.{part}": name for part, name in zip(_NORM_PARTS, norm_names(ours), strict=True)
    }


def to_pytorch(tensors: Mapping[str, np.ndarray], resnet_size: int) -> dict[str, np.ndarray]:
    """The state dict of checkpoint tensors."""
    return {
        theirs: np.ascontiguousarray(tensors[ours].transpose(_axes(tensors[ours], (3, 2, 0, 1))))
        for theirs, ours in names(resnet_size).items()
    }


def from_pytorch(state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Checkpoint tensors of a state dict; names that are not the network's stay as they are.

    A wrapper's prefix `module.` and the counts `num_batches_tracked` are dropped.
    """
    ours = {theirs: name for depth in BLOCKS for theirs, name in names(depth).items()}
    plain = {name.removeprefix("module."): value for name, value in state.items()}
    return {
        ours.get(name, name): np.ascontiguousarray(value.transpose(_axes(value, (2, 3, 1, 0))))
        for name, value in plain.items()
        if not name.endswith("num_batches_tracked")
    }


def _axes(value: np.ndarray, kernel_axes: tuple[int, ...]) -> tuple[int, ...]:
    return kernel_axes if value.ndim == 4 else tuple(reversed(range(value.ndim)))


def write(path: Path, tensors: Mapping[str, np.ndarray], resnet_size: int, epsilon: float) -> None:
    """Writes the safetensors file that `pytorch_network.load` reads."""
    class_num, width = len(tensors[DENSE_BIAS]), tensors[kernel_name(STEM)].shape[-1]
    shape = {"resnet_size": resnet_size, "class_num": class_num, "width": width}
    metadata = {"format": "pt", "batch_norm_epsilon": repr(epsilon)}
    metadata |= {name: str(value) for name, value in shape.items()}
    path.write_bytes(save(to_pytorch(tensors, resnet_size), metadata))
