"""Atomic writes, digests, and text files of any origin (byte-order marks, line ends)."""

from __future__ import annotations

import glob
import hashlib
import math
import os
import resource
from collections.abc import Container, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TextIO

from data.common.errors import UserError

_BLOCK_BYTES = 1 << 20
_OTHER_ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def matches(pattern: str) -> list[str]:
    """The paths that a glob matches, sorted; whatever of it exists means itself.

    So `run[1]/*.tfrecord` looks in the folder `run[1]` if there is one.
    """
    head, tail = pattern, ""
    while head and not os.path.lexists(head):
        head, name = os.path.split(head)
        tail = os.path.join(name, tail) if tail else name
    if not tail:
        return [pattern] if pattern else []
    return sorted(glob.glob(os.path.join(glob.escape(head), tail), recursive=True))


@contextmanager
def rewritten(
    path: str | os.PathLike, sync: bool = True, temporary: str | None = None
) -> Iterator[BinaryIO]:
    """A file to write, which appears under its name when the block ends well.

    A reader finds the old content or the new, never a part; nor does a power cut leave one.

    Args:
        sync: wait until the content is on the disk; many small files that a later run checks
            anyway are faster without.
        temporary: name of the file until then; by default it has the process id in it.
    """
    path = Path(path)
    unfinished = path.with_name(temporary or f".{path.name}.{os.getpid()}.tmp")
    try:
        with _created(unfinished) as file:
            yield file
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk does not say which
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise


def _created(path: Path) -> BinaryIO:
    """A file to write, in a folder that is made if it is not there."""
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
    """Writes a file at once, see `rewritten`; text as UTF-8, undecodable file names as they are."""
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    with rewritten(path, sync, temporary) as file:
        file.write(data)


def clear_leftovers(folder: str | os.PathLike, names: Container[str] | None = None) -> None:
    """Deletes what killed processes left half written in a folder: of these files, or of all."""
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
    """The whole of a UTF-8 text file, see `open_text`.

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
    """How many files to hold open: `most`, or an eighth of what the process may open.

    Its limit (`ulimit -n`) is raised for that, as far as the system lets us.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (math.inf if limit == resource.RLIM_INFINITY else limit for limit in limits)
    if soft < 8 * most:
        raised = int(min(hard, 8 * most))
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, limits[1]))
            soft = raised
    return max(1, min(most, int(min(soft, 8 * most)) // 8))
