"""How records are read: one at a time, or in prefetched blocks of consecutive records."""

from __future__ import annotations

import dataclasses
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np

from data.common.block_cache import DEFAULT_GIB
from data.common.errors import UserError
from data.common.storage import is_url

AHEAD = 2  # blocks that are prefetched, per reader
# Linux's names of file systems where every read waits for another machine.
_NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "gpfs", "lustre", "nfs", "nfs4", "smb3"}

Block = dict[int, tuple[int, bytes]]
"""File number -> the block's offset in that file, in bytes, and its bytes there."""


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How to read records; the fields are the flags of the same name (units there)."""

    read_order: Literal["auto", "records", "blocks"] = "auto"
    block_mib: float = 2.0
    shuffle_blocks: int = 256
    readers: int = 8
    cache_dir: str | None = None
    cache_gib: float = DEFAULT_GIB

    def in_blocks(self, path: str) -> bool:
        """Whether records of this file are read in blocks."""
        if self.read_order == "auto":
            return is_slow_to_begin(path)
        return self.read_order == "blocks"


DEFAULT_READING = ReadOptions()


def is_slow_to_begin(path: str) -> bool:
    """Whether reads of this file have a latency of milliseconds.

    True for URLs, network file systems and spinning disks; False if the system does not say.
    """
    if is_url(path):
        return True
    kind, device = _mount(os.path.realpath(path))
    return kind in _NETWORK or kind.startswith("fuse.") or _is_spinning(device)


def _mount(path: str) -> tuple[str, str]:
    """The type of the file system of a path, and the number of its device, `major:minor`."""
    found = "", "", ""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:  # not Linux
        return "", ""
    for line in filter(None, mounts.split("\n")):
        before, _, after = line.partition(" - ")
        device, _, point = before.split(" ")[2:5]
        point = point.replace("\\040", " ")
        is_above = path == point or path.startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(found[0]):
            found = point, after.split()[0], device
    return found[1], found[2]


def _is_spinning(device: str) -> bool:
    try:
        if " hypervisor " in Path("/proc/cpuinfo").read_text(encoding="utf-8"):
            return False  # a virtual disk, which always claims to be spinning
        disk = Path("/sys/dev/block", device).resolve()
        queues = [path / "queue/rotational" for path in (disk, disk.parent)]  # of a partition's
        return any(path.is_file() and path.read_text().strip() == "1" for path in queues)
    except OSError:
        return False


def block_of(record: Any, total: int, blocks: int) -> Any:
    """The block of a record, or of each [n], where `total` records are divided into `blocks`."""
    return record * blocks // total


def block_begins(total: int, blocks: int) -> np.ndarray:
    """The first record of each block, int64 [blocks + 1]; the last is `total`.

    Block sizes differ by at most one record.
    """
    return -(-np.arange(blocks + 1) * total // blocks)


class BlockReader:
    """Prefetches blocks in several threads, and keeps those used most recently.

    Args:
        load: reads the block with a given number; runs in a thread.
        kept: number of used blocks kept in memory.
        readers: number of threads.
    """

    def __init__(self, load: Callable[[int], Block], kept: int, readers: int) -> None:
        self._load, self._kept, self._most_ahead = load, kept, (AHEAD + 1) * readers
        self._pool = ThreadPoolExecutor(readers, "read block")
        self._ahead: dict[int, Future[Block]] = {}  # not used yet
        self._used: OrderedDict[int, Future[Block]] = OrderedDict()
        self._failure: UserError | None = None
        self._lock = threading.Lock()

    def block(self, number: int) -> Block:
        """The block with this number.

        Raises whatever `load` raises; after a UserError, no other block is loaded.
        """
        with self._lock:
            block = self._ahead.pop(number, None) or self._used.get(number) or self._begin(number)
            self._used[number] = block
            self._used.move_to_end(number)
            if len(self._used) > self._kept:
                self._used.popitem(last=False)
        return block.result()

    def prefetch(self, numbers: Iterable[int]) -> None:
        """Starts to read these blocks, which are used next, in this order."""
        with self._lock:
            for number in numbers:
                if number not in self._ahead and number not in self._used:
                    self._ahead[number] = self._begin(number)

    def read_ahead(self, numbers: Iterable[int]) -> None:
        """Like `prefetch`, for later use; does nothing while many prefetched blocks are unused."""
        for number in numbers:
            if len(self._ahead) < self._most_ahead:
                self.prefetch([number])

    def _begin(self, number: int) -> Future[Block]:
        return self._pool.submit(self._load_unless_failed, number)

    def _load_unless_failed(self, number: int) -> Block:
        # A server that stays away is waited for once, not again for each block in the queue.
        if self._failure:
            raise self._failure
        try:
            return self._load(number)
        except UserError as error:
            self._failure = error
            raise
