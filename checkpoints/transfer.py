"""Resumable downloads of large files over HTTP, with limits on size and time."""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import requests
import urllib3

from data.common.errors import UserError
from data.common.progress import Progress

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 20
_RETRIED = {408, 425, 429}  # and all 5xx
_NOT_SATISFIABLE = 416


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits: `silence_seconds` without data end an attempt, `total_seconds` all attempts."""

    max_bytes: int = 8 << 30
    silence_seconds: float = 60.0
    total_seconds: float = 6 * 3600.0
    attempts: int = 10
    pause_seconds: float = 2.0


def download(url: str, path: Path, limits: Limits) -> None:
    """Downloads `url` to `path`; a partial download is kept in `path.part`.

    Does not check that resumed parts are of the same file; the checkpoint's or archive's checksums
    do.

    Raises UserError: refused, too large, a web page instead of a file, or out of attempts.
    """
    part = path.with_name(path.name + ".part")
    deadline, problem = time.monotonic() + limits.total_seconds, ""
    for attempt in range(limits.attempts):
        if attempt:
            time.sleep(min(limits.pause_seconds * 2 ** (attempt - 1), 60))
        try:
            _continue(url, part, limits, deadline)
            os.replace(part, path)
            return
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ValueError):  # not a URL
                raise UserError(f"{url}: {error}") from error
            # Messages of `_continue` are readable; those of the libraries are long and technical.
            own = isinstance(error, requests.HTTPError)
            problem = str(error) if own else type(error).__name__
    have = part.stat().st_size if part.exists() else 0
    raise UserError(
        f"{url}: {problem}, {limits.attempts} times; start again to continue at byte {have}"
    )


def _continue(url: str, part: Path, limits: Limits, deadline: float) -> None:
    """Makes one attempt; raises an error of requests or urllib3 if a retry may succeed."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    timeout = (_CONNECT_SECONDS, limits.silence_seconds)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        place, _, size = response.headers.get("Content-Range", "").partition("/")
        if response.status_code == _NOT_SATISFIABLE:
            if size == str(have):
                return  # already complete
            part.unlink(missing_ok=True)
            raise requests.HTTPError("the file has changed")
        _check_status(url, response)
        if response.status_code != 206:
            have, size = 0, response.headers.get("Content-Length", "")
        elif not place.startswith(f"bytes {have}-"):
            raise UserError(f"{url}: requested bytes from {have} on, but the server sent {place!r}")
        total = int(size) if size.isdecimal() else None
        if total and total > limits.max_bytes:
            raise UserError(f"{url}: {total} bytes, more than the limit of {limits.max_bytes}")
        mode = "ab" if have else "wb"
        with open(part, mode) as file, Progress(part.stem, total, "B", have) as progress:
            # read1 returns after every packet, so that a slow download cannot outlast the deadline.
            while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
                have += file.write(chunk)
                progress.update(len(chunk))
                if have > limits.max_bytes:
                    raise UserError(f"{url}: more than the limit of {limits.max_bytes} bytes")
                if time.monotonic() > deadline:
                    late = f"not complete after {limits.total_seconds:g} seconds"
                    raise UserError(f"{url}: {late}; start again to continue at byte {have}")
    if total is not None and have != total:
        raise requests.HTTPError(f"only {have} of {total} bytes")


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status in _RETRIED or status >= 500:
        raise requests.HTTPError(f"HTTP {status}")
    if status not in (200, 206):
        raise UserError(f"{url}: HTTP {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(
            f"{url}: a web page, not a file; download with a browser, then give the file's path"
        )
