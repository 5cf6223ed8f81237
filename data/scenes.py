"""Writes the demo data set of the dense tasks: scenes with exact boxes and masks, as VOC folders.

    python data/scenes.py --output scenes/

A scene is a part of one of scikit-learn's two photographs with two to four of its handwritten
digits pasted on it. A digit is cut out of its paper with a margin around the ink, so it is known
which pixels it covers. Both digits and photographs are held out: validation has other writers
(those held out in data/digits.py) and the right third of the photographs, training the left two
thirds.

Writes JPEGImages, Annotations (XML), SegmentationClass (PNG), ImageSets with the lists `train` and
`val`, and the names of the classes: `objects.txt` of boxes, `regions.txt` of masks, background
first. With --crops, also `crops/`: images of a single cut-out on the same photographs, with
`train_list.txt`, `val_list.txt` and `dictionary.txt`, to pretrain a network on.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image, ImageFilter

from data.common import command
from data.common.errors import UserError
from data.common.files import atomic_write
from data.dense.annotation import BACKGROUND
from data.digits import DIGIT_NAMES, FIRST_HELD_OUT, JPEG_QUALITY, LARGEST_VALUE
from data.lists.rows import Row, format_row
from data.outputs.dense_files import mask_image

TRAIN, VAL = PARTS = ("train", "val")
OBJECTS = 2, 4  # per scene, minimum and maximum
SIZES = 40, 72  # of the digits with their margin, in pixels
MARGIN = 2  # of paper around the 8 x 8 values; a cut-out keeps part of it
CROP_SIDES = 48, 80  # of the images of a single cut-out, in pixels
TRAINING_COLUMNS = 2 / 3  # of a photograph's width
LARGEST_OVERLAP = 0.1  # as a fraction of the smaller box
SMALLEST_SIDE = 96  # of a scene
ATTEMPTS = 50  # to find a place
DARK, LIGHT = (0, 80), (160, 256)  # ranges of the channels of the two colors


class CutOut(NamedTuple):
    """A digit without its surroundings: float [h, w, 3] in [0, 255], and its opacity [h, w]."""

    pixels: np.ndarray
    alpha: np.ndarray


class Scene(NamedTuple):
    """The image uint8 [S, S, 3], mask uint8 [S, S] (0: background), boxes [N, 4], classes [N]."""

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray


class Material(NamedTuple):
    """What scenes of a part are made of: digits [N, 8, 8], their classes [N], and photographs."""

    digits: np.ndarray
    classes: np.ndarray
    photographs: list[np.ndarray]


def material(part: str, class_num: int) -> Material:
    """The digits below `class_num` and the regions of photographs for one part."""
    from sklearn.datasets import load_digits, load_sample_images

    digits = load_digits()
    own = slice(FIRST_HELD_OUT) if part == TRAIN else slice(FIRST_HELD_OUT, None)
    values, classes = digits.images[own], digits.target[own]
    regions = []
    for photograph in load_sample_images().images:
        column = int(photograph.shape[1] * TRAINING_COLUMNS)
        regions.append(photograph[:, :column] if part == TRAIN else photograph[:, column:])
    chosen = classes < class_num
    return Material(values[chosen], classes[chosen], regions)


def cut_out(digit: np.ndarray, size: int, random: np.random.Generator) -> CutOut:
    """A digit [8, 8] in two random colors, enlarged to `size` pixels with its margin."""
    ink = Image.fromarray(np.pad(digit / LARGEST_VALUE, MARGIN).astype(np.float32))
    thick = Image.fromarray(np.uint8(255 * np.asarray(ink))).filter(ImageFilter.MaxFilter(3))
    smooth = {"resample": Image.Resampling.BICUBIC}
    side = round(size * ink.width / (len(digit) + 2))  # the margin that is kept is one value wide
    ink, thick = (
        np.clip(np.asarray(x.convert("F").resize((side, side), **smooth)) / most, 0, 1)
        for x, most in ((ink, 1), (thick, 255))
    )
    alpha = np.clip(4 * thick - 1.5, 0, 1)
    rows, columns = (np.flatnonzero((alpha > 0).any(axis)) for axis in (1, 0))
    own = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    dark, light = (random.integers(*limits, 3) for limits in (DARK, LIGHT))
    ink = ink[own][..., np.newaxis]
    return CutOut(ink * dark + (1 - ink) * light, alpha[own])


def background(photographs: Sequence[np.ndarray], side: int, random: np.random.Generator):
    """A random square of a photograph, resized to `side` pixels, uint8 [side, side, 3]."""
    photograph = photographs[random.integers(len(photographs))]
    window = round(min(photograph.shape[:2]) * random.uniform(0.4, 1))
    top, left = (random.integers(length - window + 1) for length in photograph.shape[:2])
    part = Image.fromarray(photograph[top : top + window, left : left + window])
    pixels = np.asarray(part.resize((side, side), Image.Resampling.BILINEAR))
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


def scene(
    source: Material,
    side: int,
    sizes: tuple[int, int],
    objects: tuple[int, int],
    random: np.random.Generator,
) -> Scene:
    """A scene of objects of `sizes` pixels; `objects` is their number, less if there is no room."""
    image = background(source.photographs, side, random).astype(np.float64)
    owner = np.full((side, side), -1)  # the object that a pixel shows
    taken, classes = np.zeros((0, 4), int), []
    for _ in range(random.integers(objects[0], objects[1] + 1)):
        number = random.integers(len(source.digits))
        pasted = cut_out(source.digits[number], int(random.integers(*sizes)), random)
        box = _place(pasted.alpha.shape, side, taken, random)
        if box is None:
            continue
        own = slice(box[0], box[2]), slice(box[1], box[3])
        alpha = pasted.alpha[..., np.newaxis]
        image[own] = alpha * pasted.pixels + (1 - alpha) * image[own]
        owner[own][pasted.alpha >= 0.5] = len(classes)
        taken = np.vstack([taken, box])
        classes.append(source.classes[number])
    labels = np.array(classes)
    mask = np.where(owner < 0, 0, labels[owner] + 1).astype(np.uint8)
    boxes = np.array([_box(owner == i) for i in range(len(labels))])
    return Scene(np.round(image).astype(np.uint8), mask, boxes, labels)


def _place(
    shape: tuple[int, int], side: int, taken: np.ndarray, random: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """A random box (y1, x1, y2, x2) of that shape with little overlap; None if none is found."""
    height, width = shape
    for _ in range(ATTEMPTS):
        y, x = random.integers(side - height + 1), random.integers(side - width + 1)
        box = (y, x, y + height, x + width)
        common = np.minimum(box[2:], taken[:, 2:]) - np.maximum(box[:2], taken[:, :2])
        areas = np.minimum(height * width, np.prod(taken[:, 2:] - taken[:, :2], axis=1))
        if (np.prod(np.maximum(common, 0), axis=1) <= LARGEST_OVERLAP * areas).all():
            return box
    return None


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """The box (y1, x1, y2, x2) around the pixels of a mask."""
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    return rows[0], columns[0], rows[-1] + 1, columns[-1] + 1


def annotation_xml(name: str, made: Scene) -> str:
    """VOC's XML of a scene: edges are inclusive and counted from 1."""
    root = ElementTree.Element("annotation")

    def add(parent: ElementTree.Element, **texts: object) -> None:
        for tag, text in texts.items():
            ElementTree.SubElement(parent, tag).text = str(text)

    add(root, filename=f"{name}.jpg")
    height, width, depth = made.image.shape
    add(ElementTree.SubElement(root, "size"), width=width, height=height, depth=depth)
    for (y1, x1, y2, x2), number in zip(made.boxes, made.classes, strict=True):
        found = ElementTree.SubElement(root, "object")
        add(found, name=DIGIT_NAMES[number], difficult=0)
        box = ElementTree.SubElement(found, "bndbox")
        add(box, xmin=x1 + 1, ymin=y1 + 1, xmax=x2, ymax=y2)
    ElementTree.indent(root)
    return ElementTree.tostring(root, "unicode") + "\n"


def write_scenes(output: Path, counts: Sequence[int], class_num: int, side: int, seed: int) -> None:
    """Writes `counts` training and validation scenes into a folder, and the class names."""
    for number, (part, count) in enumerate(zip(PARTS, counts, strict=True)):
        source = material(part, class_num)
        names = [f"{part}_{i:04d}" for i in range(count)]
        for i, name in enumerate(names):
            made = scene(source, side, SIZES, OBJECTS, np.random.default_rng([seed, number, i]))
            files = {
                f"JPEGImages/{name}.jpg": _encoded(Image.fromarray(made.image), "JPEG"),
                f"SegmentationClass/{name}.png": _encoded(mask_image(made.mask), "PNG"),
                f"Annotations/{name}.xml": annotation_xml(name, made),
            }
            for path, contents in files.items():
                atomic_write(output / path, contents, sync=False)
        for kind in ("Main", "Segmentation"):
            _write_lines(output / "ImageSets" / kind / f"{part}.txt", names)
    _write_lines(output / "objects.txt", DIGIT_NAMES[:class_num])
    _write_lines(output / "regions.txt", (BACKGROUND, *DIGIT_NAMES[:class_num]))


def write_crops(output: Path, counts: Sequence[int], class_num: int, seed: int) -> None:
    """Writes `counts` images of a single cut-out each, their lists and the dictionary."""
    for number, (part, count) in enumerate(zip(PARTS, counts, strict=True)):
        source, lines = material(part, class_num), []
        for i in range(count):
            random = np.random.default_rng([seed, len(PARTS) + number, i])
            side = int(random.integers(*CROP_SIDES))
            made = scene(source, side, (side * 3 // 4, side * 7 // 8), (1, 1), random)
            name = f"images/{part}_{i:05d}.jpg"
            contents = _encoded(Image.fromarray(made.image), "JPEG")
            atomic_write(output / name, contents, sync=False)
            lines.append(format_row(Row(name, (int(made.classes[0]),), (1.0,))))
        _write_lines(output / f"{part}_list.txt", lines)
    names = enumerate(DIGIT_NAMES[:class_num])
    _write_lines(output / "dictionary.txt", [f"{number}\t{name}" for number, name in names])


def _encoded(image: Image.Image, image_format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, quality=JPEG_QUALITY)
    return buffer.getvalue()


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    atomic_write(path, "".join(f"{line}\n" for line in lines))


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--output", type=Path, required=True, help="folder to write into")
    add("--scenes", type=int, nargs=2, default=(600, 100), help="of training and validation")
    add("--crops", type=int, nargs=2, default=(0, 0), help="images of a single cut-out, per part")
    add("--classes", type=int, default=10, choices=range(1, 11), help="number of digits used")
    add("--side", type=int, default=160, help="of a scene in pixels")
    add("--seed", type=int, default=1)
    args = command.parse(parser, argv)
    if args.side < SMALLEST_SIDE:
        raise UserError(
            f"--side {args.side}: must be at least {SMALLEST_SIDE} pixels, to fit the objects"
        )
    try:
        write_scenes(args.output, args.scenes, args.classes, args.side, args.seed)
        if any(args.crops):
            write_crops(args.output / "crops", args.crops, args.classes, args.seed)
    except ImportError:
        message = 'the digits and photographs come with scikit-learn: pip install -e ".[demo]"'
        raise UserError(message) from None
    made = f"{args.scenes[0]} training and {args.scenes[1]} held-out scenes"
    print(f"{made} of {args.classes} classes in {args.output}")
    return 0


if __name__ == "__main__":
    command.run(main)
