"""The file `checkpoint` of a folder, TensorFlow's list of the checkpoints in it.

A first line, which is a comment to TensorFlow, has the checksum of the others; a list by TensorFlow
has none.
"""

import zlib
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from data.common.files import atomic_write
from data.common.state import damaged
from models.checkpoints.files import CheckpointError

NAME = "checkpoint"
_REMEDY = (
    "delete it, and the checkpoint of the highest step is the latest one;"
    " if it was edited on purpose, delete its first line"
)


def read(folder: Path) -> tuple[list[str], bool]:
    """Names in the list, the latest last, and whether a later checkpoint may lack in it.

    That is so in ours, where a kill may come between a checkpoint and the list. One by TensorFlow,
    or edited, is taken at its word. There are no names where there is no file.

    Raises CheckpointError: it is damaged.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
        first, _, rest = text.partition("\n")
        if first.startswith("#") and first != _sum_of(rest):
            raise ValueError("its checksum is not that of its lines")
        if not text.strip():
            raise ValueError("it is empty")
        listed = text_format.Parse(text, CheckpointState())
        paths = [*listed.all_model_checkpoint_paths, listed.model_checkpoint_path]
        if not "".join(paths).isprintable():
            raise ValueError("paths with control characters; a backslash is written twice")
    except FileNotFoundError:
        return [], True
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, text_format.ParseError) as error:
        raise CheckpointError(str(damaged(path, str(error), _REMEDY))) from None
    # The names alone: the folder may have moved since, even here from Windows.
    names = [name for path in paths if (name := PureWindowsPath(path).name)]
    return list(reversed(dict.fromkeys(reversed(names)))), first.startswith("#") or not names


def write(folder: Path, names: Sequence[str]) -> None:
    """Lists `names`, the latest last. Raises CheckpointError."""
    lines = [f'model_checkpoint_path: "{names[-1]}"\n']
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    text = "".join(lines)
    try:
        atomic_write(folder / NAME, f"{_sum_of(text)}\n{text}")
    except OSError as error:
        raise CheckpointError(f"{folder / NAME}: {error}") from error


def _sum_of(lines: str) -> str:
    return f"# crc32 {zlib.crc32(lines.encode()):08x}"
