"""Records of images with boxes or a mask, and the file of class names next to them.

A record is a sparse example of `data/tfrecords/examples.py`, whose labels are the classes present
in the image (for a mask, without the background), with additional features:

* `boxes` (4 N floats: y1, x1, y2, x2 in pixels of the stored image), `box_classes` and
  `box_difficult` (N integers); or
* `mask` (bytes: a PNG of the image's size, palette or gray; 0: background, 255: ignored).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.common import mirror, storage
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.images import Jpeg
from data.dense.annotation import Annotation, read_class_names
from data.tfrecords.examples import Features, encode_example
from data.tfrecords.records import RecordError

CLASS_NAMES = "classes.txt"
_BOX_KEYS = ("boxes", "box_classes", "box_difficult")
_WRITER = "data/dense_records.py --tasks"


class DenseSample(NamedTuple):
    """One record: an encoded image, its name, and its objects [N] or its mask.

    `boxes` are (y1, x1, y2, x2) in pixels of the upright image, `classes` from 0; `mask` is a PNG.
    """

    image: bytes
    name: bytes
    boxes: np.ndarray  # float32 [N, 4]
    classes: np.ndarray  # int32 [N]
    difficult: np.ndarray  # bool [N]
    mask: bytes | None


def encode_dense(name: str, image: Jpeg, annotation: Annotation) -> bytes:
    """The serialized example of an image with its boxes or its mask."""
    if annotation.mask is None:
        others = dict(zip(_BOX_KEYS, annotation[1:4], strict=True))
    else:
        others = {"mask": annotation.mask}
    return encode_example(
        *("sparse", image.data, name, image.width, image.height, annotation.present),
        others=others,
    )


def decode_dense(features: Features, class_num: int) -> DenseSample:
    """The sample of a record that has boxes or a mask.

    Raises:
        UserError: no image, neither boxes nor a mask, or a class outside [0, class_num).
        RecordError: a box is empty or not finite.
    """
    image, name, mask = (
        next(iter(features[key].bytes_list.value), b"") for key in ("image", "name", "mask")
    )
    if not image:
        raise UserError("no image in it; a record holds `image`, the bytes of a JPEG")
    if not mask and "boxes" not in features:
        raise UserError(f"neither boxes nor a mask in it; {_WRITER} writes such records")
    boxes = np.array(features["boxes"].float_list.value[:], np.float32)
    classes, difficult = (
        np.array(features[key].int64_list.value[:], np.int64) for key in _BOX_KEYS[1:]
    )
    if not len(boxes) == 4 * len(classes) == 4 * len(difficult):
        found = f"{len(classes)} `box_classes`, {len(difficult)} `box_difficult`"
        raise UserError(f"{len(boxes)} numbers in `boxes`, but {found}")
    boxes = boxes.reshape(-1, 4)
    # `label_index` has the classes of a mask, so a wrong class_num is found without decoding it.
    present = np.array([*classes, *features["label_index"].int64_list.value], np.int64)
    outside = present[(present < 0) | (present >= class_num)]
    if outside.size:
        label = f"class {outside[0]} is out of range [0, {class_num})"
        raise UserError(f"{label}: check --class_num, the lines of {CLASS_NAMES}")
    if not (np.isfinite(boxes).all() and (boxes[:, :2] < boxes[:, 2:]).all()):
        raise RecordError("a box is empty or not finite")
    return DenseSample(
        image, name, boxes, classes.astype(np.int32), difficult.astype(bool), mask or None
    )


def decode_boxes(features: Features, class_num: int) -> DenseSample:
    """`decode_dense` for records with boxes; raises UserError if there are none."""
    if "boxes" not in features:
        raise UserError(f"no boxes in it; {_WRITER}=boxes writes such records")
    return decode_dense(features, class_num)


def decode_mask(features: Features, class_num: int) -> DenseSample:
    """`decode_dense` for records with a mask; raises UserError if there is none."""
    if "mask" not in features:
        raise UserError(f"no mask in it; {_WRITER}=masks writes such records")
    return decode_dense(features, class_num)


def classes_of_records(data_dir: str) -> dict[str, str | int]:
    """Finds the class names file next to the records or in the folder above, and counts its names.

    Returns:
        Values for the flags dictionary and class_num; {} if there is no such file.
    """
    folder = data_dir.rstrip("/")
    for place in (folder, os.path.dirname(folder)):
        path = os.path.join(place, CLASS_NAMES)
        if storage.is_url(path) and storage.find(path):
            path = mirror.open_input("data_dir", path)
        if os.path.isfile(path):
            return {"dictionary": path, "class_num": len(read_class_names(path))}
    return {}


def write_class_names(folder: str | os.PathLike, names: Sequence[str]) -> None:
    """Writes the class names next to the records, one per line, by index.

    Raises:
        UserError: the file exists with other names.
    """
    path = Path(folder, CLASS_NAMES)
    if not path.exists():
        atomic_write(path, "".join(f"{name}\n" for name in names))
    elif read_class_names(path) != list(names):
        raise UserError(f"{path} has other classes: give another --tfrecords folder")
