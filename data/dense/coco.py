"""COCO annotations: one JSON file with `images`, `annotations` and `categories`.

Only boxes are read, not polygons; objects with `iscrowd` become difficult. For masks, one per
image, see masks.py.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data.common.errors import UserError
from data.common.state import is_inside
from data.dense.annotation import (
    Annotation,
    Objects,
    Problem,
    check_class_names,
    checked_objects,
    is_utf8,
)
from data.tfrecords.conversion import RowError

LOGGER = logging.getLogger(__name__)
MAX_JSON_BYTES = 2 << 30  # COCO's largest file has 0.5 GB


@dataclass(frozen=True)
class CocoImage:
    """An image of a COCO file; see `annotation.AnnotatedImage`."""

    name: str
    image: str
    problem: Problem
    where: str
    objects: Objects

    def made_from(self) -> bytes:
        """See `AnnotatedImage`."""
        return repr((self.name, self.objects, self.problem)).encode("utf-8", "surrogateescape")

    def annotation(self, size: tuple[int, int]) -> Annotation:
        """See `AnnotatedImage`."""
        return checked_objects(self.name, self.objects, size)


def read(path: str, images: str) -> tuple[list[CocoImage], list[str]]:
    """Reads the images of a COCO file, in file order, and the names of its classes.

    Classes are numbered from 0 in the order of their category ids.

    Args:
        images: the folder that file names are relative to.

    Raises:
        UserError: the file is not a COCO file, or the folder does not exist.
    """
    if not os.path.isdir(images):
        raise UserError(f"{images}: no such folder of images")
    content = _content(path)
    index, names = _classes(path, content["categories"])
    of_image: dict[Any, list[dict]] = {}
    for number, entry in enumerate(content["images"]):
        key = entry.get("id")
        if type(key) not in (int, str) or key in of_image:
            raise UserError(f"{path}: images[{number}] has no unique id: {key!r:.40}")
        of_image[key] = []
    lost = 0
    for entry in content["annotations"]:
        key = entry.get("image_id")
        if type(key) in (int, str) and key in of_image:
            of_image[key].append(entry)
        else:
            lost += 1
    if lost:
        LOGGER.warning("%s: ignored %d annotations whose image is not in the file", path, lost)
    found = [_image(path, images, e, of_image[e["id"]], index) for e in content["images"]]
    return found, names


def _content(path: str) -> dict[str, list[dict]]:
    if os.path.getsize(path) > MAX_JSON_BYTES:
        raise UserError(f"{path}: more than {MAX_JSON_BYTES} bytes; split it")
    try:
        # Polygons, nine tenths of the file, are dropped during parsing.
        content = json.loads(Path(path).read_bytes(), object_hook=_without_polygons)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise UserError(f"{path}: not JSON: {error}") from None
    for key in ("images", "annotations", "categories"):
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise UserError(f"{path}: no list of {key}; expected COCO instances")
    if not content["images"]:
        raise UserError(f"{path}: no images in it")
    return content


def _without_polygons(entry: dict) -> dict:
    entry.pop("segmentation", None)
    return entry


def _classes(path: str, categories: list[dict]) -> tuple[dict[int, int], list[str]]:
    """Returns the class of each category id, and the class names."""
    for number, entry in enumerate(categories):
        if type(entry.get("id")) is not int or not isinstance(entry.get("name"), str):
            raise UserError(f"{path}: categories[{number}] has no id and name: {entry!r:.60}")
    ordered = sorted(categories, key=lambda entry: entry["id"])
    index = {entry["id"]: number for number, entry in enumerate(ordered)}
    if len(index) < len(ordered):
        raise UserError(f"{path}: two categories have the same id")
    names = [entry["name"] for entry in ordered]
    check_class_names(names, f"{path}: categories")
    return index, names


def _image(
    path: str, folder: str, entry: dict, annotations: list[dict], index: dict[int, int]
) -> CocoImage:
    where = f"{path}: image {entry['id']!r:.40}"
    name, nothing = entry.get("file_name"), Objects((), (), ())
    if not is_inside(name) or not is_utf8(name):
        problem = "name", f"file_name {name!r:.60} is not a path inside the folder"
        return CocoImage("", "", problem, where, nothing)
    image = os.path.join(folder, name)
    try:
        objects = _objects(entry, annotations, index)
    except RowError as error:
        return CocoImage(name, image, (error.kind, error.reason), where, nothing)
    return CocoImage(name, image, (), where, objects)


def _objects(entry: dict, annotations: list[dict], index: dict[int, int]) -> Objects:
    size = entry.get("height"), entry.get("width")
    if size != (None, None) and not all(type(side) is int for side in size):
        raise RowError("", "annotation", f"height and width are {size!r:.60}")
    boxes, classes = [], []
    for number, annotation in enumerate(annotations, 1):
        box, category = annotation.get("bbox"), annotation.get("category_id")
        if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
            raise RowError("", "annotation", f"object {number}: bbox is {box!r:.60}")
        if type(category) is not int or category not in index:
            reason = f"object {number}: category_id {category!r:.40} is not in `categories`"
            raise RowError("", "class", reason)
        x, y, width, height = box
        boxes.append((y, x, y + height, x + width))
        classes.append(index[category])
    difficult = [bool(annotation.get("iscrowd")) for annotation in annotations]
    return Objects(boxes, classes, difficult, None if size == (None, None) else size)


def _is_number(value: object) -> bool:
    return isinstance(value, float) or (type(value) is int and abs(value) < 1 << 53)
