"""The folder of a training run: its checkpoints `model.ckpt-STEP` and the list of them.

The list is TensorFlow's file `checkpoint`. We add a first line with the checksum of the others,
which is a comment to TensorFlow; a list that TensorFlow wrote has no such line.
"""

import math
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from google.protobuf import text_format
from tensorflow.python.training.checkpoint_state_pb2 import CheckpointState

from data.common import mirror
from data.common.files import atomic_write
from data.common.state import damaged
from models.checkpoints.files import CheckpointError, remove, save, save_meta

LIST_FILE = "checkpoint"
_LIST_REMEDY = (
    "delete it, and the checkpoint with the highest step counts as the latest;"
    " if it was edited on purpose, delete its first line"
)
_OWN_NAME = "model.ckpt-"
_OWN_FILE = re.compile(r"(model\.ckpt-\d+)(\.tmp-\d+)?\.(index|meta|json|data-\d{5}-of-\d{5}.*)")


class CheckpointFolder:
    """The checkpoints of one run, and the list of them.

    Only the process that trains may call `save`. It also deletes the incomplete files of a run that
    was killed while saving.

    Args:
      model_dir: the folder; `save` makes it.
      max_to_keep: number of latest checkpoints that `save` keeps; 0: all. Files with other names
        are never deleted.
    """

    def __init__(self, model_dir: str | Path, max_to_keep: int = 0) -> None:
        self.model_dir, self.max_to_keep = Path(model_dir), max_to_keep

    def all(self) -> list[str]:
        """Prefixes of the complete checkpoints, the most recently saved last.

        The order is that of the list file. Unlisted checkpoints are sorted by step: before all
        others, or after them if the list may be out of date and their step is higher.

        Raises CheckpointError: the list is damaged.
        """
        names = {path.stem for path in self.model_dir.glob("*.index") if ".tmp-" not in path.name}
        entries, may_be_outdated = _read_list(self.model_dir)
        listed = [name for name in entries if name in names]
        unlisted = sorted(names.difference(listed), key=_step_of)
        last_step = _step_of(listed[-1]) if listed and may_be_outdated else math.inf
        newer = [name for name in unlisted if _step_of(name) > last_step]
        older = [name for name in unlisted if name not in newer]
        return [str(self.model_dir / name) for name in older + listed + newer]

    def latest(self) -> str | None:
        """Prefix of the most recently saved checkpoint; None when there is none."""
        return next(reversed(self.all()), None)

    def save(self, step: int, tensors: Mapping[str, Any], meta: Mapping[str, Any]) -> str:
        """Saves `model.ckpt-STEP`, lists it, and deletes the oldest above `max_to_keep`.

        The arguments `tensors` and `meta` are those of the function `save`. Returns the prefix.

        Raises CheckpointError (disk full, no permission).
        """
        self._remove_unfinished()
        prefix = save(self.model_dir / f"{_OWN_NAME}{step}", tensors, meta)
        everything = [other for other in self.all() if other != prefix] + [prefix]
        own = [other for other in everything if _OWN_FILE.fullmatch(f"{Path(other).name}.index")]
        surplus = own[: -self.max_to_keep] if self.max_to_keep else []
        _write_list(self.model_dir, [Path(p).name for p in everything if p not in surplus])
        for old in surplus:
            remove(old)
        return prefix

    def save_meta(self, step: int, meta: Mapping[str, Any]) -> None:
        """Replaces sections of the JSON next to `model.ckpt-STEP`. Raises CheckpointError."""
        save_meta(self.model_dir / f"{_OWN_NAME}{step}", meta)

    def _remove_unfinished(self) -> None:
        complete = set(self.all())
        for path in self.model_dir.glob(f"{_OWN_NAME}*"):
            own = _OWN_FILE.fullmatch(path.name)
            if own and (own[2] or str(self.model_dir / own[1]) not in complete):
                path.unlink(missing_ok=True)
        for path in self.model_dir.glob(".*.tmp"):
            if path.name.startswith((f".{_OWN_NAME}", f".{LIST_FILE}.")):
                path.unlink(missing_ok=True)


def _step_of(name: str) -> int:
    """The step at the end of a checkpoint's name; -1 for a name without one."""
    digits = re.search(r"\d+$", name)
    return int(digits[0]) if digits else -1


def _read_list(folder: Path) -> tuple[list[str], bool]:
    """Names of the listed checkpoints, the latest last, and whether newer ones may be missing.

    A list with our checksum may lack the newest: a run can be killed after it saved a checkpoint
    and before it wrote the list. A list that TensorFlow wrote, or that was edited, counts as
    complete. Without a file, the list is empty and may be incomplete.

    Raises CheckpointError when the file is damaged or cannot be read.
    """
    path = folder / LIST_FILE
    mirror.fetch(path)
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
        raise CheckpointError(str(damaged(path, str(error), _LIST_REMEDY))) from None
    # Names without folders: the folder may have moved since, even here from Windows.
    names = [name for path in paths if (name := PureWindowsPath(path).name)]
    # Reversed twice: of a name that is listed twice, the last place counts.
    return list(reversed(dict.fromkeys(reversed(names)))), first.startswith("#") or not names


def _write_list(folder: Path, names: Sequence[str]) -> None:
    """Writes the list of checkpoint names, the latest last. Raises CheckpointError."""
    lines = [f'model_checkpoint_path: "{names[-1]}"\n']
    lines += [f'all_model_checkpoint_paths: "{name}"\n' for name in names]
    text = "".join(lines)
    try:
        atomic_write(folder / LIST_FILE, f"{_checksum_line(text)}\n{text}")
    except OSError as error:
        raise CheckpointError(f"{folder / LIST_FILE}: {error}") from error


def _checksum_line(lines: str) -> str:
    return f"# crc32 {zlib.crc32(lines.encode()):08x}"
