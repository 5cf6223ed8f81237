"""Images of ImageNet synsets in the forms that people have them: tars of tars, tars, folders.

An archive is indexed by its headers alone; its images are then read once, in order. What an
archive calls its members decides nothing but which image of which synset they are.
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

_IMAGE = re.compile(r"(?:.*/)?n([0-9]{8})_(0|[1-9][0-9]{0,8})\.JPEG")
_SYNSET = re.compile(r"(?:.*/)?n([0-9]{8})")
_SYNSET_TAR = re.compile(r"(?:.*/)?n([0-9]{8})\.(?:tar|tar\.gz|tgz)")
_TAR = re.compile(r"[^.].*\.(?:tar|tar\.gz|tgz)")
_NOTHING = "no images of ImageNet in it (n01440764.tar, ...)"
MAX_IMAGE_BYTES = 256 << 20
_BUFFER_BYTES = 1 << 20


class ArchiveError(UserError):
    """An archive that is none, or none of ImageNet."""


class Unit(NamedTuple):
    """Images of one synset in one place, at `path` from byte `offset` on, `size` bytes long.

    `kind` says what is there: a `tar` of images, a `folder` of them, or one `image` number
    `number`.
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


def image_id(name: str) -> tuple[int, int] | None:
    """(synset, number) of a name that ends like `n04310904_8388.JPEG`, in whatever folder."""
    match = _IMAGE.fullmatch(name)
    return (int(match[1]), int(match[2])) if match else None


def index(paths: Iterable[str | os.PathLike]) -> tuple[dict[int, list[Unit]], list[str]]:
    """The places of each synset's images, in the order given, synsets in order of place.

    Args:
        paths: tars of per-synset tars or of images, per-synset tars, and folders of tars, of
            images of a synset, or of such folders. A folder's tars are taken as if given.

    Returns:
        the places, and what is wrong with archives that are damaged behind those.

    Raises:
        ArchiveError: a file that is no tar, or nothing of ImageNet in a place.
    """
    units: dict[int, list[Unit]] = {}
    problems: list[str] = []
    for path in (place for given in paths for place in _places(Path(given))):
        empty = True
        try:
            for synset, unit in _index_place(path):
                units.setdefault(synset, []).append(unit)
                empty = False
        except tarfile.TarError as error:
            if empty:
                raise ArchiveError(f"{path}: not an uncompressed tar ({error})") from error
            problems.append(f"{path}: what follows n{synset:08d} is lost: {error}")
        if empty:
            raise ArchiveError(f"{path}: {_NOTHING}")
    return units, problems


def read_images(synset: int, unit: Unit, wanted: set[int]) -> Iterator[Image]:
    """The wanted images of a synset that are in a unit, in their order there.

    Raises:
        ArchiveError: the unit is damaged; the images before that were given.
    """
    try:
        if unit.kind == "folder":
            for number, path in sorted(_images_of_folder(synset, unit.path)):
                if number in wanted:
                    yield Image(number, Path(path).read_bytes())
        elif unit.kind == "image":
            if unit.number in wanted:
                with open(unit.path, "rb") as file:
                    yield Image(unit.number, _read_all(file, unit.offset, unit.size))
        else:
            yield from _read_tar(synset, unit, wanted)
    except (OSError, EOFError, tarfile.TarError) as error:
        raise ArchiveError(f"{unit.path}: synset n{synset:08d}: {error}") from error


def _read_tar(synset: int, unit: Unit, wanted: set[int]) -> Iterator[Image]:
    with (
        io.BufferedReader(_Section(unit.path, unit.offset, unit.size), _BUFFER_BYTES) as section,
        tarfile.open(fileobj=section, mode="r|*", tarinfo=_StrictHeader) as tar,
    ):
        for member in tar:
            found = image_id(member.name)
            if not (member.isreg() and found and found[0] == synset and found[1] in wanted):
                continue
            if member.size > MAX_IMAGE_BYTES:
                raise ArchiveError(f"{unit.path}: {member.name} has {member.size} bytes")
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


def _places(path: Path) -> list[Path]:
    """A file itself; of a folder its tars and folders of images, itself among them."""
    if not path.is_dir():
        return [path]
    own = _SYNSET.fullmatch(path.name)
    places = [path] if own and any(_images_of_folder(int(own[1]), path)) else []
    for entry in sorted(path.iterdir()):
        if (_SYNSET if entry.is_dir() else _TAR).fullmatch(entry.name):
            places.append(entry)
    if not places:
        raise ArchiveError(f"{path}: {_NOTHING}")
    return places


def _images_of_folder(synset: int, folder: str | os.PathLike) -> Iterator[tuple[int, str]]:
    for entry in os.scandir(folder):
        found = image_id(entry.name)
        if found and found[0] == synset and entry.is_file():
            yield found[1], entry.path


def _index_place(path: Path) -> Iterator[tuple[int, Unit]]:
    if path.is_dir():
        yield int(_SYNSET.fullmatch(path.name)[1]), Unit("folder", os.fspath(path))
        return
    match = _SYNSET_TAR.fullmatch(path.name)
    if match:
        yield int(match[1]), Unit("tar", os.fspath(path), 0, path.stat().st_size)
        return
    with tarfile.open(path, "r:", tarinfo=_StrictHeader) as tar:
        while member := tar.next():
            unit = (os.fspath(path), member.offset_data, member.size)
            tar.members = []  # or it would remember every header
            match = _SYNSET_TAR.fullmatch(member.name)
            found = image_id(member.name)
            if member.isreg() and match:
                yield int(match[1]), Unit("tar", *unit)
            elif member.isreg() and found:
                yield found[0], Unit("image", *unit, found[1])


class _StrictHeader(tarfile.TarInfo):
    """A damaged header is an error; `tarfile` takes it for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> tarfile.TarInfo:
        try:
            return super().fromtarfile(archive)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:
            raise tarfile.ReadError(f"damaged at byte {archive.offset} ({error})") from error


class _Section(io.RawIOBase):
    """Bytes `offset` to `offset + size` of a file, as a file that is read once."""

    def __init__(self, path: str, offset: int, size: int):
        self._fd = os.open(path, os.O_RDONLY)
        self._at, self._end = offset, offset + size

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
