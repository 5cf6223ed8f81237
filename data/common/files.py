"""Files and folders: atomic writes, digests, walks, and text with any byte-order mark."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import resource
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from data.common import mirror
from data.common.errors import UserError

_BLOCK_BYTES = 1 << 20
_OTHER_ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}

_SYSTEM = {  # in lower case: of macOS, Windows, Linux, and of Synology's and QNAP's storage
    *("__macosx", "thumbs.db", "desktop.ini", "$recycle.bin", "recycler", "lost+found"),
    *("system volume information", "@eadir", "#recycle", "#snapshot", "@recycle"),
}


def matches(pattern: str) -> list[str]:
    """The paths that a glob matches, sorted; the leading part that exists is taken literally.

    So `run[1]/*.tfrecord` looks in the folder `run[1]` if there is one.
    """
    head, tail = pattern, ""
    while head and not os.path.lexists(head):
        head, name = os.path.split(head)
        tail = os.path.join(name, tail) if tail else name
    if not tail:
        return [pattern] if pattern else []
    return sorted(glob.glob(os.path.join(glob.escape(head), tail), recursive=True))


def files_below(
    folder: str | os.PathLike, suffixes: tuple[str, ...], skipped: Counter[str]
) -> Iterator[str]:
    """Paths of the files with these suffixes below a folder, each folder's entries sorted by name.

    Links are followed, except to a folder that contains them.

    Args:
        suffixes: in lower case, such as `.jpg`; upper case in names does not matter.
        skipped: counts other files by suffix, and hidden and system files and folders
            (`.ipynb_checkpoints`, `__MACOSX`, ...) by name.
    """
    return _walk(os.fspath(folder), suffixes, skipped, (os.path.realpath(folder),))


def subfolders(folder: Path, skipped: Counter[str]) -> list[Path]:
    """The folders and links to folders in a folder, sorted by name; hidden and system ones skipped.

    Args:
        skipped: counts hidden and system entries by name, and all files as one kind.
    """
    found = []
    for path in sorted(folder.iterdir()):
        if _is_system(str(path), skipped):
            continue
        if path.is_dir():
            found.append(path)
        else:
            skipped["files next to the folders"] += 1
    return found


def _walk(
    folder: str, suffixes: tuple[str, ...], skipped: Counter[str], above: tuple[str, ...]
) -> Iterator[str]:
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if _is_system(path, skipped):
            continue
        if os.path.isdir(path):
            real = os.path.realpath(path)
            if real in above:
                skipped["links to a folder above them"] += 1
            else:
                yield from _walk(path, suffixes, skipped, (*above, real))
        elif not name.lower().endswith(suffixes):
            skipped[os.path.splitext(name)[1].lower() or name] += 1
        elif not os.path.exists(path):
            skipped["links to nothing"] += 1
        else:
            yield path


def _is_system(path: str, skipped: Counter[str]) -> bool:
    name = os.path.basename(path)
    is_system = name.startswith(".") or name.lower() in _SYSTEM
    if is_system:
        skipped["._*" if name.startswith("._") else name] += 1
    return is_system


@contextmanager
def rewritten(
    path: str | os.PathLike, sync: bool = True, temporary: str | None = None
) -> Iterator[BinaryIO]:
    """A file to write, renamed atomically to its name when the block succeeds.

    A reader finds the old content or the new, never a part, even after a power failure. In a
    working copy (mirror.py) the file is then uploaded to its URL.

    Args:
        sync: wait until the content is on the disk; False is faster, for many small files that a
            later run checks anyway.
        temporary: name of the temporary file; by default it contains the process id.
    """
    path = Path(path)
    unfinished = path.with_name(temporary or f".{path.name}.{os.getpid()}.tmp")
    try:
        with errors_name(path):
            with _created(unfinished) as file:
                yield file
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    mirror.send(path)


@contextmanager
def errors_name(path: str | os.PathLike) -> Iterator[None]:
    """Adds this file's name to OSErrors without one, such as that of a full disk."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def _created(path: Path) -> BinaryIO:
    """Opens a file to write, and creates its folder if needed."""
    try:
        return open(path, "wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return open(path, "wb")


def atomic_write(
    path: str | os.PathLike,
    content: bytes | str,
    sync: bool = True,
    temporary: str | None = None,
) -> None:
    """Writes a file atomically, see `rewritten`; text as UTF-8, surrogates as bytes."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with rewritten(path, sync, temporary) as file:
        file.write(data)


def clear_leftovers(folder: str | os.PathLike, names: Container[str] | None = None) -> None:
    """Deletes the temporary files of killed processes in a folder, for these names or for all."""
    for leftover in Path(folder).glob(".*.tmp"):
        name = leftover.name[1:].removesuffix(".tmp").rpartition(".")[0]  # without a process id
        if names is None or name in names:
            leftover.unlink(missing_ok=True)


def sha256(path: str | os.PathLike) -> str:
    """The hexadecimal SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def open_text(path: str | os.PathLike) -> TextIO:
    """A UTF-8 text file to read, without the byte order mark that Windows editors write.

    Raises:
        UserError: it is UTF-16 or UTF-32, as "Unicode" in some Windows editors means.
    """
    refuse_other_encodings(path)
    return open(path, encoding="utf-8-sig")


def refuse_other_encodings(path: str | os.PathLike) -> None:
    """Raises UserError for a file that begins like a UTF-16 or UTF-32 text."""
    with open(path, "rb") as file:
        start = file.read(4)
    for mark, encoding in _OTHER_ENCODINGS.items():
        if start.startswith(mark):
            raise UserError(f"{os.fspath(path)}: {encoding} text; save it as UTF-8")
    if len(start) == 4 and (start[1::2] == b"\0\0") != (start[::2] == b"\0\0"):
        raise UserError(f"{os.fspath(path)}: UTF-16 text, it seems; save it as UTF-8")


def read_text(path: str | os.PathLike) -> str:
    """The content of a UTF-8 text file, see `open_text`.

    Raises:
        UserError: it is not UTF-8; names the line.
    """
    with open_text(path) as file:
        try:
            return file.read()
        except UnicodeDecodeError as error:
            line = Path(path).read_bytes()[: error.start].count(b"\n") + 1
            raise UserError(f"{os.fspath(path)}:{line}: not UTF-8; save it as UTF-8") from None


def files_at_once(most: int) -> int:
    """How many files to hold open: `most`, or an eighth of the process's limit if that is less.

    The limit (`ulimit -n`) is raised for that, as far as the system allows.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < 8 * most:
        raised = int(min(hard, 8 * most))
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, limits[1]))
            soft = raised
    return max(1, min(most, int(min(soft, 8 * most)) // 8))
