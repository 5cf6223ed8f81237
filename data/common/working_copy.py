"""The temporary folder with a process's working copies of files at URLs (mirror.py).

The copy of `s3://bucket/run` is `files/s3/bucket/run`. Each file that is at its URL has a record in
`records`: its state when it was last the same in both places. Each record is a separate file, so
that threads and forked workers need no coordination.

The folder is removed when the process ends. The next process that makes such a folder removes those
of killed processes, which it recognizes by the lock that the kernel has released.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import threading
from pathlib import Path
from typing import NamedTuple

from data.common.errors import UserError

_NAME = "ml-images-"
_LOCK = ".lock"


class Record(NamedTuple):
    """A file when it was last the same here and at its URL.

    `version` is that of `storage.StoredFile`, "" after an upload, when it is unknown;
    `is_placeholder`: only the size is here, not the content.
    """

    size: int
    mtime_ns: int
    version: str
    is_placeholder: bool


class WorkingCopy:
    """A new temporary folder, for this process and those that it forks.

    Attributes:
        root: the folder, readable only by the user.
        files: the folder of the copies.
    """

    def __init__(self) -> None:
        parent = os.path.realpath(tempfile.gettempdir())
        for lock in Path(parent).glob(f"{_NAME}*/{_LOCK}"):
            _sweep(lock)
        self.root = tempfile.mkdtemp(prefix=_NAME, dir=parent)
        self.files, self._records = f"{self.root}/files", f"{self.root}/records"
        self._owner = os.getpid()
        # Renamed only after locking it, because another process may be looking for free locks.
        self._lock = os.open(f"{self.root}/new", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        os.rename(f"{self.root}/new", f"{self.root}/{_LOCK}")
        # systemd-tmpfiles deletes old files, but skips a locked folder and all that is in it.
        self._folder = os.open(self.root, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(self._folder, fcntl.LOCK_SH)

    @property
    def is_ours(self) -> bool:
        """Whether this process created the folder, rather than a parent that forked it."""
        return self._owner == os.getpid()

    @property
    def is_kept(self) -> bool:
        """Whether `keep` was called, by any process."""
        return not os.path.exists(f"{self.root}/{_LOCK}")

    def keep(self) -> None:
        """Keeps the folder when the processes end."""
        Path(self.root, _LOCK).unlink(missing_ok=True)

    def remove(self) -> None:
        """Removes the folder, unless `keep` was called."""
        if not self.is_kept:
            shutil.rmtree(self.root, ignore_errors=True)
        os.close(self._lock)
        os.close(self._folder)

    def path_of(self, url: str) -> str:
        """The path of the copy of a file or folder. Raises UserError for a URL without one."""
        protocol, _, rest = url.partition("://")
        names = rest.strip("/").split("/")
        if protocol in ("file", "local"):
            raise UserError(f"{url}: give a local path, without {protocol}://")
        if not all(names) or {".", ".."} & set(names) or "\0" in url:
            raise UserError(f"{url}: a name in it is empty, . or ..")
        return "/".join((self.files, protocol, *names))

    def url_of(self, path: str | os.PathLike[str]) -> str | None:
        """The URL of a copy; "" for the folder of all copies, None for other paths."""
        path = os.fspath(path)
        if path == self.files:
            return ""
        if not path.startswith(f"{self.files}/"):
            return None
        protocol, _, rest = path.removeprefix(f"{self.files}/").partition("/")
        return f"{protocol}://{rest}"

    def shown(self, text: str) -> str:
        """The text with URLs in place of the paths of their copies."""
        return re.sub(re.escape(self.files) + r"/([A-Za-z][\w+.-]*)/", r"\1://", text)

    def record(self, path: str | os.PathLike[str]) -> Record | None:
        """The record of a file; None if it is not at its URL."""
        try:
            return Record(*json.loads(self._record_path(path).read_bytes()))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def note(self, path: str | os.PathLike[str], record: Record | None) -> None:
        """Replaces the record of a file; None: it is no longer at its URL."""
        known = self._record_path(path)
        if record is None:
            known.unlink(missing_ok=True)
        else:
            known.parent.mkdir(parents=True, exist_ok=True)
            unfinished = Path(self.root, f"{os.getpid()}-{threading.get_ident()}.tmp")
            unfinished.write_text(json.dumps(record))
            os.replace(unfinished, known)

    def recorded(self, path: str | os.PathLike[str]) -> set[str]:
        """The files at or below a path that are at their URLs."""
        known = files_at(self._record_path(path))
        return {self.files + file.removeprefix(self._records) for file in known}

    def _record_path(self, path: str | os.PathLike[str]) -> Path:
        return Path(self._records + os.fspath(path).removeprefix(self.files))


def files_at(path: str | os.PathLike[str]) -> set[str]:
    """A file, or all files below a folder; empty if neither exists.

    Raises:
        OSError: a folder cannot be listed; its files must not count as deleted.
    """

    def fail(error: OSError) -> None:
        if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise error

    if os.path.isfile(path):
        return {os.fspath(path)}
    walk = os.walk(path, onerror=fail)
    return {os.path.join(folder, name) for folder, _, names in walk for name in names}


def _sweep(lock: Path) -> None:
    """Removes a folder of this user whose lock is free."""
    folder = os.lstat(lock.parent)
    if folder.st_uid == os.getuid() and stat.S_ISDIR(folder.st_mode):
        with contextlib.suppress(OSError), open(lock, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)
