"""Imports weights from PyTorch, NumPy and Keras files.

`.safetensors` holds a state dict under timm's names, as `export.py` writes it. `.npz`, `.h5` and
`.hdf5` hold arrays whose names end in the checkpoint's names, in TensorFlow's layout: Keras 2
repeats a layer's name and adds `:0`, which does not matter. Pickles (`.pth`, `.pt`) run code when
they are read and so are refused.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from models.architecture import BLOCKS, variable_shapes
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Checkpoint name -> float32 array of every variable of the network in a file.

    Raises CheckpointError: a file of another kind or damaged, missing, extra or mis-shaped arrays.
    """
    path = Path(path)
    readers = {".safetensors": _read_safetensors, ".npz": _read_npz, ".h5": _read_hdf5}
    reader = readers.get(path.suffix.replace(".hdf5", ".h5"))
    if reader is None:
        raise CheckpointError(f"{path}: weights are read from {', '.join(readers)}, not from this")
    try:
        tensors = reader(path)
    except ImportError as error:
        raise CheckpointError(f"{path}: {error}; pip install -e '.[export]'") from error
    except Exception as error:  # each library has its own, and no file may end in a traceback
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    kept = checkpoint.unskipped(tensors, checkpoint.TRAINING_STATE)
    shapes = {name: tensors[name].shape for name in kept}
    wanted = variable_shapes(*checkpoint.sizes_of(str(path), shapes))
    checkpoint.compare(str(path), wanted, shapes)
    return {name: np.asarray(tensors[name], np.float32) for name in wanted}


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    from models.checkpoints.pytorch_weights import from_pytorch

    return from_pytorch(load_file(path))


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return _by_checkpoint_name(dict(arrays))


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    found = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return _by_checkpoint_name(found)


def _by_checkpoint_name(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Names cut down to the checkpoint's name that they end in; others stay as they are.

    Raises CheckpointError for two arrays of one name.
    """
    ours = {name for depth in BLOCKS for name in variable_shapes(depth, 1)}
    renamed = {}
    for name, value in arrays.items():
        plain = name.split(":")[0]
        parts = plain.split("/")
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        own = next((ending for ending in endings if ending in ours), plain)
        if own in renamed:
            raise CheckpointError(f"two arrays are {own}, {name} the second of them")
        renamed[own] = value
    return renamed
