"""Inputs and outputs at URLs: the program uses files in a local working copy, which is synced.

Flags and arguments that are URLs become paths in the working copy (`open_folder`, `open_file`,
`open_input`). `files.rewritten` uploads each file that it completes there (`send`). Files written
in other ways are uploaded by `push`, which also deletes files at the URL that no longer exist here.
Small files at the URL are downloaded (`pull`); large ones are placeholders, sparse files of the
same size, until a reader calls `fetch`; `release` turns a file into a placeholder again. All
functions leave other paths alone.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from data.common import storage
from data.common.errors import UserError
from data.common.storage import StoredFile
from data.common.working_copy import Record, WorkingCopy, files_at

Item = TypeVar("Item")

_SMALL_BYTES = 1 << 16
_INDEX = ".idx"  # of records; we only check whether it exists
_LOGGED_BYTES = 64 << 20
_AT_ONCE = 16  # concurrent requests
_TEMPORARY = re.compile(r"/\.[^/]*\.(lock|tmp)$|/\.lock$|\.tmp-\d+\.[^/]*$|\.db-(journal|shm|wal)$")
_PROBE = ".writable.tmp"
_OF_CHECKPOINT = re.compile(r"\.(index|meta|json|data-\d{5}-of-\d{5})$")

_log = logging.getLogger(__name__)
_copy: WorkingCopy | None = None


def open_folder(flag: str, folder: str) -> str:
    """The working copy of an output folder at a URL; a local folder is returned unchanged.

    Raises:
        UserError: it cannot be read or written; names the flag.
    """
    return _open_output(flag, folder, f"{folder.rstrip('/')}/{_PROBE}", "")


def open_file(flag: str, path: str) -> str:
    """Like `open_folder`, for an output file, whose unfinished rows may be next to it."""
    head, slash, name = path.rpartition("/")
    return _open_output(flag, path, f"{head}{slash}.{name}{_PROBE}", ".partial")


def open_input(flag: str, path: str) -> str:
    """The working copy of a file, a folder, or a checkpoint's files; a local path is unchanged.

    Raises:
        UserError: it cannot be read; names the flag.
    """
    if not storage.is_url(path):
        return path
    with _names(flag):
        local = _opened().path_of(path)
        found = storage.find(path)
        folder, _, name = path.rstrip("/").rpartition("/")
        if (not found or _OF_CHECKPOINT.search(name)) and folder.partition("://")[2]:
            beginning = _OF_CHECKPOINT.sub("", name) + "."
            others = storage.find(f"{folder}/")
            found += [file for file in others if Path(file.url).name.startswith(beginning)]
        _take(found)
        if os.path.isfile(local):
            fetch(local)
    return local


def refuse(flag: str, path: str) -> str:
    """Returns a local path unchanged. Raises UserError for a URL."""
    if storage.is_url(path):
        raise UserError(f"--{flag}={path} is a URL: name a file or folder of a local disk")
    return path


def pull(path: str | os.PathLike[str]) -> None:
    """Updates the copy of a file or folder with what others have written at its URL.

    Files that have changed here since the last sync are left alone.

    Raises:
        UserError: the URL cannot be read.
    """
    if not url_of(path):
        return
    found = [file for file in storage.below(url_of(path)) if _is_safe(file)]
    for gone in _copy.recorded(path) - {_copy.path_of(file.url) for file in found}:
        if not _is_unsent(gone):
            Path(gone).unlink(missing_ok=True)
        _copy.note(gone, None)
    _take(found)


def fetch(path: str | os.PathLike[str]) -> None:
    """Downloads the content of a placeholder. Raises UserError."""
    if is_placeholder(path):
        record = _copy.record(path)
        if record.size >= _LOGGED_BYTES:
            _log.info("reading %s, %.0f MB", url_of(path), record.size / 1e6)
        _download(os.fspath(path), record.version)


def is_placeholder(path: str | os.PathLike[str]) -> bool:
    """Whether the content of a file is only at its URL."""
    record = _copy.record(path) if url_of(path) else None
    return record is not None and record.is_placeholder


def send(path: str | os.PathLike[str]) -> None:
    """Uploads a file, replacing any at its URL. Raises UserError, which says where it is kept."""
    url = url_of(path)
    if not url or _TEMPORARY.search(os.fspath(path)):
        return
    here = os.stat(path)
    try:
        storage.upload(path, url)
    except UserError as error:
        _copy.keep()
        raise UserError(f"{error}; what could not be uploaded is in {_copy.root}") from error
    _copy.note(path, Record(here.st_size, here.st_mtime_ns, "", False))


def push(path: str | os.PathLike[str]) -> None:
    """Brings the URL of a file or folder up to date: uploads, then deletions. Raises UserError."""
    if url_of(path) is None:
        return
    here = {file for file in files_at(path) if not _TEMPORARY.search(file)}
    for file in sorted(here):
        if not _is_as_recorded(file):
            send(file)
    _each(_delete, _copy.recorded(path) - here)


def release(path: str | os.PathLike[str]) -> None:
    """Turns a file that is at its URL into a placeholder, to free disk space."""
    if not url_of(path) or is_placeholder(path) or not _is_as_recorded(path):
        return
    record = _copy.record(path)
    _copy.note(path, record._replace(is_placeholder=True))
    _make_placeholder(path, record.size, record.mtime_ns)


def url_of(path: str | os.PathLike[str]) -> str | None:
    """The URL of a file or folder in a working copy; None for other paths."""
    return _copy.url_of(path) if _copy else None


def shown(text: str) -> str:
    """A text for people, with URLs in place of paths in the working copy."""
    return _copy.shown(text) if _copy else text


def finish() -> None:
    """Brings all URLs up to date at the end of a script. Raises UserError."""
    if _copy and _copy.is_ours and not _copy.is_kept:
        push(_copy.files)


def close() -> None:
    """Removes the working copy, after uploading what is not yet at its URL, if possible."""
    global _copy
    if _copy and _copy.is_ours:
        with contextlib.suppress(UserError):
            finish()
        _copy.remove()
        _copy = None


atexit.register(close)  # if no script calls it


def _opened() -> WorkingCopy:
    global _copy
    if _copy is None:
        _copy = WorkingCopy()
    return _copy


def _open_output(flag: str, path: str, probe: str, pulled: str) -> str:
    if not storage.is_url(path):
        return path
    with _names(flag):
        local = _opened().path_of(path)
        storage.write(probe, b"")
        storage.delete(probe)
        pull(local + pulled)
    return local


@contextlib.contextmanager
def _names(flag: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"--{flag}: {error}") from error


def _is_safe(file: StoredFile) -> bool:
    """Whether a file at a URL, perhaps written by others, may be in the working copy."""
    try:
        return not _TEMPORARY.search(_copy.path_of(file.url))
    except UserError:
        return False


def _take(files: Iterable[StoredFile]) -> None:
    wanted = {_copy.path_of(file.url): file for file in files if _is_safe(file)}

    def take(path: str) -> None:
        file = wanted[path]
        record = _copy.record(path)
        if _is_unsent(path) or (record and record.version and record.version == file.version):
            return
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if file.size <= _SMALL_BYTES and not path.endswith(_INDEX):
            _download(path, file.version)
        else:
            _make_placeholder(path, file.size, time.time_ns())
            try:
                here = os.stat(path)
                _copy.note(path, Record(file.size, here.st_mtime_ns, file.version, True))
            except BaseException:  # without a record, zeros would be uploaded in its place
                _copy.note(path, None)
                os.unlink(path)
                raise

    _each(take, wanted)


def _download(path: str, version: str) -> None:
    unfinished = _unfinished(path)
    storage.download(url_of(path), unfinished)
    os.replace(unfinished, path)
    here = os.stat(path)
    _copy.note(path, Record(here.st_size, here.st_mtime_ns, version, False))


def _delete(path: str) -> None:
    storage.delete(url_of(path))
    _copy.note(path, None)


def _make_placeholder(path: str | os.PathLike[str], size: int, mtime_ns: int) -> None:
    """Replaces a file at once, so that no unfinished placeholder counts as a change of it."""
    unfinished = _unfinished(path)
    with open(unfinished, "wb") as file:
        file.truncate(size)
    os.utime(unfinished, ns=(mtime_ns, mtime_ns))
    os.replace(unfinished, path)


def _unfinished(path: str | os.PathLike[str]) -> str:
    """The temporary name of a file, which `_TEMPORARY` matches."""
    folder, name = os.path.split(path)
    return f"{folder}/.{name}.{os.getpid()}.tmp"


def _is_as_recorded(path: str | os.PathLike[str]) -> bool:
    """Whether a file is unchanged since it was last the same here and at its URL."""
    record, here = _copy.record(path), os.stat(path)
    return record is not None and (here.st_size, here.st_mtime_ns) == record[:2]


def _is_unsent(path: str | os.PathLike[str]) -> bool:
    return os.path.exists(path) and not _is_as_recorded(path)


def _each(action: Callable[[Item], None], items: Iterable[Item]) -> None:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(action, items))
