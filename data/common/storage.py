"""Files at URLs, such as `s3://bucket/records/00000.tfrecords`, through fsspec, with retries.

The library for each kind of storage takes credentials and endpoints from its own variables and
files (`AWS_ENDPOINT_URL`, `~/.aws/credentials`, `GOOGLE_APPLICATION_CREDENTIALS`, ...).
"""

from __future__ import annotations

import contextlib
import functools
import glob
import logging
import os
import random
import re
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from data.common import storage_errors
from data.common.errors import UserError

Result = TypeVar("Result")

RETRY_SECONDS = 120.0  # how long a server may be unavailable
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # back-off between attempts, in seconds
_LOGGED_PAUSE = 1.0  # shorter back-offs are normal among many requests, and not logged
_SILENT_SECONDS = 30  # timeout of a connection
_CONNECTIONS = 64  # from this process to a server at once
_HEADS_AT_ONCE = 16  # requests for file sizes, if a listing lacks them
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE | re.ASCII)
# Few retries, a second apart, of a cluster's name nodes; listings are never cached.
_HADOOP_OPTIONS = {
    "dfs.client.failover.max.attempts": "4",
    "dfs.client.failover.sleep.max.millis": "1000",
}
_INSTALL = 'pip install -e ".[cloud]"'
_HTTP, _S3, _GOOGLE = ("http", "https"), ("s3", "s3a"), ("gs", "gcs")
_HADOOP, _LOCAL = ("hdfs", "viewfs"), ("file", "local")
_BEYOND_END = 416  # a status of HTTP
_log = logging.getLogger(__name__)
_hadoop_lock = threading.Lock()


class StoredFile(NamedTuple):
    """A file: its URL, its size in bytes, and a version that changes with its content (an ETag)."""

    url: str
    size: int
    version: str


class MissingFileError(UserError, FileNotFoundError):
    """There is no such file at the URL."""


def changed(url: str) -> UserError:
    """The error for a file that has changed since it was found."""
    return UserError(f"{url}: changed while it was being read; start again")


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL rather than in the local file system."""
    return _URL.match(os.fspath(path)) is not None


def find(pattern: str) -> list[StoredFile]:
    """The files in a folder, or those that a glob matches, or the one file; sorted by URL.

    At `https://`, a URL that ends with a slash is a folder, if the server lists it, and `?` begins
    a query.

    Raises:
        UserError: access is denied, the library is missing, or the server stays unavailable.
    """
    return _retried(pattern, lambda files, path: _find(files, path, pattern))


def below(folder: str) -> list[StoredFile]:
    """The files in a folder and all its subfolders; none if there is no such folder."""

    def walk(files: Any, path: str) -> list[StoredFile]:
        # s3fs also finds the folder itself, if its first file appears meanwhile.
        found = (i for i in files.find(path, detail=True).values() if i["type"] == "file")
        return [_stored(info, _beginning(folder, path)) for info in found]

    return sorted(_retried(folder, walk))


def read(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """`size` bytes from `offset` on, fewer where the file ends; None: all that follow.

    Raises:
        MissingFileError: there is no such file.
        UserError: see `find`; or the server does not support byte ranges.
    """
    start = offset or None if size is None else offset
    end = None if size is None else offset + size

    def fetch(files: Any, path: str) -> bytes:
        try:
            return files.cat_file(path, start=start, end=end)
        except Exception as error:
            if storage_errors.status(error) == _BEYOND_END:
                return b""
            raise

    content = _retried(url, fetch)
    if size is not None and len(content) > size:
        raise UserError(
            f"{url}: the server does not support byte ranges; copy the file to a local disk"
        )
    return content


def write(url: str, content: bytes) -> None:
    """Writes a file atomically: a reader finds the old content or the new. Raises UserError."""
    _put(url, lambda files, there: files.pipe_file(there, content))


def upload(path: str | os.PathLike[str], url: str) -> None:
    """Copies a local file to a URL, where it appears atomically. Raises UserError."""
    _put(url, lambda files, there: files.put_file(os.fspath(path), there))


def download(url: str, path: str | os.PathLike[str]) -> None:
    """Copies a file to a local one, in place; a failure leaves a partial one. Raises UserError."""
    _retried(url, lambda files, there: files.get_file(there, os.fspath(path)))


def delete(url: str) -> None:
    """Deletes a file, if it exists. Raises UserError."""

    def remove(files: Any, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # deleted by an attempt whose reply was lost
            files.rm_file(path)

    _retried(url, remove)


def check_fork() -> None:
    """Call this before a fork: raises UserError if Hadoop's client is in use, which forbids it."""
    if _hadoop_files.cache_info().currsize:
        raise UserError(
            "hdfs:// does not work in forked processes: use --processes=1, "
            "and mpirun to convert with several"
        )


def _put(url: str, put: Callable[[Any, str], None]) -> None:
    """Has `put` write a file, under a temporary name if readers could see unfinished files."""
    protocol = _protocol(url)

    def rename(files: Any, old: str, new: str) -> None:
        if protocol in _LOCAL:
            os.replace(old, new)  # fsspec's `mv` would move it into a folder of the new name
        else:
            files.mv(old, new, overwrite=True)

    def put_and_rename(files: Any, path: str) -> None:
        folder, _, name = path.rpartition("/")
        unfinished = f"{folder}/.{name}.{uuid.uuid4().hex}.tmp"
        try:
            put(files, unfinished)
            rename(files, unfinished, path)
        except BaseException:
            with contextlib.suppress(Exception):
                files.rm_file(unfinished)
            raise

    _retried(url, put_and_rename if protocol in _HADOOP + _LOCAL else put)


def _find(files: Any, path: str, pattern: str) -> list[StoredFile]:
    found = _listed(files, path, _protocol(pattern) in _HTTP)
    infos = [info for info in found if info["type"] == "file" and info["name"] != f"{path}/"]
    with ThreadPoolExecutor(_HEADS_AT_ONCE) as pool:
        sized = pool.map(
            lambda info: info if info.get("size") is not None else files.info(info["name"]), infos
        )
        return sorted(_stored(info, _beginning(pattern, path)) for info in sized)


def _listed(files: Any, path: str, is_http: bool) -> list[dict[str, Any]]:
    """What fsspec says of a file, of the entries of a folder, or of what a glob matches."""
    is_glob = glob.has_magic(path.partition("?")[0] if is_http else path)
    if is_http and (is_glob or path.endswith("/")):
        found = files.glob(path, detail=True).values() if is_glob else files.ls(path, detail=True)
        # Not the links by which Apache sorts a folder, such as `?C=N;O=D`.
        return [info for info in found if not set(info["name"]) & set("?#")]
    try:
        info = files.info(path)  # before the glob: a name may have brackets, too
    except FileNotFoundError as error:
        if storage_errors.actual(error) is not error:
            raise
        return list(files.glob(path, detail=True).values()) if is_glob else []
    return files.ls(path, detail=True) if info["type"] == "directory" else [info]


def _stored(info: dict[str, Any], beginning: str) -> StoredFile:
    kinds = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "Last-Modified")
    kinds += ("modified", "modificationTime", "modification_time", "created")
    if info["size"] is None:
        raise UserError(f"{beginning}{info['name']}: the server does not report its size")
    version = next((str(info[kind]) for kind in kinds if info.get(kind)), "")
    return StoredFile(beginning + info["name"], int(info["size"]), version.strip('"'))


def _beginning(url: str, path: str) -> str:
    """The prefix that makes a path in a file system a URL: the protocol, and perhaps the host."""
    url, path = url.rstrip("/"), path.rstrip("/")
    return url.removesuffix(path) if url.endswith(path) else f"{url.partition('://')[0]}://"


def _retried(url: str, action: Callable[[Any, str], Result]) -> Result:
    """Calls `action` with the file system and the path in it; retries while the server fails."""
    start, pause = time.monotonic(), _FIRST_PAUSE
    while True:
        try:
            # Opened here, because a file system does not survive a fork; fsspec caches it.
            return action(*_file_system(url))
        except UserError:
            raise
        except Exception as raised:
            error = storage_errors.actual(raised)
            if isinstance(error, FileNotFoundError):
                raise MissingFileError(f"{url}: no such file or bucket") from error
            reason = storage_errors.reason(error, _protocol(url))
            if storage_errors.is_final(error):
                raise UserError(f"{url}: {reason}") from error
            tried = time.monotonic() - start
            if tried + pause > RETRY_SECONDS:
                raise UserError(f"{url}: {reason}; retried for {tried:.0f} s") from error
            if pause > _LOGGED_PAUSE:
                _log.warning("%s: %s; retrying in %.0f s", url, reason, pause)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _file_system(url: str) -> tuple[Any, str]:
    protocol = _protocol(url)
    # Listings are not cached, because other processes also write.
    options: dict[str, Any] = {"use_listings_cache": False}
    try:
        import fsspec

        if protocol in _HTTP:
            import aiohttp

            silence = aiohttp.ClientTimeout(None, None, _SILENT_SECONDS, _SILENT_SECONDS)
            options |= {"client_kwargs": {"timeout": silence}}
        if protocol in _S3:  # we do the retries
            once = {"total_max_attempts": 1}
            options |= {"config_kwargs": {"retries": once, "max_pool_connections": _CONNECTIONS}}
        if protocol in _GOOGLE and not logging.getLogger("gcsfs").level:
            # It logs a traceback of each failed attempt; we log the reason.
            logging.getLogger("gcsfs").setLevel(logging.CRITICAL)
        if protocol in _HADOOP:
            if set(url) & set("?#"):  # hdfs-native would cut the URL off there
                raise UserError(f"{url}: no ? and # in {protocol}:// URLs; use * or [...] instead")
            with _hadoop_lock:
                files = _hadoop_files("/".join(url.split("/")[:3]))
            return files, files._strip_protocol(url)
        files, path = fsspec.url_to_fs(url, **options)
    except ImportError as error:
        raise UserError(f"{url}: {error}; URLs need {_INSTALL}") from None
    except (ValueError, OSError) as error:  # an unknown protocol
        raise UserError(f"{url}: {error}") from None
    if protocol in _S3:
        files.retries = 1
    return files, path


def _protocol(url: str) -> str:
    return url.partition("://")[0].lower()


@functools.cache
def _hadoop_files(folder: str) -> Any:
    """One client for all threads, never dropped, because that would wait for its own threads."""
    import fsspec

    return fsspec.url_to_fs(folder, skip_instance_cache=True, **_HADOOP_OPTIONS)[0]
