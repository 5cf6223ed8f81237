"""Turns the rows of a download list into URLs and into unique, stable, safe file names."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from data.common.errors import UserError
from data.common.images import IMAGE_SUFFIXES

FLAT_ROWS = 100_000
"""Longer lists are spread over folders named by two hexadecimal digits, because most file systems,
and people who list a folder, are slow with more files in it."""

_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST_STEM = 80
_HASH_DIGITS = 16
# A Flickr photo's id, secret and size: unique, and used as image names by the released lists.
_FLICKR_HOST = re.compile(r"(?:.+\.)?(?:static)?flickr\.com")
_FLICKR_STEM = re.compile(r"[0-9]+_[0-9a-f]+(?:_[a-z0-9]{1,2})?")
_OPEN_IMAGES_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Naming:
    """How a row's first field becomes a URL and a file name.

    Attributes:
        template: None if rows hold URLs. Otherwise, rows hold image ids, which replace `{id}` in
            the template; if it also has `{subset}`, rows hold `subset/id`.
        in_folders: spread the files over 256 folders by a hash of the URL.
        suffix: suffix of every file; None keeps the suffix of the URL.

    Raises:
        UserError: the template has no `{id}`.
    """

    template: str | None = None
    in_folders: bool = False
    suffix: str | None = None

    def __post_init__(self) -> None:
        if self.template is not None and "{id}" not in self.template:
            raise UserError(f"--url_template {self.template!r} has no {{id}} in it")

    def url(self, image: str) -> str:
        """The URL of a row whose first field is `image`."""
        if self.template is None:
            return image
        if "{subset}" not in self.template:
            return self.template.replace("{id}", quote(image))
        subset, _, image_id = image.rpartition("/")
        return self.template.replace("{subset}", quote(subset)).replace("{id}", quote(image_id))

    def file(self, image: str) -> str:
        """The file's path in the folder of images: parts of [A-Za-z0-9._-], joined by `/`.

        Keeps Flickr names and Open Images ids; adds a hash of the URL to other names.
        """
        url = self.url(image)
        digest = hashlib.sha256(url.encode()).hexdigest()[:_HASH_DIGITS]
        host, path = _host_and_path(url)
        last = unquote(path).rpartition("/")[2]
        stem, dot, suffix = last.rpartition(".")
        if not dot or f".{suffix.lower()}" not in IMAGE_SUFFIXES:
            stem, suffix = last, "jpg"
        if self.template is not None:
            stem = image.rpartition("/")[2]
        if not self._is_unique(host, stem):
            stem = _UNSAFE.sub("_", stem)[:_LONGEST_STEM].strip("_-") or "image"
            stem = f"{stem}-{digest}"
        name = stem + (self.suffix or f".{suffix.lower()}")
        return f"{digest[:2]}/{name}" if self.in_folders else name

    def _is_unique(self, host: str, stem: str) -> bool:
        if self.template is not None:
            return _OPEN_IMAGES_ID.fullmatch(stem) is not None
        return _is_flickr(host, stem)


def flickr_name(url: str) -> str | None:
    """The last part of a Flickr image URL, which is unique; None for other URLs."""
    host, path = _host_and_path(url)
    name = path.rpartition("/")[2]
    return name if _is_flickr(host, name.rpartition(".")[0]) else None


def _is_flickr(host: str, stem: str) -> bool:
    if not _FLICKR_HOST.fullmatch(host):
        return False
    return len(stem) <= _LONGEST_STEM and _FLICKR_STEM.fullmatch(stem) is not None


def host_of(url: str) -> str:
    """The host of a URL in lower case; empty if there is none."""
    return _host_and_path(url)[0]


def _host_and_path(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.path
    except ValueError:  # such as a broken IPv6 address
        return "", url
