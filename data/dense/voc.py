"""PASCAL VOC annotations: XML files with boxes, PNG masks, and splits as lists of names.

    VOC2007/Annotations/000005.xml  JPEGImages/000005.jpg  ImageSets/Main/trainval.txt
    VOC2012/SegmentationClass/2007_000032.png              ImageSets/Segmentation/train.txt

A folder without `ImageSets` is taken as the user's own annotations: all XML files in its
`Annotations`, or in the folder itself. An image is found by the name of its annotation file; the
file name in the XML is ignored.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from xml.etree import ElementTree
from xml.parsers import expat

from data.common.errors import UserError
from data.common.state import is_name
from data.dense.annotation import (
    BACKGROUND,
    Annotation,
    Objects,
    Problem,
    checked_objects,
    image_of,
    images_by_stem,
    read_annotation,
    read_names,
)
from data.dense.masks import MaskImage
from data.tfrecords.conversion import RowError

CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa"),
    *("train", "tvmonitor"),
)
MASK_CLASSES = (BACKGROUND, *CLASSES)
MASKS = "SegmentationClass"
SPLIT = "trainval"
MAX_XML_BYTES = 16 << 20
MAX_DEPTH = 64  # of nested elements; VOC has 4
_SIDES = ("ymin", "xmin", "ymax", "xmax")


@dataclass(frozen=True)
class XmlImage:
    """An image with boxes in an XML file; see `annotation.AnnotatedImage`.

    `classes` has the class names by index.
    """

    name: str
    image: str
    problem: Problem
    where: str
    classes: Sequence[str]

    def made_from(self) -> bytes:
        """See `AnnotatedImage`."""
        name = os.fsencode(os.path.basename(self.where))
        try:
            return name + b"\n" + read_annotation(self.name, self.where, MAX_XML_BYTES)
        except RowError as error:
            return name + str(error).encode()

    def annotation(self, size: tuple[int, int]) -> Annotation:
        """See `AnnotatedImage`."""
        data = read_annotation(self.name, self.where, MAX_XML_BYTES)
        try:
            objects = parse_xml(data, self.classes)
        except UnknownClassError as error:
            raise RowError(self.name, "class", str(error)) from error
        except ValueError as error:
            raise RowError(self.name, "annotation", str(error)) from error
        return checked_objects(self.name, objects, size)


class UnknownClassError(ValueError):
    """An object whose class is not one of the given classes."""


def parse_xml(data: bytes, classes: Sequence[str]) -> Objects:
    """Parses the objects of an XML file; converts its edges, which are inclusive and 1-based.

    Raises:
        UnknownClassError: the class of an object is not in `classes`.
        ValueError: the XML is malformed, has a DOCTYPE, or lacks a required element.
    """
    root = _tree(data)
    if root.tag != "annotation":
        raise ValueError(f"the XML is a {root.tag!r:.40}, expected an annotation")
    boxes, indices, difficult = [], [], []
    for number, found in enumerate(root.iterfind("object"), 1):
        name = (found.findtext("name") or "").strip()
        if name not in classes:
            raise UnknownClassError(f"object {number}: {name!r:.60} is not one of the classes")
        indices.append(classes.index(name))
        where = f"object {number}"
        y1, x1, y2, x2 = (_number(found, f"bndbox/{side}", where) for side in _SIDES)
        boxes.append((y1 - 1, x1 - 1, y2, x2))
        difficult.append(bool(_number(found, "difficult", where, "0")))
    size = None
    if root.find("size") is not None:
        height, width = (_number(root, f"size/{side}", "the XML") for side in ("height", "width"))
        size = int(height), int(width)
    return Objects(boxes, indices, difficult, size)


def _tree(data: bytes) -> ElementTree.Element:
    """Parses XML; refuses a DOCTYPE, because only a DOCTYPE can define entities.

    ElementTree's own parser cannot refuse it.
    """
    builder, depth = ElementTree.TreeBuilder(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"the XML has elements nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"not XML: {error}") from error
    return builder.close()


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("the XML has a DOCTYPE, whose entities and references are not read")


def _number(element: ElementTree.Element, path: str, where: str, default: str = "") -> float:
    text = element.findtext(path, default).strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError(f"{where}: {path} is {text!r:.40}, expected a number")
    return value


def box_images(
    root: str, split: str | None, classes: Sequence[str] = CLASSES, images: str | None = None
) -> list[XmlImage]:
    """The images of a VOC folder that are annotated with boxes.

    Args:
        split: a list in `ImageSets/Main`; None: `trainval`, or all images if there are no lists.
        images: the image folder; None: `JPEGImages` if it exists, else that of the XML files.

    Raises:
        UserError: a folder or list is missing, or has no names.
    """
    folder = Path(root, "Annotations")
    if Path(root, "ImageSets").is_dir():
        names = read_names(Path(root, "ImageSets", "Main", f"{split or SPLIT}.txt"))
    elif split:
        raise UserError(f"{root} has no ImageSets folder: omit --split {split}")
    else:
        folder = folder if folder.is_dir() else Path(root)
        names = sorted(path.stem for path in folder.glob("*.xml") if path.name[0] != ".")
        if not names:
            raise UserError(f"{folder}: no XML files in it")
    usual = Path(root, "JPEGImages")
    by_stem = images_by_stem(images or (usual if usual.is_dir() else folder))
    return [
        XmlImage(*image_of(name, by_stem), str(folder / f"{_plain(name, root)}.xml"), classes)
        for name in names
    ]


def mask_images(
    root: str,
    split: str | None,
    class_num: int = len(MASK_CLASSES),
    images: str | None = None,
    folder: str = MASKS,
) -> list[MaskImage]:
    """The images of a VOC folder that have a mask, from a list in `ImageSets/Segmentation`.

    Args:
        split: the list; None: `trainval`.
        images: the image folder; None: `JPEGImages`.
        folder: the name of the mask folder; `SegmentationClassAug` includes the masks of SBD.

    Raises:
        UserError: a folder or list is missing, or has no names.
    """
    names = read_names(Path(root, "ImageSets", "Segmentation", f"{split or SPLIT}.txt"))
    by_stem = images_by_stem(images or Path(root, "JPEGImages"))
    if not Path(root, folder).is_dir():
        raise UserError(f"{Path(root, folder)}: no such folder of masks")
    return [
        MaskImage(
            *image_of(name, by_stem),
            os.path.join(root, folder, f"{_plain(name, root)}.png"),
            class_num,
        )
        for name in names
    ]


def _plain(name: str, root: str) -> str:
    """The name, after checking that it is a plain file name."""
    if not is_name(name):
        raise UserError(f"{root}: {name!r:.60} in a list is not a file name")
    return name
