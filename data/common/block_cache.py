"""A local cache of parts of files at URLs: bounded in size, and shared by any number of processes.

A block is a file in the cache folder. Its name is a hash of URL, version, offset and size; it
begins with the CRC-32C of these and of its content, so that damaged or foreign files are detected
and read again from the URL. `.lock` is locked while the folder changes and holds the bytes of all
blocks. That number is raised before a block is written and lowered after one is deleted: a process
that is killed in between leaves it too high, never too low, and the next process that opens the
cache counts again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import google_crc32c

from data.common import storage
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.storage import StoredFile

DEFAULT_GIB = 100.0
_LOCK, _UNFINISHED = ".lock", ".unfinished"
_FREED = 0.1  # fraction of the cache freed at once: finding the oldest blocks takes a while
_CRC_BYTES = 4
_NAME = re.compile("[0-9a-f]{64}")
_log = logging.getLogger(__name__)


class BlockCache:
    """A folder of blocks; the least recently used are evicted above `max_bytes`.

    A folder that is not writable, or a full disk, is a warning: records are read without the cache.

    Raises:
        UserError: the folder is a URL.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        if storage.is_url(folder):
            raise UserError(f"--cache_dir={folder}: the cache is a folder of this machine")
        self._folder, self._max_bytes = Path(folder), max_bytes
        self._writes = True
        with self._warned():
            self._folder.mkdir(parents=True, exist_ok=True)
            with self._locked() as lock:
                total = sum(status.st_size for status, _ in self._blocks())
                self._set_total(lock, self._freed(total, 0))

    def get(self, key: str) -> bytes | None:
        """The content stored under a key; None if there is none or it is damaged."""
        path = self._folder / _name(key)
        try:
            # Whatever others put there, follow no link and wait for no pipe.
            with open(path, "rb", 0, opener=_open_plain) as file:
                stored = file.readall()
            with contextlib.suppress(OSError):  # of another user
                os.utime(path)  # used now
        except OSError:
            return None
        content = stored[_CRC_BYTES:]
        return content if stored[:_CRC_BYTES] == _crc(key, content) else None

    def put(self, key: str, content: bytes) -> None:
        """Stores content under a key, and evicts other blocks to make room."""
        block = _crc(key, content) + content
        if not self._writes or len(block) > self._max_bytes:
            return
        with self._warned(), self._locked() as lock:
            path = self._folder / _name(key)
            total = self._freed(self._total(lock), len(block))
            before = path.lstat().st_size if os.path.lexists(path) else 0  # damaged
            self._set_total(lock, total + len(block))
            try:
                atomic_write(path, block, sync=False, temporary=_UNFINISHED)
            except OSError:
                self._set_total(lock, total)
                raise
            self._set_total(lock, total + len(block) - before)

    def _freed(self, total: int, needed: int) -> int:
        """Deletes blocks until there is room, if needed; returns the bytes of those that remain."""
        if total + needed <= self._max_bytes:
            return total
        blocks = sorted(self._blocks(), key=lambda block: block[0].st_mtime_ns)
        total = sum(status.st_size for status, _ in blocks)
        for status, path in blocks:
            if total + needed <= self._max_bytes * (1 - _FREED) or not total:
                break
            os.unlink(path)
            total -= status.st_size
        return total

    def _blocks(self) -> Iterator[tuple[os.stat_result, str]]:
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        yield entry.stat(follow_symlinks=False), entry.path

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        lock = os.open(self._folder / _LOCK, flags, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (self._folder / _UNFINISHED).unlink(missing_ok=True)  # of a process that was killed
            yield lock
        finally:
            os.close(lock)

    def _total(self, lock: int) -> int:
        return int(os.pread(lock, 20, 0))

    def _set_total(self, lock: int, total: int) -> None:
        os.pwrite(lock, b"%020d" % total, 0)

    @contextlib.contextmanager
    def _warned(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            self._writes = False
            _log.warning("--cache_dir=%s is no longer written to: %s", self._folder, error)


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def _crc(key: str, content: bytes) -> bytes:
    crc = google_crc32c.value(key.encode("utf-8", "surrogateescape"))
    return google_crc32c.extend(crc, content).to_bytes(_CRC_BYTES, "little")


class RangeReader:
    """Reads parts of files at URLs, through a cache if there is one.

    Args:
        cache_dir: folder of the cache; None: there is none.
        max_bytes: maximum size of the cache.
    """

    def __init__(
        self, cache_dir: str | None = None, max_bytes: float = DEFAULT_GIB * 2**30
    ) -> None:
        self._cache = BlockCache(cache_dir, int(max_bytes)) if cache_dir else None

    def read(self, file: StoredFile, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` on, fewer where the file ends.

        Raises:
            UserError: see `storage.read`; or the file is shorter than it was when it was found.
        """

        def fetch() -> bytes:
            content = storage.read(file.url, offset, size)
            if len(content) < min(size, file.size - offset):
                raise storage.changed(file.url)
            return content

        return self.kept(file, f"{offset} {size}", fetch)

    def kept(self, file: StoredFile, what: str, make: Callable[[], bytes]) -> bytes:
        """What the cache holds for a file under this name, or what `make` returns."""
        # Without a version, a change of the file would go unnoticed.
        if self._cache is None or not file.version:
            return make()
        key = "\n".join((file.url, file.version, str(file.size), what))
        content = self._cache.get(key)
        if content is None:
            content = make()
            self._cache.put(key, content)
        return content
