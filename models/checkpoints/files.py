"""Reads and writes the files of a checkpoint, in the V2 format of TensorFlow 1's `Saver`.

Source: spec section 2. A checkpoint is `PREFIX.index`, `PREFIX.data-*`, and a file of ours,
`PREFIX.json`, with the flags, versions, classes and progress of the run. A checkpoint exists when
its index exists. The index is renamed into place last, so a run that is killed while saving leaves
only files that nobody reads.
"""

import glob
import os
import platform
import re
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from data.common import mirror, state
from data.common.errors import UserError
from models.architecture import is_trainable

GLOB_CHARACTERS = set("*?[\\")
MOMENTUM = "/Momentum"
AVERAGE = "/ExponentialMovingAverage"

_NAMES_SHOWN = 8
# In the order in which they are renamed into place.
_SUFFIXES = (".data-00000-of-00001", ".json", ".index")
# TensorFlow's reader raises these for missing, truncated and altered files.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)


def _is_parent(value: Any) -> bool:
    """a class, or -1"""
    return value == -1 or state.is_count(value)


def is_positive(value: Any) -> bool:
    """a number above 0"""
    return state.is_number(value) and value > 0


def _is_bool(value: Any) -> bool:
    """true or false"""
    return isinstance(value, bool)


_META = {
    "flags?": {"*": state.is_anything},
    "progress?": {"*": state.is_number},
    "classes?": {  # `Classes.section` of data/lists/classes.py
        "names": [state.is_text],
        "sha256": state.is_sha256,
        "hierarchy?": {"parents": [_is_parent], "ids": [state.is_text]},
    },
    "calibration?": {  # of evaluate.py --calibrate; models/checkpoints/metadata.py reads it
        "temperature": is_positive,
        "thresholds?": [state.is_number],  # scores as the network gives them
        "score": state.is_text,
        "use_ema": _is_bool,
        "data": state.is_text,
        "images": state.is_count,
        "step?": state.is_count,
        "ece": {"*": state.is_number},
    },
    "versions": {"*": state.is_text},
    "*": state.is_anything,
}
_META_FORM = "checkpoint"
_META_REMEDY = (
    "restore a copy or use an earlier checkpoint; the weights are intact, but the flags and the"
    " position in the data are unknown"
)
_OPERATION_NOISE = re.compile(r"^\{\{.*?\}\} | \[Op:\w+\]$")


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another network."""


class Checkpoint:
    """An open checkpoint; tensors are read from the disk on request.

    Args:
      prefix: path without suffix.
      average: replace each weight by its moving average, `NAME/ExponentialMovingAverage`.

    Attributes:
      shapes: name -> shape of every tensor, sorted by name.

    Raises CheckpointError: it is missing or damaged, or lacks averages that `average` needs.
    """

    def __init__(self, prefix: str | Path, average: bool = False) -> None:
        self.prefix = str(prefix)
        if not Path(f"{self.prefix}.index").is_file():
            raise CheckpointError(f"no checkpoint {self.prefix}: {self.prefix}.index is missing")
        mirror.fetch(f"{self.prefix}.index")
        try:
            self._reader = tf.train.load_checkpoint(self._plain_prefix())
            stored = self._reader.get_variable_to_shape_map()
        except _READ_ERRORS as error:
            raise CheckpointError(f"{self.prefix}.index cannot be read: {_line(error)}") from error
        self._stored = {name: name for name in stored}
        if average:
            self._use_averages()
        self.shapes = {name: tuple(stored[self._stored[name]]) for name in sorted(self._stored)}

    def _plain_prefix(self) -> str:
        """The prefix for TensorFlow's reader, which would mistake one with `*` or `[` for a glob.

        In place of such a prefix, returns one of symbolic links to the same files. They exist as
        long as this object, because tensors are read later.
        """
        if not set(self.prefix) & GLOB_CHARACTERS:
            return self.prefix
        self._links = tempfile.TemporaryDirectory()
        for path in files_of(self.prefix):
            suffix = path.name.removeprefix(Path(self.prefix).name)
            os.symlink(path.absolute(), f"{self._links.name}/ckpt{suffix}")
        return f"{self._links.name}/ckpt"

    def _use_averages(self) -> None:
        """Maps the name of each weight to its moving average."""
        names = [n for n in self._stored if not n.endswith((MOMENTUM, AVERAGE))]
        averaged = {name: name + AVERAGE for name in names if name + AVERAGE in self._stored}
        lacking = [n for n in names if "/" in n and is_trainable(n) and n not in averaged]
        if lacking or not averaged:
            raise CheckpointError(
                f"checkpoint {self.prefix} has no moving average of {first_few(lacking)}"
            )
        self._stored = {name: averaged.get(name, name) for name in names}

    def tensor(self, name: str) -> np.ndarray:
        """The array `name`.

        Raises CheckpointError: there is none, or its checksum is wrong.
        """
        for path in files_of(self.prefix):
            mirror.fetch(path)
        try:
            return self._reader.get_tensor(self._stored[name])
        except KeyError:
            raise CheckpointError(f"checkpoint {self.prefix} has no variable {name}") from None
        except _READ_ERRORS as error:
            raise CheckpointError(
                f"checkpoint {self.prefix} is damaged, {name} cannot be read: {_line(error)}"
            ) from error

    def meta(self) -> dict[str, Any]:
        """The JSON next to the checkpoint; {} without one, as for the released checkpoints.

        Raises CheckpointError when the file is damaged.
        """
        path = Path(f"{self.prefix}.json")
        try:
            return state.read_document(path, _META_FORM, _META, _META_REMEDY)
        except FileNotFoundError:
            return {}
        except state.StateError as error:
            raise CheckpointError(str(error)) from None


def read(prefix: str | Path, average: bool = False) -> Checkpoint:
    """Opens a checkpoint; arguments and errors are those of `Checkpoint`."""
    return Checkpoint(prefix, average)


def versions() -> dict[str, str]:
    """Versions of Python and the libraries, stored with each checkpoint."""
    return {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "numpy": np.__version__,
    }


def save(prefix: str | Path, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
    """Writes a checkpoint that the released TF1 code can load; returns its prefix.

    Args:
      prefix: path without suffix; a checkpoint of that name is replaced.
      tensors: name -> tf.Variable, tensor, array or number (an int is stored as int64).
      meta: content of the JSON; `versions` is added.

    Raises CheckpointError (disk full, no permission); checkpoints of other names are unchanged.
    """
    prefix = str(prefix)
    temporary = f"{prefix}.tmp-{os.getpid()}"
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(temporary, tensors)
        _write_meta(temporary, meta)
        for suffix in _SUFFIXES:
            sync(f"{temporary}{suffix}")
        # A kill in between must not leave the old index next to the new data.
        _delete(f"{prefix}.index")
        for suffix in _SUFFIXES:
            os.replace(f"{temporary}{suffix}", f"{prefix}{suffix}")
        sync(Path(prefix).parent)
        for suffix in _SUFFIXES:
            mirror.send(f"{prefix}{suffix}")
        mirror.release(f"{prefix}{_SUFFIXES[0]}")
    except (OSError, tf.errors.OpError) as error:
        raise CheckpointError(f"checkpoint {prefix} cannot be saved: {_line(error)}") from error
    finally:
        remove(temporary)
    return prefix


def save_meta(prefix: str | Path, meta: Mapping[str, Any]) -> None:
    """Replaces sections of the JSON of a checkpoint, not its tensors. Raises CheckpointError."""
    kept = read(prefix).meta()
    try:
        _write_meta(str(prefix), {**kept, **meta})
    except OSError as error:
        raise CheckpointError(f"{prefix}.json cannot be saved: {_line(error)}") from error


def files_of(prefix: str | Path) -> list[Path]:
    """Every file of a checkpoint, complete or not, temporary files included."""
    prefix = Path(prefix)
    pattern = f"{glob.escape(prefix.name)}.*"
    return sorted(path for path in prefix.parent.glob(pattern) if path.is_file())


def remove(prefix: str | Path) -> None:
    """Deletes a checkpoint, its index first, so that nobody reads it half deleted."""
    for path in (f"{prefix}.index", *files_of(prefix)):
        _delete(path)


def _delete(path: str | Path) -> None:
    Path(path).unlink(missing_ok=True)
    mirror.push(path)


def sync(path: str | Path) -> None:
    """Flushes a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def first_few(names: Iterable[str]) -> str:
    """The first names, separated by commas, and the number of the others, for an error message."""
    names = list(names)
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _write_meta(prefix: str, meta: Mapping[str, Any]) -> None:
    state.write_document(f"{prefix}.json", _META_FORM, {"versions": versions(), **meta})


def _write_tensors(prefix: str, tensors: Mapping[str, Any]) -> None:
    arrays = [
        tf.convert_to_tensor(v if tf.is_tensor(v) or isinstance(v, tf.Variable) else np.asarray(v))
        for v in tensors.values()
    ]
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(arrays),
        tensors=arrays,
    )


def _line(error: Exception) -> str:
    """The first line of an error, without the name of TensorFlow's operation."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _OPERATION_NOISE.sub("", lines[0])
