"""Outputs of detectors and segmentation networks: rows of result files, masks and drawings."""

from __future__ import annotations

import functools
import io
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from data.common import mirror
from data.common.errors import UserError
from data.common.files import atomic_write, rewritten
from data.outputs.result_files import ResultFormat

LINE_PIXELS = 400  # drawn lines are 1 pixel wide per this many pixels of the image's long side
OVERLAY = 0.6  # weight of the class colors over the image
_PART_LENGTH = 200  # longest name in a path; file systems allow 255 bytes


class Row(NamedTuple):
    """An image in a result: its name, (height, width), what was found, and why it was unreadable.

    `found` is a list of objects from `found_objects`, or a mask from `found_mask`.
    """

    image: str
    size: tuple[int, int]
    found: Any
    problem: str = ""


def found_objects(
    boxes: np.ndarray, scores: np.ndarray | None, classes: np.ndarray, names: Sequence[str]
) -> list[dict[str, Any]]:
    """The objects of a row from boxes (y1, x1, y2, x2) [D, 4], scores [D] and classes [D].

    `scores` is None for ground truth.
    """
    extra: list[dict[str, float]] = [{} for _ in classes]
    if scores is not None:
        extra = [{"score": round(float(score), 6)} for score in scores]
    return [
        {
            "class": int(cls),
            "name": names[cls],
            **scored,
            "bbox": [round(float(n), 2) for n in (x1, y1, x2 - x1, y2 - y1)],
        }
        for (y1, x1, y2, x2), scored, cls in zip(boxes, extra, classes, strict=True)
    ]


def found_mask(mask: np.ndarray, names: Sequence[str], path: str) -> dict[str, Any]:
    """The mask of a row: its file, and the number of pixels of each class by name."""
    classes, pixels = np.unique(mask, return_counts=True)
    counts = {names[cls]: int(count) for cls, count in zip(classes, pixels, strict=True)}
    return {"mask": path, "pixels": counts}


def formats(names: Sequence[str]) -> dict[str, ResultFormat]:
    """The format for each suffix: COCO JSON of objects, or a JSON line per image."""
    coco = ResultFormat(b"", _line, functools.partial(_write_coco, names))
    return {".json": coco, **LINE_FORMATS}


def _line(row: Row) -> bytes:
    height, width = row.size
    content = {"image": row.image, "width": width, "height": height, "found": row.found}
    return (json.dumps(content | {"problem": row.problem or None}) + "\n").encode()


LINE_FORMATS = {".jsonl": ResultFormat(b"", _line)}


def _write_coco(names: Sequence[str], body: Path, result: Path) -> None:
    """Writes COCO's instances format, with a `score` per object; category k + 1 is class k."""
    categories = [{"id": number, "name": name} for number, name in enumerate(names, 1)]
    with rewritten(result) as file:
        file.write(b'{"images": [')
        _write_items(file, _coco_images(body))
        file.write(b'],\n"categories": ' + json.dumps(categories).encode())
        file.write(b',\n"annotations": [')
        _write_items(file, _coco_annotations(body))
        file.write(b"]}\n")


def _write_items(file: Any, items: Iterator[dict[str, Any]]) -> None:
    separator = b"\n"
    for item in items:
        file.write(separator + json.dumps(item).encode())
        separator = b",\n"


def _rows(body: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with open(body, "rb") as lines:
        yield from ((number, json.loads(line)) for number, line in enumerate(lines, 1))


def _coco_images(body: Path) -> Iterator[dict[str, Any]]:
    for number, row in _rows(body):
        sizes = {"width": row["width"], "height": row["height"]}
        problem = {"problem": row["problem"]} if row["problem"] else {}
        yield {"id": number, "file_name": row["image"], **sizes, **problem}


def _coco_annotations(body: Path) -> Iterator[dict[str, Any]]:
    count = 0
    for number, row in _rows(body):
        for found in row["found"] or ():
            count += 1
            _, _, width, height = found["bbox"]
            yield {
                "id": count,
                "image_id": number,
                "category_id": found["class"] + 1,
                "bbox": found["bbox"],
                "area": round(width * height, 2),
                "iscrowd": 0,
                "score": found["score"],
            }


def file_in(folder: str | os.PathLike, name: str, suffix: str) -> Path:
    """The output file for an image: always inside the folder, whatever the image's name."""
    parts = [part for part in PurePosixPath(name.replace("\0", "_")).parts if part != "/"]
    safe = ["_up_" if part == ".." else part[:_PART_LENGTH] for part in parts] or ["image"]
    return Path(folder, *safe[:-1], safe[-1] + suffix)


def save_image(image: Image.Image, path: Path, **options: Any) -> None:
    """Writes an image file atomically, in the format of its suffix.

    Raises:
        UserError: the file cannot be written.
    """
    encoded = io.BytesIO()
    image.save(encoded, Image.registered_extensions()[path.suffix], **options)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, encoded.getvalue())
        mirror.release(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error


@functools.cache
def palette() -> np.ndarray:
    """PASCAL VOC's class colors, uint8 [256, 3]; bit k of a class goes to channel k % 3."""
    colors, classes = np.zeros((256, 3), np.uint8), np.arange(256)
    for bit in range(8):
        place, channel = divmod(bit, 3)
        colors[:, channel] |= ((classes >> bit & 1) << (7 - place)).astype(np.uint8)
    return colors


def mask_image(mask: np.ndarray) -> Image.Image:
    """A mask int [H, W] of classes below 256 as a palette image with the classes as pixels."""
    image = Image.frombytes("P", mask.shape[::-1], mask.astype(np.uint8).tobytes())
    image.putpalette(palette().ravel().tolist())
    return image


def draw_mask(pixels: np.ndarray, mask: np.ndarray) -> Image.Image:
    """An image uint8 [H, W, 3] overlaid with class colors everywhere but on the background."""
    colors = palette()[mask]
    weight = np.where(mask[..., np.newaxis] > 0, OVERLAY, 0.0)
    return Image.fromarray(np.rint(pixels * (1 - weight) + colors * weight).astype(np.uint8))


def draw_objects(pixels: np.ndarray, objects: Sequence[dict[str, Any]]) -> Image.Image:
    """An image uint8 [H, W, 3] with the box, the name and any score of each object drawn on it."""
    image = Image.fromarray(pixels)
    draw, line = ImageDraw.Draw(image), max(1, max(image.size) // LINE_PIXELS)
    for found in reversed(objects):  # the best ones on top
        color = tuple(palette()[(found["class"] + 1) % 256].tolist())
        x, y, width, height = found["bbox"]
        draw.rectangle([x, y, x + width, y + height], outline=color, width=line)
        text = found["name"] + (f" {found['score']:.2f}" if "score" in found else "")
        frame = draw.textbbox((x + line, y + line), text)
        draw.rectangle(frame, fill=color)
        ink = "black" if sum(color) > 3 * 128 else "white"
        draw.text((x + line, y + line), text, fill=ink)
    return image


def drawn_batch(draw: Callable[..., Image.Image], images: Any, *targets: Any) -> np.ndarray:
    """Applies `draw(pixels, *targets)` to each image of a batch [B, H, W, 3] in [-1, 1]."""
    from data.input.image_batches import to_image  # imports TensorFlow

    rows = zip(*map(np.asarray, (images, *targets)), strict=True)
    drawn = [draw(np.asarray(to_image(image)), *others) for image, *others in rows]
    return np.stack(drawn).astype(np.float32) / 127.5 - 1
