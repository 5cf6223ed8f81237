"""Stores downloaded images: rejects placeholders, checks, converts, renames into place."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from data.common.errors import UserError
from data.common.files import read_text
from data.common.image_memory import MAX_IMAGE_BYTES
from data.common.images import JPEG_QUALITY, MAX_PIXELS, ImageError, to_jpeg, whole
from data.common.sharding import Shard

PLACEHOLDERS = Path(__file__).resolve().parents[1] / "placeholders.txt"
"""The list that comes with the project."""

_MD5_BYTES = 16 << 10
_PLACEHOLDER_LINE = re.compile(r"(sha256:[0-9a-fA-F]{64}|md5:[0-9a-fA-F]{32}|url:\S+)(\s.*)?")


class Placeholders:
    """The images that stand for one that is gone, from files such as `data/placeholders.txt`."""

    def __init__(self, paths: Sequence[str | os.PathLike] = (PLACEHOLDERS,)) -> None:
        marks = [mark for path in paths for mark in _read_placeholders(path)]
        self._digests = {mark.lower() for mark in marks if not mark.startswith("url:")}
        self._in_urls = [mark[4:] for mark in marks if mark.startswith("url:")]
        self._kinds = {digest.partition(":")[0] for digest in self._digests}

    def match(self, body: bytes, url: str) -> bool:
        """Whether the body, or the URL it came from, is that of a placeholder."""
        if any(text in url for text in self._in_urls):
            return True
        kinds = self._kinds - {"md5"} if len(body) > _MD5_BYTES else self._kinds
        return any(
            f"{kind}:{hashlib.new(kind, body).hexdigest()}" in self._digests for kind in kinds
        )


def _read_placeholders(path: str | os.PathLike) -> list[str]:
    marks = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        found = _PLACEHOLDER_LINE.fullmatch(line.strip())
        if found is None:
            raise UserError(f"{path}:{number}: neither sha256:HEX, md5:HEX nor url:TEXT")
        marks.append(found[1])
    return marks


class Stored(NamedTuple):
    """A file that was written; `is_converted` tells that it is not the body byte for byte."""

    bytes: int
    sha256: str
    width: int
    height: int
    is_converted: bool


class Store:
    """Writes images below a folder; one object serves all threads, of forked processes too.

    Args:
        folder: where the files go.
        as_jpeg: make everything an upright RGB JPEG; implied by `short_side`.
        short_side: shrink to it, in pixels.
        quality: of JPEGs encoded here.
        max_pixels: larger images are refused.
        max_image_bytes: what decoding may take, of all threads of a process together.
        placeholders: what to refuse.
    """

    def __init__(
        self,
        folder: Path,
        placeholders: Placeholders,
        as_jpeg: bool = False,
        short_side: int | None = None,
        quality: int = JPEG_QUALITY,
        max_pixels: int = MAX_PIXELS,
        max_image_bytes: int = MAX_IMAGE_BYTES,
    ) -> None:
        self._folder = folder
        self._placeholders = placeholders
        self._as_jpeg = as_jpeg or short_side is not None
        self._short_side = short_side
        self._quality = quality
        self._limits = max_pixels, max_image_bytes

    def store(self, body: bytes, url: str, name: str, partial: str, rotation: int = 0) -> Stored:
        """Checks the body and writes it as `folder/name`.

        Args:
            partial: name of the file while it is written; see `partial_name`.
            rotation: see `to_jpeg`; an image that it turns becomes a JPEG.

        Raises:
            ImageError: not a whole image, or (kind `placeholder`) a known stand-in.
            OSError: the file cannot be written.
        """
        if self._placeholders.match(body, url):
            raise ImageError("placeholder", "the host's image for one that is gone")
        data, width, height = self._checked(body, rotation)
        _write(data, f"{self._folder}/{name}", partial)
        digest = hashlib.sha256(data).hexdigest()
        return Stored(len(data), digest, width, height, data is not body)

    def _checked(self, body: bytes, rotation: int) -> tuple[bytes, int, int]:
        if self._as_jpeg or rotation:
            limits = *self._limits, rotation
            return to_jpeg(body, self._short_side, self._quality, "apply", *limits)
        found = whole(body, *self._limits)
        return body, found.width, found.height


def partial_name(row: int, part: Shard) -> str:
    """What a row's file is called while it is written, in the folder where it will be.

    The name is that of the row, so that another attempt replaces what a killed one left. (The same
    folder, because renaming between folders takes a lock on the whole file system.)
    """
    return f".{row}-{part.index}-{part.count}.part"


def _write(data: bytes, path: str, partial: str) -> None:
    folder = os.path.dirname(path)
    temporary = f"{folder}/{partial}"
    try:
        file = open(temporary, "wb")  # noqa: SIM115
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
        file = open(temporary, "wb")  # noqa: SIM115
    with file:
        file.write(data)
    os.replace(temporary, path)
