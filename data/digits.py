"""Writes the demo data set: scikit-learn's 1,797 handwritten digits in the released formats.

    python data/digits.py --output quickstart/digits

Makes `images/*.jpg`, the image lists `train_im_list.txt` and `val_im_list.txt` and
`dictionary_and_semantic_hierarchy.txt`. Each image is annotated with its digit and every ancestor.

The split is by writer: the digits are stored writer by writer, about 130 each (a course by
scikit-learn's developers lists where each begins), and the images from number 1,415 on, by the last
three writers, are held out. A random split would put every writer in training and inflate the
result.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from data.common import command
from data.common.errors import UserError
from data.common.files import atomic_write
from data.lists.hierarchy import Hierarchy
from data.lists.rows import Row, format_row

IMAGE_SIDE = 40
MARGIN = 1  # of paper around the 8 x 8 values, which a crop may remove
JPEG_QUALITY = 95
LARGEST_VALUE = 16  # scikit-learn's pixels count the ink in a 4 x 4 block
FIRST_HELD_OUT = 1415
DICTIONARY = "dictionary_and_semantic_hierarchy.txt"
HEADER = "category_index\tcategory_id\tindex_of_parent_category\tcategory name"


class Category(NamedTuple):
    identity: str
    parent: int
    name: str


# Two trees, because a class has at most one parent; these four classes are above the digits.
ABOVE = (
    Category("even", -1, "even digit"),
    Category("odd", -1, "odd digit"),
    Category("loop", 0, "even digit with a closed loop"),
    Category("odd_prime", 1, "odd prime digit"),
)
PARENT_OF_DIGIT = (2, 1, 0, 3, 0, 3, 2, 3, 2, 1)
DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
CATEGORIES = ABOVE + tuple(
    Category(f"digit_{digit}", parent, name)
    for digit, (parent, name) in enumerate(zip(PARENT_OF_DIGIT, DIGIT_NAMES, strict=True))
)


def dictionary() -> str:
    """The dictionary and hierarchy, as the text of its file."""
    rows = (f"{c}\t{x.identity}\t{x.parent}\t{x.name}" for c, x in enumerate(CATEGORIES))
    return "\n".join([HEADER, *rows, ""])


def to_jpeg(pixels: np.ndarray) -> bytes:
    """A digit float [8, 8] with values 0 (paper) to 16 (ink) as a JPEG image, dark on light."""
    gray = np.round(255 - np.pad(pixels, MARGIN) * (255 / LARGEST_VALUE)).astype(np.uint8)
    image = Image.fromarray(gray).resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def write_digits(output: Path) -> tuple[int, int]:
    """Writes the data set into a folder; returns the numbers of training and held-out images."""
    from sklearn.datasets import load_digits

    atomic_write(output / DICTIONARY, dictionary())
    hierarchy = Hierarchy.read(output / DICTIONARY)
    digits = load_digits()
    lines = []
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        leaf = len(ABOVE) + int(digit)
        classes = (leaf, *hierarchy.ancestors(leaf))
        name = f"images/digit_{number:04d}.jpg"
        atomic_write(output / name, to_jpeg(pixels), sync=False)
        lines.append(format_row(Row(name, classes, (1.0,) * len(classes))))
    for name, part in (("train", lines[:FIRST_HELD_OUT]), ("val", lines[FIRST_HELD_OUT:])):
        atomic_write(output / f"{name}_im_list.txt", "".join(f"{line}\n" for line in part))
    return FIRST_HELD_OUT, len(lines) - FIRST_HELD_OUT


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    arguments = command.parse(parser, argv)
    try:
        train, held_out = write_digits(arguments.output)
    except ImportError:
        message = 'the digits come with scikit-learn: pip install -e ".[demo]"'
        raise UserError(message) from None
    print(f"{train} training and {held_out} held-out images of {len(CATEGORIES)} classes")
    return 0


if __name__ == "__main__":
    command.run(main)
