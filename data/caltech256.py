"""Caltech-256's protocol: random splits, a linear classifier, and the table over the splits.

    python data/caltech256.py split --images 256_ObjectCategories --output out/
    python data/caltech256.py linear --features features.npz --output out/
    python data/caltech256.py table --output out/

example/finetune_caltech256.sh runs these steps. --images is any folder of class folders `NNN.name`;
`NNN.clutter` is left out. Each split trains on --train random images per class and tests on the
rest. The metric is the mean of the per-class recalls, evaluate.py's `mean_class_accuracy`; the
table has its mean and standard deviation over the splits.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from data import own_data
from data.common import command
from data.common.errors import UserError
from data.common.files import atomic_write, files_below, subfolders
from data.common.images import IMAGE_SUFFIXES
from data.lists.rows import read_rows
from data.lists.split import Labeled, split_by_count

MEASURE = "mean_class_accuracy"
ALL_IMAGES = "all_list.txt"
# Kind of result -> its file in the folder of the split.
FILES = {"finetuned": "report/metrics.json", "linear": "linear.json"}

_CLASS = re.compile(r"\d{3}\.(?P<name>.+)")
_CLUTTER = "clutter"


def class_folders(images: Path) -> list[Path]:
    """The folders `NNN.name`, sorted by name, without the clutter folder.

    Raises:
      UserError: `images` is not a folder, has fewer than two of them, or has others, too.
    """
    if not images.is_dir():
        raise UserError(f"--images {images}: no such folder")
    folders = subfolders(images, Counter())
    other = [path for path in folders if not _CLASS.fullmatch(path.name)]
    classes = [path for path in folders if path not in other and not _is_clutter(path)]
    if other and classes:
        raise UserError(f"{other[0]} is not named like 001.ak47: move it out of {images}")
    if len(classes) < 2:
        raise UserError(
            f"{images} has no class folders like 001.ak47 and 002.american-flag: give the folder"
            " 256_ObjectCategories of the unpacked archive"
        )
    if len(classes) == len(folders):
        print(f"{images} has no folder NNN.{_CLUTTER} to leave out: all its classes are used")
    return classes


def _is_clutter(path: Path) -> bool:
    return _CLASS.fullmatch(path.name)["name"] == _CLUTTER


def labeled_images(images: Path) -> list[Labeled]:
    """The images directly in the class folders, class by class.

    Raises:
      UserError: see `class_folders`.
    """
    found, skipped = [], Counter()
    for folder in class_folders(images):
        for path in map(Path, files_below(folder, IMAGE_SUFFIXES, skipped)):
            if path.parent == folder:
                found.append(Labeled(os.path.relpath(path, images), {folder.name: 1.0}))
            else:
                skipped["images in folders of a class"] += 1
    if skipped:
        print("skipped:", ", ".join(f"{n} {kind}" for kind, n in skipped.most_common()))
    return found


def write_splits(images: Path, output: Path, train: int, splits: int) -> None:
    """Writes lists and dictionary into `OUTPUT/splitN/`, where N is the seed, and `ALL_IMAGES`.

    Raises:
      UserError: too few images in a class, or OUTPUT has splits of other images.
    """
    labeled = labeled_images(images)
    for seed in range(1, splits + 1):
        parts = split_by_count(labeled, train, seed)
        names = own_data.write(output / f"split{seed}", parts)
    atomic_write(output / ALL_IMAGES, "".join(f"{row.image}\n" for row in labeled))
    tested = len(labeled) - train * len(names)
    print(
        f"{splits} splits of {len(labeled)} images in {len(names)} classes:"
        f" {train * len(names)} to train on, {tested} to test"
    )


def split_folders(output: Path) -> list[Path]:
    """The folders of the splits, by number. Raises UserError where there is none."""
    found = [path for path in output.glob("split*") if path.name[5:].isdecimal()]
    if not found:
        raise UserError(f"--output {output} has no splits: run `split` first")
    return sorted(found, key=lambda path: int(path.name[5:]))


def write_linear(features: Path, output: Path, inverse_decay: float) -> None:
    """Evaluates logistic regression on features, split by split; finished splits are kept.

    Raises:
      UserError: scikit-learn is not installed, or an image lacks its features.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        message = 'the linear classifier needs scikit-learn: pip install -e ".[demo]"'
        raise UserError(message) from None
    with np.load(features, allow_pickle=False) as file:
        row_of = {name: row for row, name in enumerate(file["names"].tolist())}
        values = file["features"].astype(np.float32)
    for folder in split_folders(output):
        result = folder / FILES["linear"]
        if result.exists():
            print(f"{result} is there already")
            continue
        (x, y), (test_x, test_y) = (
            _examples(folder / f"{part}_list.txt", row_of, values) for part in ("train", "test")
        )
        classifier = LogisticRegression(C=inverse_decay, max_iter=1000).fit(x, y)
        found = mean_recall(classifier.predict(test_x), test_y)
        settings = {"features": str(features), "C": inverse_decay}
        atomic_write(result, json.dumps({MEASURE: found, "settings": settings}, indent=1) + "\n")
        print(f"{folder.name}: {MEASURE} {found:.4f}")


def _examples(
    path: Path, row_of: dict[str, int], values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Features [N, D] and classes [N] of a list's images; an unreadable image is left out."""
    rows, classes = [], []
    for row in read_rows(path):
        if row.image not in row_of:
            raise UserError(f"--features has no row for {row.image}, an image of {path}")
        rows.append(row_of[row.image])
        classes.append(row.classes[0])
    x, y = values[rows], np.array(classes)
    readable = np.isfinite(x).all(axis=1)
    return x[readable], y[readable]


def mean_recall(predicted: np.ndarray, truth: np.ndarray) -> float:
    """The mean recall over the classes in `truth`; both arguments are int [N]."""
    return float(np.mean([(predicted[truth == c] == c).mean() for c in np.unique(truth)]))


def summary(output: Path) -> dict[str, dict[str, Any]]:
    """Kind of result -> `splits` (folder -> metric), their `mean` and `std`.

    `std` is the sample standard deviation (N - 1); None for a single split.

    Raises:
      UserError: there are no results yet.
    """
    measured: dict[str, dict[str, float]] = {kind: {} for kind in FILES}
    for folder in split_folders(output):
        for kind, file in FILES.items():
            if (folder / file).exists():
                found = json.loads((folder / file).read_text(encoding="utf-8"))
                if kind == "finetuned":
                    found = found["evaluations"][-1]["metrics"]
                measured[kind][folder.name] = found[MEASURE]
    results = {}
    for kind, splits in measured.items():
        values = list(splits.values())
        if values:
            std = float(np.std(values, ddof=1)) if len(values) > 1 else None
            results[kind] = {"splits": splits, "mean": float(np.mean(values)), "std": std}
    if not results:
        raise UserError(f"no split in {output} is measured yet")
    return results


def write_table(output: Path) -> None:
    """Prints the summary, and writes it to `OUTPUT/results.json`."""
    results = summary(output)
    atomic_write(output / "results.json", json.dumps({MEASURE: results}, indent=1) + "\n")
    names = sorted({name for found in results.values() for name in found["splits"]})
    print(f"{'mean class recall':<20}" + "".join(f"{n:>9}" for n in [*names, "mean", "std"]))
    for kind, found in results.items():
        numbers = [*(found["splits"].get(name) for name in names), found["mean"], found["std"]]
        print(f"{kind:<20}" + "".join(f"{'-' if n is None else f'{n:.4f}':>9}" for n in numbers))


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    split, linear, table = (steps.add_parser(name) for name in ("split", "linear", "table"))
    for step in (split, linear, table):
        step.add_argument("--output", type=Path, required=True, help="folder of all results")
    split.add_argument("--images", type=Path, required=True, help="folder of the class folders")
    split.add_argument("--train", type=int, default=60, help="training images per class")
    split.add_argument("--splits", type=int, default=3, help="number of random splits")
    linear.add_argument(
        "--features", type=Path, required=True, help=".npz file written by extract_feature.py"
    )
    linear.add_argument("--C", type=float, default=10.0, help="inverse of the weight decay")
    arguments = command.parse(parser, argv)
    if arguments.step == "split":
        if min(arguments.train, arguments.splits) < 1:
            parser.error("--train and --splits must be at least 1")
        write_splits(arguments.images, arguments.output, arguments.train, arguments.splits)
    elif arguments.step == "linear":
        if not arguments.C > 0:
            parser.error("--C must be above 0")
        write_linear(arguments.features, arguments.output, arguments.C)
    else:
        write_table(arguments.output)
    return 0


if __name__ == "__main__":
    command.run(main)
