"""Weights in the file formats of PyTorch, NumPy and Keras: reads all three, writes PyTorch's.

`.safetensors` holds a PyTorch state dict with the names of timm's `ResNetV2`: convolution kernels
are OIHW, the dense kernel is [C, features]. `.npz`, `.h5` and `.hdf5` hold arrays in TensorFlow's
layout whose names end in the checkpoint's names: the prefix of the layer's name and the suffix `:0`
that Keras 2 adds are ignored. Pickles (`.pth`, `.pt`) are refused, because reading one runs code.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from models.architecture import (
    BLOCKS,
    DENSE_BIAS,
    DENSE_KERNEL,
    FINAL_NORM,
    STEM,
    blocks,
    kernel_name,
    norm_names,
    variable_shapes,
)
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError

_NORM_PARTS = ("weight", "bias", "running_mean", "running_var")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Reads a weight file: checkpoint name -> float32 array, for every variable of the network.

    Raises CheckpointError: the file is damaged or of another kind, an array is missing, extra or
    of the wrong shape, or the library that reads this kind of file is not installed.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".h5": _read_hdf5}
    reader = readers.get(path.suffix.replace(".hdf5", ".h5"))
    if reader is None:
        raise CheckpointError(f"{path}: weights can be read only from {', '.join(readers)}")
    try:
        tensors = reader(path)
    except ImportError as error:
        raise CheckpointError(f"{path}: {error}; pip install -e '.[export]'") from error
    except Exception as error:  # Each library raises its own types; none may end in a traceback.
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    kept = checkpoint.not_matching(tensors, checkpoint.TRAINING_STATE)
    shapes = {name: tensors[name].shape for name in kept}
    wanted = variable_shapes(*checkpoint.sizes_of(str(path), shapes))
    checkpoint.compare(str(path), wanted, shapes)
    return {name: np.asarray(tensors[name], np.float32) for name in wanted}


def write_checkpoint(
    prefix: str, tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]
) -> str:
    """Saves a checkpoint and reads it back; arguments and result as in `checkpoint.save`.

    Raises CheckpointError: it cannot be saved, or does not read back as it was written.
    """
    prefix = checkpoint.save(prefix, tensors, meta)
    written = checkpoint.read(prefix)
    for name, value in tensors.items():
        if not np.array_equal(written.tensor(name), value, equal_nan=True):
            raise CheckpointError(f"{prefix}: {name} does not read back as it was written")
    return prefix


def write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], resnet_size: int, epsilon: float
) -> None:
    """Writes the safetensors file that `load` of models/export/pytorch_network.py reads.

    Args:
      tensors: checkpoint name -> array of the network's variables.
      resnet_size: depth.
      epsilon: of batch norm.

    Raises ImportError if safetensors is not installed.
    """
    from safetensors.numpy import save

    class_num, width = len(tensors[DENSE_BIAS]), tensors[kernel_name(STEM)].shape[-1]
    sizes = {"resnet_size": resnet_size, "class_num": class_num, "width": width}
    metadata = {"format": "pt", "batch_norm_epsilon": repr(epsilon)}
    metadata |= {name: str(value) for name, value in sizes.items()}
    path.write_bytes(save(to_pytorch(tensors, resnet_size), metadata))


def pytorch_names(resnet_size: int) -> dict[str, str]:
    """PyTorch name -> checkpoint name of each variable, in network order."""
    names = {"stem.conv.weight": kernel_name(STEM)}
    for block in blocks(resnet_size):
        base = f"stages.{block.stage}.blocks.{block.index}"
        if block.shortcut is not None:
            names |= _pytorch_norm(f"{base}.downsample.norm", f"{block.shortcut.name}_bn")
            names[f"{base}.downsample.conv.weight"] = kernel_name(block.shortcut.name)
        for number, unit in enumerate(block.branch, start=1):
            names |= _pytorch_norm(f"{base}.norm{number}", f"{unit.name}_bn")
            names[f"{base}.conv{number}.weight"] = kernel_name(unit.name)
    names |= _pytorch_norm("norm", FINAL_NORM)
    return names | {"head.fc.weight": DENSE_KERNEL, "head.fc.bias": DENSE_BIAS}


def _pytorch_norm(pytorch_name: str, checkpoint_name: str) -> dict[str, str]:
    parts = zip(_NORM_PARTS, norm_names(checkpoint_name), strict=True)
    return {f"{pytorch_name}.{part}": name for part, name in parts}


def to_pytorch(tensors: Mapping[str, np.ndarray], resnet_size: int) -> dict[str, np.ndarray]:
    """The PyTorch state dict of checkpoint tensors: kernels HWIO become OIHW."""
    return {
        name: _transposed(tensors[checkpoint_name], (3, 2, 0, 1))
        for name, checkpoint_name in pytorch_names(resnet_size).items()
    }


def from_pytorch(state_dict: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The checkpoint tensors of a PyTorch state dict: kernels OIHW become HWIO.

    The prefix `module.` that a wrapper adds and the counters `num_batches_tracked` are dropped.
    A name that is not the network's is kept, so that `read` can list it.
    """
    known = {theirs: ours for depth in BLOCKS for theirs, ours in pytorch_names(depth).items()}
    plain = {name.removeprefix("module."): value for name, value in state_dict.items()}
    return {
        known.get(name, name): _transposed(value, (2, 3, 1, 0))
        for name, value in plain.items()
        if not name.endswith("num_batches_tracked")
    }


def _transposed(value: np.ndarray, kernel_axes: tuple[int, ...]) -> np.ndarray:
    """A convolution kernel with axes in the order `kernel_axes`, or a dense kernel transposed."""
    axes = kernel_axes if value.ndim == 4 else tuple(reversed(range(value.ndim)))
    return np.ascontiguousarray(value.transpose(axes))


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return from_pytorch(load_file(path))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return _by_checkpoint_name(dict(arrays))


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    found = {}

    def collect(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path, "r") as file:
        file.visititems(collect)
    return _by_checkpoint_name(found)


def _by_checkpoint_name(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Shortens each name to the checkpoint name that it ends in; keeps names that end in none.

    Raises CheckpointError if two arrays get the same name.
    """
    known = {name for depth in BLOCKS for name in variable_shapes(depth, 1)}
    renamed = {}
    for name, value in arrays.items():
        plain = name.split(":")[0]
        parts = plain.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        short = next((ending for ending in endings if ending in known), plain)
        if short in renamed:
            raise CheckpointError(f"two arrays have the name {short}; the second is {name}")
        renamed[short] = value
    return renamed
