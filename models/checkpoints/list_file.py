"""The file `checkpoint` of a folder: TensorFlow's list of the checkpoints in it.

We add a first line with the checksum of the others, which is a comment to TensorFlow. A list that
TensorFlow wrote has no such line.
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
    "delete it, and the checkpoint with the highest step counts as the latest;"
    " if it was edited on purpose, delete its first line"
)


def read(folder: Path) -> tuple[list[str], bool]:
    """Names of the listed checkpoints, the latest last, and whether newer ones may be missing.

    They may be in a list with our checksum, because a run can be killed after it saved a checkpoint
    and before it wrote the list. A list that TensorFlow wrote, or that was edited, counts as
    complete. Without a file, the list is empty and may be incomplete.

    Raises CheckpointError when the file is damaged or cannot be read.
    """
    path = folder / NAME
    try:
        text = path.read_text(encoding="utf-8")
        first, _, rest = text.partition("\n")
        if first.startswith("#") and first != _checksum_line(rest):
            raise ValueError("its checksum is wrong")
        if not text.strip():
            raise ValueError("it is empty")
        listed = text_format.Parse(text, CheckpointState())
        paths = [*listed.all_model_checkpoint_paths, listed.model_checkpoint_path]
        if not "".join(paths).isprintable():
            raise ValueError("a path has control characters; a backslash is written twice")
    except FileNotFoundError:
        return [], True
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, text_format.ParseError) as error:
        raise CheckpointError(str(damaged(path, str(error), _REMEDY))) from None
    # Names without folders: the folder may have moved since, even here from Windows.
    names = [name for path in paths if (name := PureWindowsPath(path).name)]
    return list(reversed(dict.fromkeys(reversed(names)))), first.startswith("#") or not names


def write(folder: Path, names: Sequence[str]) -> None:
    """Writes the list of checkpoint names, the latest last. Raises CheckpointError."""
    lines = [f'model_checkpoint_path: "{names[-1]}"\n']
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    text = "".join(lines)
    try:
        atomic_write(folder / NAME, f"{_checksum_line(text)}\n{text}")
    except OSError as error:
        raise CheckpointError(f"{folder / NAME}: {error}") from error


def _checksum_line(lines: str) -> str:
    return f"# crc32 {zlib.crc32(lines.encode()):08x}"
