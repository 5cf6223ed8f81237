"""Locks on output folders and files: one job at a time, and checked to be writable.

A lock is `flock` on a file in the output folder, or next to the output file. The kernel releases it
when the process ends, however it ends; the file's content says who holds it. At a URL (mirror.py)
the lock is in the working copy, so it does not keep other jobs out.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import json
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from data.common import mirror
from data.common.errors import UserError

Result = TypeVar("Result")

# File systems without locks, such as some NFS, return one of these.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_POLL_SECONDS = 0.2

_log = logging.getLogger(__name__)
_held: set[str] = set()  # lock files of this process, which may claim an output twice
_claims = contextlib.ExitStack()
atexit.register(_claims.close)  # releases claims made outside of `run`


def run(main: Callable[[], Result]) -> Result:
    """Returns `main()`, and releases the outputs that it has claimed."""
    with _claims:
        return main()


def claim_folders(outputs: Mapping[str, str | os.PathLike], wait_seconds: float = 0) -> None:
    """Locks folders for this process until the main function ends; it may lock them repeatedly.

    Args:
        outputs: flag -> folder that the job writes into, created if missing.
        wait_seconds: how long to wait for another process, such as one of this job that is ending.

    Raises:
        UserError: an output cannot be written, or another process holds it.
    """
    for flag, folder in outputs.items():
        _claims.enter_context(_locked(f"--{flag}={folder}", Path(folder) / ".lock", wait_seconds))


def claim_file(flag: str, path: str | os.PathLike) -> None:
    """Locks a file, or a folder that will appear atomically, and creates its parent folder.

    See `claim_folders`. Anything but an ordinary file, such as a pipe, is left alone.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"--{flag}={path} is a folder: name a file")
    if path.is_file() or not path.exists():
        lock = path.with_name(f".{path.name}.lock")
        _claims.enter_context(_locked(f"--{flag}={path}", lock, 0))


@contextlib.contextmanager
def _locked(output: str, path: Path, wait_seconds: float) -> Iterator[None]:
    key = os.path.realpath(path)
    if key in _held:
        yield
        return
    if mirror.url_of(path):
        _say_that_urls_have_none()
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The output must be writable, not only lockable.
        tempfile.TemporaryFile(dir=path.parent).close()
        file = _open_locked(output, path, time.monotonic() + wait_seconds)
    except OSError as error:
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = f"{path.parent}: {'a file is in the way' if is_file else error.strerror}"
        raise UserError(f"{output} cannot be written ({reason})") from error
    _held.add(key)
    try:
        yield
    finally:
        _held.discard(key)
        with contextlib.suppress(OSError):
            path.unlink()
            if is_new:
                path.parent.rmdir()  # if it is empty: a job that failed leaves no folder behind
        os.close(file)


@functools.cache
def _say_that_urls_have_none() -> None:
    _log.info("outputs at URLs are not locked: do not start a second job that writes to them")


def _open_locked(output: str, path: Path, until: float) -> int:
    while True:
        path.parent.mkdir(exist_ok=True)  # its last holder may have removed it
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Its last holder may have removed it meanwhile.
            if os.path.exists(path) and os.path.samestat(os.fstat(file), os.stat(path)):
                os.ftruncate(file, 0)
                os.write(file, _this_process())
                return file
        except BlockingIOError:
            if time.monotonic() > until:
                holder = _holder(path)
                os.close(file)
                raise UserError(
                    f"{output} is being written by {holder}; wait for it, end it, or choose another"
                ) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                os.close(file)
                raise
            _log.warning(
                "%s: its file system has no locks: do not start a second job (%s)", output, error
            )
            return file
        os.close(file)


def _this_process() -> bytes:
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    command = " ".join(sys.argv)
    us = {"pid": os.getpid(), "host": socket.gethostname(), "since": since, "command": command}
    return json.dumps(us).encode()


def _holder(path: Path) -> str:
    try:
        them = json.loads(path.read_text(encoding="utf-8"))
        reported = f"process {them['pid']} on {them['host']} since {them['since']}"
        return f"{reported} ({them['command']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
