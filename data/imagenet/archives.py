"""Images of ImageNet synsets in their usual forms: tars of tars, tars, folders.

An archive is indexed by reading only its headers; its images are then read once, in order. Member
names only identify the image and its synset; they are never used as paths.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from data.common.errors import UserError
from data.common.images import MAX_BYTES

_IMAGE = re.compile(r"(?:.*/)?n([0-9]{8})_(0|[1-9][0-9]{0,8})\.JPEG")
_SYNSET = re.compile(r"(?:.*/)?n([0-9]{8})")
_SYNSET_TAR = re.compile(r"(?:.*/)?n([0-9]{8})\.(?:tar|tar\.gz|tgz)")
_TAR = re.compile(r"[^.].*\.(?:tar|tar\.gz|tgz)")
_NOTHING = "no images of ImageNet in it (n01440764.tar, ...)"
_BUFFER_BYTES = 1 << 20


class ArchiveError(UserError):
    """A file that is not an archive, an archive without ImageNet images, or a damaged one."""


class Location(NamedTuple):
    """Where images of one synset are: in the file `path`, `size` bytes from byte `offset` on.

    `kind` is what is there: a `tar` of images, or one `image` with this `number`; or it is
    `folder`, and `path` is a folder of images.
    """

    kind: Literal["tar", "folder", "image"]
    path: str
    offset: int = 0
    size: int = 0
    number: int = -1


class Image(NamedTuple):
    """Image n<synset>_<number>.JPEG."""

    number: int
    data: bytes


def wnid(synset: int) -> str:
    """The WordNet ID of a synset, such as `n04310904`."""
    return f"n{synset:08d}"


def image_id(name: str) -> tuple[int, int] | None:
    """(synset, number) of a name that ends like `n04310904_8388.JPEG`, in any folder; else None."""
    match = _IMAGE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def index(paths: Iterable[str | os.PathLike]) -> tuple[dict[int, list[Location]], list[str]]:
    """Finds the images of each synset; synsets are in the order in which the paths have them.

    Args:
        paths: tars of per-synset tars or of images, per-synset tars, and folders of tars, of
            images of a synset, or of such folders. Tars in a folder count as if given themselves.

    Returns:
        the locations of each synset's images in order, and a line for each damaged archive; what
        precedes the damage is among the locations.

    Raises:
        ArchiveError: a file that is not a tar, or a path without ImageNet images.
    """
    locations: dict[int, list[Location]] = {}
    problems: list[str] = []
    for path in (found for given in paths for found in _tars_and_folders(Path(given))):
        empty = True
        try:
            for synset, location in _index_one(path):
                locations.setdefault(synset, []).append(location)
                empty = False
        except tarfile.TarError as error:
            if empty:
                raise ArchiveError(f"{path}: not an uncompressed tar ({error})") from error
            problems.append(f"{path}: what follows {wnid(synset)} is lost: {error}")
        if empty:
            raise ArchiveError(f"{path}: {_NOTHING}")
    return locations, problems


def read_images(synset: int, location: Location, wanted: set[int]) -> Iterator[Image]:
    """Yields the images with the `wanted` numbers at a location of their synset, in order.

    Raises:
        ArchiveError: it is damaged; the images before the damage were already yielded.
    """
    try:
        if location.kind == "folder":
            for number, path in sorted(_images_of_folder(synset, location.path)):
                if number in wanted:
                    yield Image(number, Path(path).read_bytes())
        elif location.kind == "image":
            if location.number in wanted:
                with open(location.path, "rb") as file:
                    yield Image(location.number, _read_all(file, location.offset, location.size))
        else:
            yield from _read_tar(synset, location, wanted)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ArchiveError(f"{location.path}: synset {wnid(synset)}: {error}") from error


def _read_tar(synset: int, location: Location, wanted: set[int]) -> Iterator[Image]:
    with (
        io.BufferedReader(_Section(location), _BUFFER_BYTES) as section,
        tarfile.open(fileobj=section, mode="r|*", tarinfo=_StrictHeader) as tar,
    ):
        for member in tar:
            found = image_id(member.name)
            if not (member.isreg() and found and found[0] == synset and found[1] in wanted):
                continue
            if member.size > MAX_BYTES:
                size = f"{member.size} bytes; at most {MAX_BYTES} are accepted"
                raise ArchiveError(f"{location.path}: {member.name} has {size}")
            data = tar.extractfile(member).read()
            if len(data) != member.size:
                raise EOFError(f"{member.name} is cut short")
            yield Image(found[1], data)


def _read_all(file: io.BufferedReader, offset: int, size: int) -> bytes:
    file.seek(offset)
    data = file.read(size)
    if len(data) != size:
        raise EOFError(f"cut short at byte {offset + len(data)}")
    return data


def _tars_and_folders(path: Path) -> list[Path]:
    """The path itself if it is a file or a folder of images, plus the tars and folders in it."""
    if not path.is_dir():
        return [path]
    own = _SYNSET.fullmatch(path.name)
    found = [path] if own and any(_images_of_folder(int(own[1]), path)) else []
    for entry in sorted(path.iterdir()):
        if (_SYNSET if entry.is_dir() else _TAR).fullmatch(entry.name):
            found.append(entry)
    if not found:
        raise ArchiveError(f"{path}: {_NOTHING}")
    return found


def _images_of_folder(synset: int, folder: str | os.PathLike) -> Iterator[tuple[int, str]]:
    for entry in os.scandir(folder):
        found = image_id(entry.name)
        if found and found[0] == synset and entry.is_file():
            yield found[1], entry.path


def _index_one(path: Path) -> Iterator[tuple[int, Location]]:
    """Yields (synset, location) for each entry of a tar, or for a folder of images."""
    if path.is_dir():
        yield int(_SYNSET.fullmatch(path.name)[1]), Location("folder", os.fspath(path))
        return
    match = _SYNSET_TAR.fullmatch(path.name)
    if match:
        yield int(match[1]), Location("tar", os.fspath(path), 0, path.stat().st_size)
        return
    with tarfile.open(path, "r:", tarinfo=_StrictHeader) as tar:
        while member := tar.next():
            where = (os.fspath(path), member.offset_data, member.size)
            tar.members = []  # or it would remember every header
            match = _SYNSET_TAR.fullmatch(member.name)
            found = image_id(member.name)
            if member.isreg() and match:
                yield int(match[1]), Location("tar", *where)
            elif member.isreg() and found:
                yield found[0], Location("image", *where, found[1])


class _StrictHeader(tarfile.TarInfo):
    """Makes a damaged header an error; `tarfile` would take it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"damaged at byte {archive.offset} ({error})") from error


class _Section(io.RawIOBase):
    """The bytes at a location, as a file that is read from front to back."""

    def __init__(self, location: Location):
        self._fd = os.open(location.path, os.O_RDONLY)
        self._at, self._end = location.offset, location.offset + location.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = os.pread(self._fd, min(len(buffer), self._end - self._at), self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()
