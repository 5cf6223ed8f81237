"""Files at URLs, such as `s3://bucket/records/00000.tfrecords`, through fsspec; retried.

Credentials and endpoints are those of the library of each kind of storage, from its own variables
and files (`AWS_ENDPOINT_URL`, `~/.aws/credentials`, `GOOGLE_APPLICATION_CREDENTIALS`, ...).
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from data.common.errors import UserError

Result = TypeVar("Result")

RETRY_SECONDS = 120.0  # that a server may be away
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 10.0  # seconds between attempts
_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE | re.ASCII)
_INSTALL = 'pip install -e ".[cloud]"'
# Errors that another attempt meets again; by name where the library need not be installed.
_FINAL = (FileNotFoundError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FINAL += (PermissionError, NotImplementedError, ValueError, TypeError, ImportError)
_FINAL_NAMES = {"NoCredentialsError", "PartialCredentialsError", "ParamValidationError"}
_log = logging.getLogger(__name__)


class StoredFile(NamedTuple):
    """A file: its URL, its size in bytes, and what changes when its content does (an ETag)."""

    url: str
    size: int
    version: str


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL, and not of the local file system."""
    return _URL.match(os.fspath(path)) is not None


def find(pattern: str) -> list[StoredFile]:
    """The files in a folder, or those that a glob matches, or the one file; sorted by URL.

    Raises:
        UserError: access is denied, the library is missing, or the server stays away.
    """
    return _retried(pattern, lambda files, path: _find(files, path, _protocol(pattern)))


def below(folder: str) -> list[StoredFile]:
    """The files in a folder and in all folders below it; none where there is no such folder."""

    def walk(files: Any, path: str) -> list[StoredFile]:
        found = files.find(path, detail=True)
        return [_stored(info, _protocol(folder)) for info in found.values()]

    return sorted(_retried(folder, walk))


def read(url: str, offset: int = 0, size: int | None = None) -> bytes:
    """`size` bytes from `offset` on, fewer where the file ends; None: all that follow.

    Raises:
        UserError: see `find`; or there is no such file.
    """
    end = None if size is None else offset + size
    return _retried(url, lambda files, path: files.cat_file(path, start=offset, end=end))


def write(url: str, content: bytes) -> None:
    """Writes a file at once: a reader finds the old content or the new. Raises UserError."""
    _retried(url, lambda files, path: files.pipe_file(path, content))


def upload(path: str | os.PathLike[str], url: str) -> None:
    """Copies a local file to a URL; it appears there as a whole. Raises UserError."""
    _retried(url, lambda files, there: files.put_file(os.fspath(path), there))


def download(url: str, path: str | os.PathLike[str]) -> None:
    """Copies a file to a local one, in place; a failure leaves part of it. Raises UserError."""
    _retried(url, lambda files, there: files.get_file(there, os.fspath(path)))


def delete(url: str) -> None:
    """Deletes a file, if it is there. Raises UserError."""

    def remove(files: Any, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # by an attempt of which the answer was lost
            files.rm_file(path)

    _retried(url, remove)


def _find(files: Any, path: str, protocol: str) -> list[StoredFile]:
    if any(character in path for character in "*?["):
        found = list(files.glob(path, detail=True).values())
    else:
        try:
            files.invalidate_cache(path)
            found = files.ls(path, detail=True)
        except NotADirectoryError:
            found = [files.info(path)]
        except FileNotFoundError:
            found = []
    infos = [info for info in found if info["type"] == "file" and info["name"] != f"{path}/"]
    sized = (info if info.get("size") is not None else files.info(info["name"]) for info in infos)
    return sorted(_stored(info, protocol) for info in sized)


def _stored(info: dict[str, Any], protocol: str) -> StoredFile:
    name = info["name"] if is_url(info["name"]) else f"{protocol}://{info['name']}"
    kinds = ("ETag", "etag", "md5Hash", "generation", "mtime", "LastModified", "modified")
    version = next((str(info[kind]) for kind in kinds if info.get(kind)), "")
    return StoredFile(name, int(info["size"]), version.strip('"'))


def _protocol(url: str) -> str:
    return url.partition("://")[0]


def _retried(url: str, action: Callable[[Any, str], Result]) -> Result:
    """`action` of the file system and the path in it, again while the server fails."""
    until, pause = time.monotonic() + RETRY_SECONDS, _FIRST_PAUSE
    while True:
        try:
            # Here, because a file system does not survive a fork; fsspec keeps one per process.
            return action(*_file_system(url))
        except UserError:
            raise
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            if isinstance(error, _FINAL) or type(error).__name__ in _FINAL_NAMES:
                raise UserError(f"{url}: {_remedy(error, reason)}") from error
            if time.monotonic() + pause > until:
                raise UserError(f"{url}: {reason}, for {RETRY_SECONDS:g} s now") from error
            _log.info("%s: %s; another attempt in %.1f s", url, reason, pause)
        time.sleep(pause * random.uniform(0.5, 1))
        pause = min(2 * pause, _LONGEST_PAUSE)


def _remedy(error: Exception, reason: str) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file or bucket"
    if isinstance(error, PermissionError) or "Credentials" in reason:
        return f"access denied ({reason}); check the credentials and the permissions"
    return reason


def _file_system(url: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError:
        raise UserError(f"{url}: URLs need fsspec: {_INSTALL}") from None
    try:
        # Listings are not cached: other processes write, too.
        files, path = fsspec.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise UserError(f"{url}: {error}; for s3:// and gs://: {_INSTALL}") from None
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None
    return files, path
