"""The files of a checkpoint: the V2 format of TensorFlow 1's name-based `Saver`, and a JSON.

Source: spec section 2. A checkpoint is `PREFIX.index`, `PREFIX.data-*`, and, ours, `PREFIX.json`
with what tensors do not hold (flags, versions, loss scale). It exists when its index does: that is
renamed into place last, so a run that is killed while saving leaves only files that nobody reads.
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

from data.common import state
from data.common.errors import UserError
from models.architecture import is_trainable

GLOB_CHARACTERS = set("*?[\\")
MOMENTUM = "/Momentum"
AVERAGE = "/ExponentialMovingAverage"

_NAMES_SHOWN = 8
# In the order in which they appear: the index last.
_SUFFIXES = (".data-00000-of-00001", ".json", ".index")
# What TensorFlow's reader raises for absent, cut and altered files.
_READ_ERRORS = (tf.errors.OpError, ValueError, RuntimeError, IndexError)
_META = {
    "flags?": {"*": state.is_anything},
    "progress?": {"*": state.is_number},
    "versions": {"*": state.is_text},
    "*": state.is_anything,
}
_META_FORM = "checkpoint"
_META_REMEDY = (
    "put back a copy or take an earlier checkpoint; the weights are whole, but flags and the"
    " place in the data are not known"
)
_OPERATION_NOISE = re.compile(r"^\{\{.*?\}\} | \[Op:\w+\]$")


class CheckpointError(UserError):
    """A checkpoint that is absent, damaged, or not of the network at hand."""


class Checkpoint:
    """Names, shapes and, one at a time, tensors of a checkpoint.

    `average=True` shows the moving average of each weight (`NAME/ExponentialMovingAverage`) under
    the name of the weight.
    """

    def __init__(self, prefix: str | Path, average: bool = False) -> None:
        self.prefix = str(prefix)
        if not Path(f"{self.prefix}.index").is_file():
            raise CheckpointError(f"no checkpoint {self.prefix}: {self.prefix}.index is missing")
        try:
            self._reader = tf.train.load_checkpoint(self._plain_prefix())
            stored = self._reader.get_variable_to_shape_map()
        except _READ_ERRORS as error:
            raise CheckpointError(f"{self.prefix}.index cannot be read: {_line(error)}") from error
        self._stored = {name: name for name in stored}
        if average:
            self._show_averages()
        self.shapes = {name: tuple(stored[self._stored[name]]) for name in sorted(self._stored)}

    def _plain_prefix(self) -> str:
        """The prefix, or another one of the same files where TensorFlow would take it for a glob.

        Those other names last as long as this object: tensors are read when they are asked for.
        """
        if not set(self.prefix) & GLOB_CHARACTERS:
            return self.prefix
        self._links = tempfile.TemporaryDirectory()
        for path in files_of(self.prefix):
            suffix = path.name.removeprefix(Path(self.prefix).name)
            os.symlink(path.absolute(), f"{self._links.name}/ckpt{suffix}")
        return f"{self._links.name}/ckpt"

    def _show_averages(self) -> None:
        names = [n for n in self._stored if not n.endswith((MOMENTUM, AVERAGE))]
        averaged = {name: name + AVERAGE for name in names if name + AVERAGE in self._stored}
        lacking = [n for n in names if "/" in n and is_trainable(n) and n not in averaged]
        if lacking or not averaged:
            raise CheckpointError(
                f"checkpoint {self.prefix} has no moving average of {some(lacking)}"
            )
        self._stored = {name: averaged.get(name, name) for name in names}

    def tensor(self, name: str) -> np.ndarray:
        """The array called `name`; its checksum is verified on the way."""
        try:
            return self._reader.get_tensor(self._stored[name])
        except KeyError:
            raise CheckpointError(f"checkpoint {self.prefix} has no variable {name}") from None
        except _READ_ERRORS as error:
            raise CheckpointError(
                f"checkpoint {self.prefix} is damaged, {name} cannot be read: {_line(error)}"
            ) from error

    def meta(self) -> dict[str, Any]:
        """The JSON next to the checkpoint; empty where there is none, as for released ones."""
        path = Path(f"{self.prefix}.json")
        try:
            return state.read_document(path, _META_FORM, _META, _META_REMEDY)
        except FileNotFoundError:
            return {}
        except state.StateError as error:
            raise CheckpointError(str(error)) from None


def read(prefix: str | Path, average: bool = False) -> Checkpoint:
    """Opens a checkpoint, see `Checkpoint`. Raises CheckpointError."""
    return Checkpoint(prefix, average)


def versions() -> dict[str, str]:
    """Versions of what a resumed run should find again."""
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
      meta: what goes into the JSON, besides `versions`.

    Raises CheckpointError (disk full, no permission); older checkpoints are then untouched.
    """
    prefix = str(prefix)
    temporary = f"{prefix}.tmp-{os.getpid()}"
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        _write_tensors(temporary, tensors)
        _write_meta(temporary, meta)
        for suffix in _SUFFIXES:
            sync(f"{temporary}{suffix}")
        # Never the old index next to the new data.
        Path(f"{prefix}.index").unlink(missing_ok=True)
        for suffix in _SUFFIXES:
            os.replace(f"{temporary}{suffix}", f"{prefix}{suffix}")
        sync(Path(prefix).parent)
    except (OSError, tf.errors.OpError) as error:
        raise CheckpointError(f"checkpoint {prefix} cannot be saved: {_line(error)}") from error
    finally:
        remove(temporary)
    return prefix


def save_meta(prefix: str | Path, meta: Mapping[str, Any]) -> None:
    """Replaces the JSON of a checkpoint, and leaves its tensors. Raises CheckpointError."""
    try:
        _write_meta(str(prefix), meta)
    except OSError as error:
        raise CheckpointError(f"{prefix}.json cannot be saved: {_line(error)}") from error


def files_of(prefix: str | Path) -> list[Path]:
    """Every file of a checkpoint, finished or not, temporary ones included."""
    prefix = Path(prefix)
    pattern = f"{glob.escape(prefix.name)}.*"
    return sorted(path for path in prefix.parent.glob(pattern) if path.is_file())


def remove(prefix: str | Path) -> None:
    """Deletes a checkpoint, its index first, so that half of one is never taken for a whole."""
    Path(f"{prefix}.index").unlink(missing_ok=True)
    for path in files_of(prefix):
        path.unlink(missing_ok=True)


def sync(path: str | Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def some(names: Iterable[str]) -> str:
    """The first few of `names` for an error message, and how many more there are."""
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
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return _OPERATION_NOISE.sub("", lines[0])
