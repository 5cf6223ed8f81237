"""Large files over HTTP, under limits of size and time, continuing where they were interrupted."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import time
from pathlib import Path

import requests
import urllib3

from data.common.errors import UserError
from data.common.progress import Progress

_CHUNK_BYTES = 1 << 20
_CONNECT_SECONDS = 20
_RETRIED = {408, 425, 429}  # and all of 5xx
_NOT_SATISFIABLE = 416
_USER_AGENT = "ml-images-checkpoints"


class _InterruptedError(Exception):
    """An attempt that ended early; the next one continues."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """`silence_seconds` without a byte end an attempt; `total_seconds` all attempts of a file."""

    max_bytes: int = 8 << 30
    silence_seconds: float = 60.0
    total_seconds: float = 6 * 3600.0
    attempts: int = 10
    pause_seconds: float = 2.0


def download(url: str, path: Path, limits: Limits) -> None:
    """Makes `path` of the body at `url`; what has arrived waits in `path.part`.

    Raises UserError: refused, too large, a web page instead of a file, or out of attempts.
    """
    part = path.with_name(path.name + ".part")
    deadline = time.monotonic() + limits.total_seconds
    problem = ""
    for attempt in range(limits.attempts):
        if attempt:
            time.sleep(min(limits.pause_seconds * 2 ** (attempt - 1), 60))
        try:
            _go_on(url, part, limits, deadline)
            os.replace(part, path)
            _validator(part).unlink(missing_ok=True)
            return
        except _InterruptedError as error:
            problem = str(error)
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            if isinstance(error, ValueError):  # not a URL
                raise UserError(f"{url}: {error}") from error
            problem = type(error).__name__
    have = part.stat().st_size if part.exists() else 0
    raise UserError(
        f"{url}: {problem}, {limits.attempts} times; start again to continue at byte {have}"
    )


def _go_on(url: str, part: Path, limits: Limits, deadline: float) -> None:
    """One attempt; raises _InterruptedError where another one may succeed."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if _validator(part).exists():
            headers["If-Range"] = _validator(part).read_text(encoding="utf-8")
    timeout = (_CONNECT_SECONDS, limits.silence_seconds)
    with requests.get(url, headers=headers, stream=True, timeout=timeout) as response:
        if response.status_code == _NOT_SATISFIABLE:
            if response.headers.get("Content-Range") == f"bytes */{have}":
                return  # all of it had arrived
            part.unlink(missing_ok=True)
            raise _InterruptedError("the file has changed")
        _check_status(url, response)
        start, total = _extent(response)
        if start not in (0, have):
            raise UserError(f"{url}: the server sent bytes from {start} on, not from {have}")
        _check_room(url, start, total, part.parent, limits)
        tag = response.headers.get("ETag", "")
        if tag and not tag.startswith("W/"):
            _validator(part).write_text(tag, encoding="utf-8")
        _receive(url, response, part, start, total, limits, deadline)
    if total is not None and part.stat().st_size != total:
        raise _InterruptedError(f"only {part.stat().st_size} of {total} bytes")


def _check_status(url: str, response: requests.Response) -> None:
    status = response.status_code
    if status in _RETRIED or status >= 500:
        raise _InterruptedError(f"HTTP {status}")
    if status not in (200, 206):
        raise UserError(f"{url}: HTTP {status} {response.reason}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise UserError(
            f"{url}: a web page, not a file; download with a browser, then give the file's path"
        )


def _extent(response: requests.Response) -> tuple[int, int | None]:
    """Where the body begins in the file, and the size of the whole file where it is reported."""
    if response.status_code == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise UserError(f"{response.url}: a part without its place in the file")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _check_room(url: str, start: int, total: int | None, folder: Path, limits: Limits) -> None:
    if total is None:
        return
    if total > limits.max_bytes:
        raise UserError(f"{url}: {total} bytes, more than the limit of {limits.max_bytes}")
    free = shutil.disk_usage(folder).free
    if total - start > free:
        raise UserError(f"{url}: {total - start} bytes to come, {free} free in {folder}")


def _receive(
    url: str,
    response: requests.Response,
    part: Path,
    start: int,
    total: int | None,
    limits: Limits,
    deadline: float,
) -> None:
    mode = "ab" if start else "wb"
    with open(part, mode) as file, Progress(part.stem, total, "B", start) as progress:
        # read1 comes back after every packet, so that a trickle does not outlive the deadline.
        while chunk := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            start += len(chunk)
            if start > limits.max_bytes:
                raise UserError(f"{url}: more than {limits.max_bytes} bytes")
            if time.monotonic() > deadline:
                raise UserError(
                    f"{url}: not whole after {limits.total_seconds:g} seconds;"
                    " start again to continue"
                )
            file.write(chunk)
            progress.update(len(chunk))


def _validator(part: Path) -> Path:
    """The file that keeps what the server called this version of the file."""
    return part.with_name(part.name + ".etag")
