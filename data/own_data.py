"""Lists and a dictionary for one's own pictures: from a folder of classes, or from a CSV file.

    python data/own_data.py --images pictures/ --output mine/
    python data/own_data.py --images pictures/ --csv labels.csv --output mine/

A folder has one subfolder a class. A CSV file has the columns `image` (below --images) and
`labels`: class names, several joined by `;`, each with `:confidence` if need be (-1: unknown).
Writes `train_list.txt`, `val_list.txt`, `test_list.txt` and `dictionary.txt` into the output
folder. An image's split is a function of its name and the seed, so that pictures added later leave
the others where they are; yet every class has an image in training.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common.files import atomic_write
from data.common.images import PICTURE_SUFFIXES
from data.listing.lists import ListError, Row, format_row

SPLITS = ("train", "val", "test")
_LABEL = re.compile(r"(?P<name>[^:].*?)(?::(?P<confidence>-1(?:\.0*)?|0?\.\d+|[01](?:\.0*)?))?")


class OwnDataError(ValueError):
    """Pictures or labels that make no data set."""


class Labelled(NamedTuple):
    """An image, relative to the image folder, and the confidence of each of its classes."""

    image: str
    confidences: dict[str, float]


def from_folder(images: Path) -> list[Labelled]:
    """One image per picture below each subfolder of `images`, which names its class.

    Raises:
      OwnDataError: no subfolders, one without a picture, or a name that lists cannot hold.
    """
    folders = sorted(path for path in images.iterdir() if path.is_dir())
    if not folders:
        raise OwnDataError(f"{images} has no subfolders: expected one a class, or give --csv")
    found = []
    for folder in folders:
        pictures = sorted(p for p in folder.rglob("*") if p.suffix.lower() in PICTURE_SUFFIXES)
        if not pictures:
            raise OwnDataError(f"class {folder.name} is empty: no picture in {folder}")
        found += [
            _labelled(str(p.relative_to(images)), {folder.name: 1.0}, str(images)) for p in pictures
        ]
    return found


def from_csv(path: Path, images: Path) -> list[Labelled]:
    """The rows of a CSV file with the columns image and labels.

    Raises:
      OwnDataError: not UTF-8, a column, a name or pictures are missing, or a label is malformed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise OwnDataError(f"{path}:{line}: not UTF-8; save it as CSV UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows = []
    try:
        absent = {"image", "labels"}.difference(reader.fieldnames or ())
        if absent:
            raise OwnDataError(f"{path} has no column {sorted(absent)[0]!r} in its first line")
        for row in reader:  # a short row has None in its last cells
            where = f"{path}:{reader.line_num}"
            if None in row:
                raise OwnDataError(f"{where}: more cells than columns; labels are joined by ;")
            labels = dict(_labels(row["labels"] or "", where))
            rows.append(_labelled(row["image"] or "", labels, where))
    except csv.Error as error:  # a quotation mark that is not closed, say
        raise OwnDataError(f"{path}: after line {reader.line_num}: {error}") from None
    missing = [row.image for row in rows if not (images / row.image).is_file()]
    if missing:
        raise OwnDataError(f"{len(missing)} images of {path} are not in {images}: {missing[0]} ...")
    repeated = [image for image, count in Counter(row.image for row in rows).items() if count > 1]
    if repeated:
        raise OwnDataError(f"{path} has several rows of {repeated[0]}: join their labels by ;")
    if not rows:
        raise OwnDataError(f"{path} has no row below its first line")
    return rows


def _labelled(image: str, confidences: dict[str, float], where: str) -> Labelled:
    try:
        format_row(Row(image, (), ())).encode()
    except ListError as error:
        raise OwnDataError(f"{where}: {error}") from None
    except UnicodeEncodeError:
        raise OwnDataError(f"{where}: the image name {image!a} is not UTF-8") from None
    return Labelled(image, confidences)


def _labels(text: str, where: str) -> Iterator[tuple[str, float]]:
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _LABEL.fullmatch(part)
        if not match or not match["name"].strip():
            raise OwnDataError(f"{where}: expected name or name:confidence, found {part!r}")
        yield match["name"].strip(), float(match["confidence"] or 1.0)


def split(
    labelled: list[Labelled], val_share: float, test_share: float, seed: int
) -> dict[str, list[Labelled]]:
    """The images of each split, by a hash of their names.

    Training takes what the hash gives it first; a held-out image with a class that training then
    still lacks is moved to training.
    """
    parts: dict[str, list[Labelled]] = {name: [] for name in SPLITS}
    trained: set[str] = set()
    placed = sorted(
        ((_uniform(row.image, seed), row) for row in labelled),
        key=lambda pair: (pair[0], pair[1].image),
        reverse=True,
    )
    for position, row in placed:
        positives = {name for name, value in row.confidences.items() if value > 0}
        known = positives <= trained
        if position < test_share and known:
            name = "test"
        elif position < test_share + val_share and known:
            name = "val"
        else:
            name = "train"
            trained |= positives
        parts[name].append(row)
    return {name: sorted(rows, key=lambda row: row.image) for name, rows in parts.items()}


def _uniform(image: str, seed: int) -> float:
    digest = hashlib.sha256(f"{seed}/{image}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def write(output: Path, parts: Mapping[str, list[Labelled]]) -> list[str]:
    """Writes the lists and the dictionary; the class names by index."""
    names = sorted({name for rows in parts.values() for row in rows for name in row.confidences})
    index = {name: number for number, name in enumerate(names)}
    for split_name, rows in parts.items():
        lines = [
            format_row(
                Row(
                    row.image,
                    tuple(index[name] for name in row.confidences),
                    tuple(row.confidences.values()),
                )
            )
            for row in rows
        ]
        atomic_write(output / f"{split_name}_list.txt", "".join(f"{x}\n" for x in lines))
    text = "".join(f"{number}\t{name}\n" for number, name in enumerate(names))
    atomic_write(output / "dictionary.txt", text)
    return names


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--csv", type=Path, help="labels; without it, subfolders are the classes")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument("--val_share", type=float, default=0.1, help="share of validation images")
    parser.add_argument("--test_share", type=float, default=0.1, help="share of test images")
    parser.add_argument("--seed", type=int, default=1234)
    arguments = parser.parse_args(argv)
    shares = arguments.val_share, arguments.test_share
    if min(shares) < 0 or sum(shares) >= 1:
        parser.error("--val_share and --test_share must not be below 0, and leave some to train on")
    try:
        if arguments.csv:
            labelled = from_csv(arguments.csv, arguments.images)
        else:
            labelled = from_folder(arguments.images)
        parts = split(labelled, *shares, arguments.seed)
        names = write(arguments.output, parts)
    except (OwnDataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    report(names, parts)
    return 0


def report(names: list[str], parts: Mapping[str, list[Labelled]]) -> None:
    """Prints the images of each class and split as a table."""
    counts = {
        part: Counter(name for row in rows for name, value in row.confidences.items() if value > 0)
        for part, rows in parts.items()
    }
    print(f"{'class':<32}" + "".join(f"{part:>8}" for part in SPLITS))
    for name in names:
        print(f"{name:<32}" + "".join(f"{counts[part][name]:>8}" for part in SPLITS))
    print(f"{'all images':<32}" + "".join(f"{len(parts[part]):>8}" for part in SPLITS))


if __name__ == "__main__":
    sys.exit(main())
