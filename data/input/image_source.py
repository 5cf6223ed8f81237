"""Images for inference: from list files, folders, globs, image files, TFRecords and stdin.

Every source yields `SourceImage`s in a fixed order and in constant memory. Images are not opened
before `SourceImage.load`, so they are read in the decoding threads and a run resumes by skipping.
"""

import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data.common import storage
from data.common.errors import UserError
from data.common.files import files_below, matches, refuse_other_encodings
from data.common.images import IMAGE_SUFFIXES, MAX_BYTES
from data.tfrecords.conversion import EARLIER_SUFFIX, SUFFIX
from data.tfrecords.examples import Features, decode_example, decode_labels
from data.tfrecords.records import RecordError, payload_of, read_index

STDIN = "-"

MAX_LINE_BYTES = 1 << 20
_SNIFFED_BYTES = 1024  # a zero byte among them means an image, not a list
_BLANKS = re.compile(r"[ \t]+")


class LoadError(UserError):
    """One image that cannot be read; the run continues without it."""


class Loaded(NamedTuple):
    """An image's name, label and encoded bytes."""

    name: str
    label: Any  # text, or `evaluation.Labels`
    data: bytes


@dataclass(frozen=True)
class SourceImage:
    """One image, not opened yet.

    Attributes:
      name: its name in outputs: the path as given, or `file:record` until the record is read.
      label: the text after the path in a list, with single blanks; "" if there is none.
      path: the file that holds it; for a record, this may be a URL.
      path_by_list: path relative to the folder of the list, used if `path` does not exist;
        "" for an image that is not from a list.
      offset, size: of the record in a TFRecord file, in bytes; size 0: `path` is the image.
    """

    name: str
    label: str
    path: str
    path_by_list: str = ""
    offset: int = 0
    size: int = 0

    def load(self) -> Loaded:
        """Reads the file or the record.

        Raises:
          LoadError: it cannot be read; one line without the name of the file.
          UserError: the storage at the URL cannot be read; see `storage.read`.
        """
        try:
            if self.size:
                return self._load_record()
            moved = self.path_by_list and not os.path.exists(self.path)
            data = _read_file(self.path_by_list if moved else self.path)
            return Loaded(self.name, self.label, data)
        except OSError as error:
            raise LoadError(error.strerror or str(error)) from error
        except RecordError as error:
            raise LoadError(str(error)) from error

    def _load_record(self) -> Loaded:
        if storage.is_url(self.path):
            data = storage.read(self.path, self.offset, self.size)
        else:
            with open(self.path, "rb", buffering=0) as file:
                data = os.pread(file.fileno(), self.size, self.offset)
        features = decode_example(payload_of(data, self.size))
        image = features["image"].bytes_list.value
        if not image:
            raise LoadError("the record holds no image")
        name = b"".join(features["name"].bytes_list.value).decode("utf-8", "replace")
        return Loaded(name or self.name, _record_label(features), image[0])


def images(
    sources: Sequence[str],
    start: int = 0,
    stop: int | None = None,
    skipped: Counter[str] | None = None,
    images_dir: str | None = None,
) -> Iterator[SourceImage]:
    """The images of all sources in order, from number `start` up to but excluding `stop`.

    A source is `-` (a list on standard input), a folder (searched recursively, in path order), a
    glob, a TFRecord file, an image file, or a list file: one image per row, optionally followed by
    a tab (or by blanks, unless the whole row is a file name) and a label. Paths in a list are
    relative to the working folder or, if not found there, to the folder of the list.

    Args:
      skipped: counts other files in folders, by suffix.
      images_dir: the folder that paths in a list are relative to instead.

    Raises:
      UserError: a source does not exist or holds no image.
    """
    if not sources:
        raise UserError("no images: give --images=LIST, or files and folders")
    number = 0
    for source in sources:
        found = False
        for image in _open_source(source, skipped):
            found = True
            if stop is not None and number >= stop:
                return
            if number >= start:
                yield _in_folder(images_dir, image)
            number += 1
        if not found:
            raise UserError(f"{source}: no images in it")


def _in_folder(images_dir: str | None, image: SourceImage) -> SourceImage:
    """Makes the path of a list's image relative to `images_dir`, if given; others are unchanged."""
    if images_dir is None or not image.path_by_list:
        return image
    return replace(image, path=os.path.join(images_dir, image.name), path_by_list="")


def in_list(list_path: str | os.PathLike, name: str, images_dir: str | None) -> SourceImage:
    """The image named in a row of a list, with the same paths that `images` gives it."""
    by_list = os.path.join(os.path.dirname(list_path), name)
    return _in_folder(images_dir, SourceImage(name, "", name, by_list))


def count(sources: Sequence[str], skipped: Counter[str] | None = None) -> int:
    """How many images the sources hold; reads only lists, folders and indexes of records.

    Args:
      skipped: counts other files in folders, by suffix.

    Raises:
      UserError: standard input, which can be read only once, is among the sources.
    """
    if STDIN in sources:
        raise UserError("standard input cannot be shared by processes: use a list file")
    return sum(1 for _ in images(sources, skipped=skipped))


def _open_source(source: str, skipped: Counter[str] | None) -> Iterator[SourceImage]:
    path = Path(source)
    if source == STDIN:
        return _listed(sys.stdin.buffer, "standard input", Path())
    if path.is_dir():
        counted = Counter() if skipped is None else skipped
        return _files(files_below(source, IMAGE_SUFFIXES, counted))
    if not path.exists():
        found = matches(source)
        if not found:
            raise UserError(f"{source}: no such file, folder or glob")
        return (image for match in found for image in _open_source(match, skipped))
    return _open_file(path)


def _open_file(path: Path) -> Iterator[SourceImage]:
    if path.suffix in (SUFFIX, EARLIER_SUFFIX):
        return _records(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return _files([str(path)])
    refuse_other_encodings(path)
    with open(path, "rb") as file:
        head = file.read(_SNIFFED_BYTES)
    if b"\0" in head:
        return _files([str(path)])
    return _listed_file(path)


def _files(paths: Iterable[str]) -> Iterator[SourceImage]:
    return (SourceImage(path, "", path) for path in paths)


def _records(path: Path) -> Iterator[SourceImage]:
    try:
        index = read_index(path)
    except RecordError as error:
        raise UserError(str(error)) from error
    for number, (offset, size) in enumerate(zip(index.offsets, index.sizes, strict=True)):
        yield SourceImage(f"{path}:{number}", "", str(path), offset=int(offset), size=int(size))
    if index.problem:
        raise UserError(index.problem)


def _listed_file(path: Path) -> Iterator[SourceImage]:
    with open(path, "rb") as file:
        yield from _listed(file, str(path), path.parent)


def _listed(file: BinaryIO, shown: str, folder: Path) -> Iterator[SourceImage]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{shown}:{number}: too long a row; is this a list file?")
        # File names are bytes: those that are not UTF-8 pass through unchanged.
        text = line.decode("utf-8", "surrogateescape").strip(" \t\r\n")
        if number == 1:
            text = text.removeprefix("\ufeff")
        if "\0" in text:
            raise UserError(f"{shown}:{number}: a zero byte; is this a list file?")
        if text:
            yield _listed_image(text, folder)


def _listed_image(row: str, folder: Path) -> SourceImage:
    """The image of a row `path<tab>label`; blanks also separate, unless the row is a file name."""
    name, tab, label = row.partition("\t")
    if not tab and " " in name and not (os.path.exists(name) or (folder / name).exists()):
        name, _, label = row.partition(" ")
    name = name.strip()
    return SourceImage(name, _BLANKS.sub(" ", label.strip()), name, str(folder / name))


def _record_label(features: Features) -> str:
    """The labels of a record as a list would write them; "" where it has none."""
    if single := features["label"].int64_list.value:
        return " ".join(map(str, single))
    try:
        classes, values = decode_labels(features)
    except UserError:
        return ""
    return " ".join(f"{label}:{value:g}" for label, value in zip(classes, values, strict=True))


def _read_file(path: str) -> bytes:
    status = os.stat(path)  # before opening: to open a pipe would wait for a writer
    if stat.S_ISDIR(status.st_mode):
        raise LoadError("is a folder")
    if not stat.S_ISREG(status.st_mode):
        raise LoadError("not a file")
    if status.st_size > MAX_BYTES:
        raise LoadError(f"{status.st_size} bytes; at most {MAX_BYTES} are accepted")
    return Path(path).read_bytes()
