"""TFRecord files of labeled images, read and written without TensorFlow.

A record is framed as `length uint64, masked CRC-32C of it, payload, masked CRC-32C of the payload`
(little endian). The payload is an example, see `examples.py`.

Next to `<shard>` is `<shard>.idx` with a line `offset size` for each record, the format that NVIDIA
DALI reads; `size` includes the 16 bytes of framing.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike

from data.common import mirror, storage
from data.common.block_cache import RangeReader
from data.common.errors import UserError
from data.common.files import atomic_write, rewritten
from data.common.storage import StoredFile

FRAMING_BYTES = 16
INDEX_SUFFIX = ".idx"
_LENGTH, _CRC, _HEADER = struct.Struct("<Q"), struct.Struct("<I"), struct.Struct("<QI")
_GZIP_MAGIC = b"\x1f\x8b"
_STREAMED_BYTES = 8 << 20  # per request, when a file at a URL is read sequentially

ReadAt = Callable[[int, int], bytes]
"""Offset and size of a part of a file -> its bytes, fewer where the file ends."""


class RecordError(UserError):
    """A file or a record that violates its format; the message is one line."""


class Index(NamedTuple):
    """Positions of the records of one file.

    `offsets` and `sizes` (framing included) are int64 [records], in bytes. `problem` is empty, or
    one line saying where a damaged file stops being readable; the records before that are listed.
    """

    offsets: np.ndarray
    sizes: np.ndarray
    problem: str = ""


def _masked_crc(data: bytes) -> int:
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class RecordWriter:
    """Writes `path` and `path.idx`; both appear under their names when the `with` block succeeds.

    An exception inside the block leaves no file.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self._sizes: list[int] = []
        self._rewritten = rewritten(self.path, sync=False)

    def __enter__(self) -> RecordWriter:
        self._file = self._rewritten.__enter__()
        return self

    @property
    def count(self) -> int:
        """Records written so far."""
        return len(self._sizes)

    def write(self, payload: bytes) -> None:
        """Appends one record, normally from `encode_example`."""
        length = _LENGTH.pack(len(payload))
        self._file.write(length + _CRC.pack(_masked_crc(length)))
        self._file.write(payload)
        self._file.write(_CRC.pack(_masked_crc(payload)))
        self._sizes.append(len(payload) + FRAMING_BYTES)

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            _index_path(self.path).unlink(missing_ok=True)
            mirror.push(_index_path(self.path))
        self._rewritten.__exit__(kind, *error)
        if kind is None:
            _write_index(self.path, _index(self._sizes))


def _index_path(path: Path) -> Path:
    return path.with_name(path.name + INDEX_SUFFIX)


def _index(sizes: ArrayLike, problem: str = "") -> Index:
    sizes = np.asarray(sizes, np.int64)
    return Index(np.cumsum(sizes) - sizes, sizes, problem)


def _write_index(path: Path, index: Index) -> None:
    lines = (f"{offset} {size}\n" for offset, size in zip(index.offsets, index.sizes, strict=True))
    # Not synced: an index that does not match its records is rebuilt.
    atomic_write(_index_path(path), "".join(lines), sync=False)


def read_index(path: str | os.PathLike[str]) -> Index:
    """The records of a file: from its `.idx` if that is fresh and matches, else from its headers.

    A scan of the headers writes an `.idx` if the folder is writable. A damaged file (truncated, or
    with a header that fails its CRC) is listed up to the damage, which `Index.problem` describes.

    Raises:
        RecordError: the file is not empty but has no readable record.
    """
    path = Path(path)
    stored = _stored_index(path)
    if stored is not None:
        return stored
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        index = _scan(str(path), size, lambda at, count: os.pread(file.fileno(), count, at))
    if not index.problem:
        with contextlib.suppress(OSError):  # a read-only folder: the next start scans again
            _write_index(path, index)
    return index


def read_index_at_url(file: StoredFile, ranges: RangeReader) -> Index:
    """`read_index` for a file at a URL; the result is kept in the cache of `ranges`.

    An `.idx` is used if it matches the size of the file and the header of its last record.

    Raises:
        RecordError: see `read_index`.
        UserError: see `storage.read`.
    """

    def made() -> bytes:
        index = _index_at_url(file) or _scan(file.url, file.size, _streamed(file.url))
        return b"%s\n%s" % (index.problem.encode(), index.sizes.astype("<i8").tobytes())

    problem, _, sizes = ranges.kept(file, "index", made).partition(b"\n")
    return _index(np.frombuffer(sizes, "<i8"), problem.decode())


def _index_at_url(file: StoredFile) -> Index | None:
    try:
        text = storage.read(file.url + INDEX_SUFFIX)
    except UserError:  # includes missing files for which storage says that access is denied
        return None
    index = _parsed_index(text, file.size)
    if index is None or not len(index.sizes):
        return index
    header = storage.read(file.url, int(index.offsets[-1]), _HEADER.size)
    try:
        return index if _payload_bytes(header) + FRAMING_BYTES == index.sizes[-1] else None
    except RecordError:
        return None


def _streamed(url: str) -> ReadAt:
    """Reads small parts of a file sequentially, by large requests."""
    begin, held = 0, b""

    def read(offset: int, size: int) -> bytes:
        nonlocal begin, held
        if not begin <= offset <= offset + size <= begin + len(held):
            begin, held = offset, storage.read(url, offset, max(size, _STREAMED_BYTES))
        return held[offset - begin : offset - begin + size]

    return read


def _stored_index(path: Path) -> Index | None:
    try:
        with open(_index_path(path), "rb") as file:
            text = file.read()
            fresh = os.fstat(file.fileno()).st_mtime_ns >= path.stat().st_mtime_ns
    except (FileNotFoundError, PermissionError):
        return None
    return _parsed_index(text, path.stat().st_size) if fresh else None


def _parsed_index(text: bytes, file_size: int) -> Index | None:
    """The content of an `.idx`; None if it does not match a file of this size."""
    try:
        numbers = np.array(text.split(), np.int64)
    except (ValueError, OverflowError):
        return None
    if numbers.size % 2:
        return None
    index = _index(numbers[1::2])
    agrees = np.array_equal(index.offsets, numbers[0::2])
    return index if agrees and index.sizes.sum() == file_size else None


def _scan(path: str, file_size: int, read: ReadAt) -> Index:
    sizes: list[int] = []
    at, problem = 0, ""
    while at < file_size:
        try:
            size = _payload_bytes(read(at, _HEADER.size)) + FRAMING_BYTES
            if at + size > file_size:
                raise RecordError("the file ends inside it")
        except RecordError as error:
            problem = f"{path}: record {len(sizes)} at byte {at}: {error}"
            problem += f"; the last {file_size - at} bytes are left out"
            break
        sizes.append(size)
        at += size
    if problem and not sizes:
        is_gzip = read(0, 2) == _GZIP_MAGIC
        hint = "; it is compressed, unpack it with gzip -d first" if is_gzip else ""
        raise RecordError(f"{path}: not a TFRecord file{hint}")
    return _index(sizes, problem)


def _payload_bytes(header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise RecordError("the file ends inside its header")
    length, crc = _HEADER.unpack(header)
    if crc != _masked_crc(header[:8]):
        raise RecordError("its length fails the CRC")
    return length


def read_record(fd: int, offset: int, size: int) -> bytes:
    """The payload of one record, read by one `pread` (thread-safe).

    Args:
        fd: descriptor of the open file.
        offset, size: of the record in bytes, framing included, from `read_index`.

    Raises:
        RecordError: see `payload_of`.
    """
    return payload_of(os.pread(fd, size, offset), size)


def payload_of(data: bytes, size: int) -> bytes:
    """The payload of a record from its bytes, which should be `size` long.

    Raises:
        RecordError: there are fewer bytes, or a CRC or the length does not match.
    """
    if len(data) != size:
        raise RecordError(f"{len(data)} bytes read where the record has {size}")
    if _payload_bytes(data[: _HEADER.size]) != size - FRAMING_BYTES:
        raise RecordError("its length does not match the index")
    payload = data[_HEADER.size : -4]
    if _masked_crc(payload) != _CRC.unpack(data[-4:])[0]:
        raise RecordError("its payload fails the CRC")
    return payload


def read_records(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The payloads of a file in order; a RecordError names the damaged record."""
    index = read_index(path)
    with open(path, "rb", buffering=0) as file:
        for record, (offset, size) in enumerate(zip(index.offsets, index.sizes, strict=True)):
            try:
                yield read_record(file.fileno(), int(offset), int(size))
            except RecordError as error:
                raise RecordError(f"{path}: record {record}: {error}") from error
    if index.problem:
        raise RecordError(index.problem)
