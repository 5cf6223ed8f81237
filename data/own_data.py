"""Makes lists and a dictionary for your own images, from class folders or a CSV file.

    python data/own_data.py --images images/ --output mine/
    python data/own_data.py --images images/ --csv labels.csv --output mine/

A folder has one subfolder per class, or `train`, `val` and `test` with the classes below them; that
split is kept. With --nested, folders below a class are its subclasses, and an image has all classes
on its path. Hidden and system files are skipped and counted.

A CSV file has the columns `image` (below --images) and `labels`: class names, several joined by
`;`, each with an optional `:confidence` (-1: unknown). Options set other column names, and a column
that assigns each row to train, val or test. --val_csv and --test_csv give separate files of rows
for validation and test.

Writes `train_list.txt`, `val_list.txt`, `test_list.txt` and `dictionary.txt` into the output
folder. If no split is given, an image's split depends only on its name and the seed, except that
every class gets an image in training, and validation gets one if training can spare it. --update
adds images that are new since the last run: the others stay in their split.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import command, mirror
from data.common.errors import UserError
from data.common.files import atomic_write, files_below, subfolders
from data.common.images import IMAGE_SUFFIXES
from data.lists.rows import ListError, Row, format_row
from data.lists.split import SPLITS, Labeled, positives, split

_SPLIT_OF = {name: name for name in SPLITS} | {
    **{"training": "train", "valid": "val", "validation": "val", "testing": "test"}
}
HEADER = "index\tid\tparent\tname"  # of a dictionary with a hierarchy
_LABEL = re.compile(r"(?P<name>[^:].*?)(?::(?P<confidence>-1(?:\.0*)?|0?\.\d+|[01](?:\.0*)?))?")


def from_folder(images: Path, skipped: Counter[str]) -> list[Labeled]:
    """The images below each subfolder of `images`, whose name is their class.

    Args:
      skipped: counts files and folders that are not images, see `files_below`.

    Raises:
      UserError: no subfolders, one without an image, or a name that lists cannot hold.
    """
    folders = subfolders(images, skipped)
    if not folders:
        raise UserError(f"{images} has no subfolders: expected one per class, or give --csv")
    found = []
    for folder in folders:
        found_paths = files_below(folder, IMAGE_SUFFIXES, skipped)
        paths = [os.path.relpath(path, images) for path in found_paths]
        if not paths:
            raise UserError(f"class {folder.name} is empty: no image in {folder}")
        found += [_labeled(image, {folder.name: 1.0}, str(images)) for image in paths]
    return found


def from_tree(images: Path, skipped: Counter[str]) -> list[Labeled]:
    """Every image in a folder below `images`, with all folders on its path as its classes.

    A class is named by its path, such as `animal/dog`. Same arguments as `from_folder`.

    Raises:
      UserError: there is no such image, or a name that lists cannot hold.
    """
    paths = [Path(p).relative_to(images) for p in files_below(images, IMAGE_SUFFIXES, skipped)]
    loose = [path for path in paths if len(path.parts) == 1]
    if loose:
        skipped["files next to the folders"] += len(loose)
    found = [
        _labeled(str(path), {str(above): 1.0 for above in path.parents[:-1]}, str(images))
        for path in paths
        if len(path.parts) > 1
    ]
    if not found:
        raise UserError(f"{images} has no image in a folder below it")
    return found


def given_splits(images: Path) -> dict[str, Path]:
    """The folders of splits, by split; empty unless `images` has `train` with classes below it.

    Raises:
      UserError: there are other folders next to them, or two are the same split.
    """
    folders = subfolders(images, Counter())
    named = [(_SPLIT_OF.get(path.name.lower()), path) for path in folders]
    found = {name: path for name, path in named if name}
    is_split = "train" in found and (len(found) > 1 or len(named) == 1)
    if not is_split or not subfolders(found["train"], Counter()):
        return {}
    if len(found) < len(named):
        other = next(path for name, path in named if found.get(name) != path)
        raise UserError(
            f"{images} has splits with classes below them, and {other.name} next to them:"
            f" move {other}, or give --images one of the folders"
        )
    return found


class Columns(NamedTuple):
    """Column names of a CSV file; `split` is None if it has no such column."""

    image: str = "image"
    labels: str = "labels"
    split: str | None = None


COLUMNS = Columns()


def from_csv(
    path: Path, images: Path, columns: Columns = COLUMNS
) -> dict[str | None, list[Labeled]]:
    """The rows of a CSV file, by split; all under None if there is no column of splits.

    Raises:
      UserError: the file is not UTF-8 or not CSV, has no rows or lacks a column; an image is
        missing or repeated; or a name, split or label is malformed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise UserError(f"{path}:{line}: not UTF-8; save it as CSV UTF-8") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    rows, parts = [], {}
    try:
        absent = {name for name in columns if name}.difference(reader.fieldnames or ())
        if absent:
            raise UserError(
                f"{path} has no column {min(absent)!r} in its first line: name yours with"
                " --image_column, --labels_column, --split_column"
            )
        for row in reader:  # a short row has None in its last cells
            where = f"{path}:{reader.line_num}"
            if None in row:
                raise UserError(f"{where}: more cells than columns; join labels with ;")
            labels = dict(_labels(row[columns.labels] or "", where))
            rows.append(_labeled(row[columns.image] or "", labels, where))
            part = _split_named(row[columns.split], where) if columns.split else None
            parts.setdefault(part, []).append(rows[-1])
    except csv.Error as error:  # a quotation mark that is not closed, say
        raise UserError(f"{path}: after line {reader.line_num}: {error}") from None
    missing = [row.image for row in rows if not (images / row.image).is_file()]
    if missing:
        raise UserError(f"{len(missing)} images of {path} are not in {images}: {missing[0]} ...")
    repeated = [image for image, count in Counter(row.image for row in rows).items() if count > 1]
    if repeated:
        raise UserError(f"{path} has several rows for {repeated[0]}: join their labels with ;")
    if not rows:
        raise UserError(f"{path} has no rows below its first line")
    return parts


def _split_named(text: str | None, where: str) -> str:
    name = _SPLIT_OF.get((text or "").strip().lower())
    if not name:
        raise UserError(f"{where}: the split is {text!r}: use {', '.join(SPLITS)}")
    return name


def _labeled(image: str, confidences: dict[str, float], where: str) -> Labeled:
    try:
        format_row(Row(image, (), ())).encode()
    except ListError as error:
        raise UserError(f"{where}: {error}") from None
    except UnicodeEncodeError:
        raise UserError(f"{where}: the image name {image!a} is not UTF-8") from None
    return Labeled(image, confidences)


def _labels(text: str, where: str) -> Iterator[tuple[str, float]]:
    for part in filter(None, (part.strip() for part in text.split(";"))):
        match = _LABEL.fullmatch(part)
        if not match or not match["name"].strip():
            raise UserError(f"{where}: expected name or name:confidence, found {part!r}")
        yield match["name"].strip(), float(match["confidence"] or 1.0)


def dictionary(names: Sequence[str], nested: bool) -> str:
    """The text of the dictionary of these classes; `nested` names are paths, see `from_tree`."""
    if not nested:
        return "".join(f"{number}\t{name}\n" for number, name in enumerate(names))
    index = {name: number for number, name in enumerate(names)}
    rows = (
        f"{number}\t{name}\t{index.get(os.path.dirname(name), -1)}\t{os.path.basename(name)}\n"
        for number, name in enumerate(names)
    )
    return "".join([f"{HEADER}\n", *rows])


def write(
    output: Path,
    parts: Mapping[str, list[Labeled]],
    nested: bool = False,
    replace: bool = False,
    update: bool = False,
) -> list[str]:
    """Writes the lists and the dictionary; returns the class names by index.

    Args:
      nested: class names are paths, see `from_tree`.
      replace: overwrite other lists.
      update: overwrite lists of the same classes that lack some of the images.

    Raises:
      UserError: the folder has other lists.
    """
    names = sorted({name for rows in parts.values() for row in rows for name in row.confidences})
    index = {name: number for number, name in enumerate(names)}
    files = {"dictionary.txt": dictionary(names, nested)}
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
        files[f"{split_name}_list.txt"] = "".join(f"{line}\n" for line in lines)
    for name, text in files.items():
        path = output / name
        mirror.fetch(path)
        if replace or not path.exists() or path.read_bytes() == text.encode():
            continue
        if not update:
            raise UserError(
                f"{path} was made from other images, labels or options; nothing is written:"
                " give another --output, or --update for images added since, or --replace"
            )
        lost = set(path.read_text("utf-8").splitlines()) - set(text.splitlines())
        if lost or name == "dictionary.txt":
            row = min(lost, default="a new class")
            raise UserError(
                f"--update: {path} would change in more than new images ({row}): give another"
                " --output; a network trained before is a good CHECKPOINT to start from"
            )
    for name, text in files.items():
        atomic_write(output / name, text)
    return names


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, required=True, help="folder of the images")
    parser.add_argument("--csv", type=Path, help="labels; without it, subfolders are the classes")
    for part in SPLITS[1:]:
        parser.add_argument(f"--{part}_csv", type=Path, help=f"rows of the split {part}")
    for field, default in Columns._field_defaults.items():
        parser.add_argument(
            f"--{field}_column", default=default, help="name of this column in the CSV files"
        )
    parser.add_argument("--nested", action="store_true", help="subfolders are subclasses")
    parser.add_argument("--output", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--val_fraction",
        "--val_share",
        type=float,
        default=0.1,
        help="fraction of validation images",
    )
    parser.add_argument(
        "--test_fraction", "--test_share", type=float, default=0.1, help="fraction of test images"
    )
    parser.add_argument("--replace", action="store_true", help="overwrite lists of other images")
    parser.add_argument("--update", action="store_true", help="add images that are new")
    parser.add_argument("--seed", type=int, default=1234)
    arguments = command.parse(
        parser, argv, folders=["output"], inputs=["csv", "val_csv", "test_csv"]
    )
    fractions = arguments.val_fraction, arguments.test_fraction
    if min(fractions) < 0 or sum(fractions) >= 1:
        parser.error(
            "--val_fraction and --test_fraction must not be negative, and leave images to train on"
        )
    if not arguments.csv and (arguments.val_csv or arguments.test_csv or arguments.split_column):
        parser.error("--val_csv, --test_csv and --split_column need --csv")
    if arguments.csv and arguments.nested:
        parser.error("--nested is for folders: give the labels of each row in --csv")
    skipped = Counter()
    parts = _parts(arguments, skipped)
    changes = arguments.nested, arguments.replace, arguments.update
    names = write(arguments.output, parts, *changes)
    report(names, parts, skipped)
    return 0


def _parts(arguments: argparse.Namespace, skipped: Counter[str]) -> dict[str, list[Labeled]]:
    images, fractions = arguments.images, (arguments.val_fraction, arguments.test_fraction)
    read = from_tree if arguments.nested else from_folder
    if arguments.csv:
        given = _given_rows(arguments, images)
    elif folders := given_splits(images):
        given = {
            name: [
                row._replace(image=f"{folder.name}/{row.image}") for row in read(folder, skipped)
            ]
            for name, folder in folders.items()
        }
    else:
        given = {"train": read(images, skipped)}
    # A split that is not given is taken from the training images.
    fractions = tuple(0.0 if n in given else s for n, s in zip(SPLITS[1:], fractions, strict=True))
    return split(given["train"], *fractions, arguments.seed) | {
        name: rows for name, rows in given.items() if name != "train"
    }


def _given_rows(arguments: argparse.Namespace, images: Path) -> dict[str, list[Labeled]]:
    """The rows of all CSV files, by split; rows without one are under `train`."""
    columns = Columns(*(getattr(arguments, f"{name}_column") for name in Columns._fields))
    given = from_csv(arguments.csv, images, columns)
    parts = {part or "train": rows for part, rows in given.items()}
    files = {part: getattr(arguments, f"{part}_csv") for part in SPLITS[1:]}
    for part, path in files.items():
        if path:
            rows = from_csv(path, images, columns._replace(split=None))[None]
            parts[part] = [*parts.get(part, ()), *rows]
    if "train" not in parts:
        raise UserError(f"{arguments.csv} has no row of the split train")
    names = Counter(row.image for rows in parts.values() for row in rows)
    for name in (name for name, count in names.items() if count > 1):
        raise UserError(f"{name} is in two of the CSV files")
    return parts


def report(names: list[str], parts: Mapping[str, list[Labeled]], skipped: Counter[str]) -> None:
    """Prints a table of images per class and split, and anything unexpected."""
    counts = {
        part: Counter(name for row in rows for name in positives(row))
        for part, rows in parts.items()
    }
    if skipped:
        kinds = ", ".join(f"{count} {kind}" for kind, count in skipped.most_common(8))
        print(f"skipped {skipped.total()} files and folders that are not images ({kinds})")
    for name in (name for name in names if not counts["train"][name]):
        print(f"class {name} has no image to train on")
    for part in (part for part in SPLITS if not parts[part]):
        print(f"no image for {part}: training needs them all, or its fraction is 0")
    print(f"{'class':<32}" + "".join(f"{part:>8}" for part in SPLITS))
    for name in names:
        print(f"{name:<32}" + "".join(f"{counts[part][name]:>8}" for part in SPLITS))
    print(f"{'all images':<32}" + "".join(f"{len(parts[part]):>8}" for part in SPLITS))


if __name__ == "__main__":
    command.run(main)
