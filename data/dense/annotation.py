"""Annotations of images, independent of their file format, and checks of them.

Boxes are `(y1, x1, y2, x2)` in pixels of the upright image, with continuous edges: an image of
W x H pixels spans 0 to W and 0 to H.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np

from data.common.errors import UserError
from data.common.files import read_text, sha256
from data.common.images import IMAGE_SUFFIXES, ImageError, class_indices, probe
from data.lists.classes import Classes
from data.tfrecords.conversion import RowError

IGNORED = 255
"""Mask value of pixels that training and metrics ignore."""
BACKGROUND = "background"
MAX_CLASSES = 100_000


class Objects(NamedTuple):
    """The objects of an image: boxes [N, 4], classes from 0 [N], and which are difficult [N].

    `size` is the image's (height, width) according to the annotation; None if not given there.
    """

    boxes: Sequence[Sequence[float]]
    classes: Sequence[int]
    difficult: Sequence[bool]
    size: tuple[int, int] | None = None


class Annotation(NamedTuple):
    """An image's checked annotation: boxes float32 [N, 4] inside the image, or a mask.

    `present` has the classes in it, sorted. `clipped` is the number of boxes that were clipped.
    """

    present: list[int]
    boxes: np.ndarray
    classes: np.ndarray  # int64 [N]
    difficult: np.ndarray  # int64 [N], 0 or 1
    clipped: int = 0
    mask: bytes | None = None  # PNG


Problem: TypeAlias = tuple[str, str] | tuple[()]


class AnnotatedImage(Protocol):
    """A row of a conversion: an image and its annotation, neither opened yet.

    Attributes:
        name: name of the record.
        image: the image file.
        problem: a keyword to count by and the reason, if the image is known to be unusable.
        where: the annotation file, for messages.
    """

    name: str
    image: str
    problem: Problem
    where: str

    def made_from(self) -> bytes:
        """The annotation's name and content, to detect changes; for masks, as for images, the name.

        It does not depend on whether the image exists, which may be added later.
        """

    def annotation(self, size: tuple[int, int]) -> Annotation:
        """The annotation of the image, whose height and width are `size`.

        Raises:
            RowError: it cannot be used.
        """


def checked_objects(name: str, objects: Objects, size: tuple[int, int]) -> Annotation:
    """Checks objects and clips their boxes to an image of this height and width.

    Raises:
        RowError: the annotated size differs, or a box is empty, not finite or outside the image.
    """
    height, width = size
    if objects.size not in (None, (0, 0), size):  # some tools write 0 for unknown
        stated = f"{objects.size[1]} x {objects.size[0]}"
        raise RowError(name, "size", f"annotated as {stated} pixels, it has {width} x {height}")
    with np.errstate(over="ignore"):  # too large: infinite, refused below
        found = np.asarray(objects.boxes, np.float32).reshape(-1, 4)
    boxes = np.clip(found, 0, np.array([height, width, height, width], np.float32))
    for row, (box, inside) in enumerate(zip(found, boxes, strict=True)):
        if problem := _problem(box, inside, width, height):
            raise RowError(name, "box", f"object {row + 1}: {problem}")
    classes = np.asarray(objects.classes, np.int64).reshape(-1)
    return Annotation(
        present=np.unique(classes).tolist(),
        boxes=boxes,
        classes=classes,
        difficult=np.asarray(objects.difficult, np.int64).reshape(-1),
        clipped=int((boxes != found).any(1).sum()),
    )


def _problem(box: np.ndarray, inside: np.ndarray, width: int, height: int) -> str:
    y1, x1, y2, x2 = box.tolist()
    shown = f"x {x1:g} to {x2:g}, y {y1:g} to {y2:g}"
    if not np.isfinite(box).all():
        return f"a non-finite box: {shown}"
    if y2 <= y1 or x2 <= x1:
        return f"an empty box: {shown}"
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return f"a box outside the image of {width} x {height}: {shown}"
    return ""


def checked_mask(name: str, mask: bytes, size: tuple[int, int], class_num: int) -> Annotation:
    """Checks a mask: its values are classes below `class_num`, where 0 is background, or 255.

    Args:
        mask: a PNG.

    Raises:
        RowError: it is not a mask, has another height or width than `size`, or other values.
    """
    try:
        _, width, height = probe(mask, max_pixels=sys.maxsize)
        if (height, width) != size:
            found = f"{width} x {height} pixels, the image {size[1]} x {size[0]}"
            raise RowError(name, "size", f"the mask has {found}")
        indices = class_indices(mask)
    except ImageError as error:
        raise RowError(name, "mask", f"the mask: {error}") from error
    values = np.flatnonzero(np.bincount(indices.ravel(), minlength=256))
    unknown = values[(values >= class_num) & (values != IGNORED)]
    if unknown.size:
        problem = f"the mask has {unknown[0]}, which is neither a class (0..{class_num - 1})"
        raise RowError(name, "class", f"{problem} nor {IGNORED} (ignored)")
    none = np.zeros(0, np.int64)
    present = values[(values > 0) & (values < class_num)].tolist()
    return Annotation(present, np.zeros((0, 4), np.float32), none, none, mask=mask)


def images_by_stem(folder: str | os.PathLike) -> dict[str, list[str]]:
    """The image files in a folder, by name without suffix.

    Raises:
        UserError: the folder does not exist.
    """
    if not os.path.isdir(folder):
        raise UserError(f"{os.fspath(folder)}: no such folder of images")
    found: dict[str, list[str]] = {}
    for path in sorted(entry.path for entry in os.scandir(folder)):
        stem, suffix = os.path.splitext(os.path.basename(path))
        if suffix.lower() in IMAGE_SUFFIXES and not stem.startswith("."):
            found.setdefault(stem, []).append(path)
    return found


def image_of(stem: str, images: dict[str, list[str]]) -> tuple[str, str, Problem]:
    """The name, file and problem of the image for the annotation named `stem`."""
    paths = images.get(stem, [])
    if not paths:
        return stem, "", ("missing", "no image of that name")
    name = os.path.basename(paths[0])
    if len(paths) > 1:
        names = ", ".join(map(os.path.basename, paths))
        return name, "", ("ambiguous", f"several images of that name: {names}")
    return name, paths[0], ()


def read_annotation(name: str, path: str, most: int) -> bytes:
    """The bytes of an annotation file.

    Raises:
        RowError: it is missing, not a file, unreadable, or larger than `most` bytes.
    """
    file = Path(path)
    try:
        if not file.exists():
            raise RowError(name, "missing", "no such annotation")
        if not file.is_file():
            raise RowError(name, "annotation", "the annotation is not a file")
        if file.stat().st_size > most:
            raise RowError(name, "annotation", f"the annotation has more than {most} bytes")
        return file.read_bytes()
    except OSError as error:
        raise RowError(name, "unreadable", f"the annotation: {error.strerror}") from error


def read_class_names(path: str | os.PathLike) -> list[str]:
    """Reads class names, one per line, by index.

    Raises:
        UserError: an invalid or repeated name, as `path:line: reason`; or there are no names.
    """
    names = read_text(path).splitlines()
    check_class_names(names, os.fspath(path))
    return names


def read_classes(path: str | os.PathLike) -> Classes:
    """The classes of a file of class names, see `read_class_names`."""
    return Classes(read_class_names(path), None, sha256(path))


def check_class_names(names: Iterable[str], where: str) -> None:
    """Raises UserError unless the class names are unique and can be stored one per line."""
    seen: set[str] = set()
    for line, name in enumerate(names, 1):
        if name != " ".join(name.split()) or not name or not is_utf8(name):
            raise UserError(f"{where}:{line}: {name!r:.60} is not a valid class name")
        if name in seen:
            raise UserError(f"{where}:{line}: the class {name!r:.60} is listed twice")
        seen.add(name)
    if not 0 < len(seen) <= MAX_CLASSES:
        raise UserError(f"{where}: {len(seen)} classes, expected 1 to {MAX_CLASSES}")


def is_utf8(text: str) -> bool:
    """Whether a text can be encoded; JSON escapes can contain lone surrogates, which cannot."""
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


def read_names(path: str | os.PathLike) -> list[str]:
    """Reads the list of a split: one name per line; skips empty lines.

    Raises:
        UserError: the list does not exist, or has no names.
    """
    if not os.path.isfile(path):
        raise UserError(f"{os.fspath(path)}: no such list of names")
    names = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{os.fspath(path)}: no name in it")
    return names
