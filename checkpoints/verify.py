"""Verifies checkpoints: reads every tensor, and checks checksums, names, shapes and values.

    python checkpoints/verify.py                 every checkpoint in this folder
    python checkpoints/verify.py PATH...         prefixes, files or folders
    python -m checkpoints.verify                 the same, from the project's folder

The exit code is 0 if all are valid, else 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[0] = str(HERE.parent)

import numpy as np

from data.common import command
from data.common.errors import UserError
from data.common.files import sha256
from data.common.lazy_module import LazyModule
from data.common.state import is_name, is_sha256
from models.architecture import variable_shapes

if TYPE_CHECKING:
    from models.checkpoints import checkpoint
    from models.checkpoints import report as checkpoint_report
else:  # they import TensorFlow, but --help must be fast
    checkpoint = LazyModule("models.checkpoints.checkpoint")
    checkpoint_report = LazyModule("models.checkpoints.report")

# Depth and classes of the released checkpoints (spec section 1 and 4).
RELEASED = {
    "ckpt-resnet101-mlimages": (101, 11166),
    "ckpt-resnet101-mlimages-imagenet": (101, 1000),
}
SUMS = ".sha256"


@command.one_line_errors()
def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", metavar="PATH", help="prefix, file or folder")
    paths = parser.parse_args(argv).paths or _whole()
    from data.common import start_tensorflow  # noqa: F401

    if not paths:
        raise UserError(f"no checkpoint in {HERE}: see {HERE / 'README.md'}")
    return max([_report(path) for path in paths])


def _whole() -> list[Path]:
    """The checkpoints below this folder, except those still being fetched."""
    found = sorted(path.relative_to(HERE) for path in HERE.glob("**/*.index"))
    return [HERE / path for path in found if not any(p.startswith(".") for p in path.parts)]


def problems(prefix: str | Path, name: str) -> Iterator[str]:
    """Yields the problems of a checkpoint, one line each; none if it is valid.

    Args:
      name: the checkpoint's name; a released one determines depth and number of classes.
    """
    yield from wrong_sums(Path(prefix))
    try:
        yield from _wrong_content(prefix, name)
    except (checkpoint.CheckpointError, OSError) as error:  # Not readable as a checkpoint.
        yield str(error)


def _wrong_content(prefix: str | Path, name: str) -> Iterator[str]:
    opened = checkpoint.read(prefix)
    found = checkpoint.describe(prefix)
    expected = RELEASED.get(name)
    if expected and expected != (found.resnet_size, found.class_num):
        yield (
            f"depth {found.resnet_size} and {found.class_num} classes: the released checkpoint of "
            f"this name has depth {expected[0]} and {expected[1]} classes"
        )
    wanted = variable_shapes(found.resnet_size, found.class_num, found.width)
    kept = checkpoint.not_matching(opened.shapes, checkpoint.TRAINING_STATE)
    checkpoint.compare(
        str(prefix), wanted, {variable: opened.shapes[variable] for variable in kept}
    )
    for variable in opened.shapes:
        yield from _wrong_values(opened, variable, wanted)


def _wrong_values(
    opened: checkpoint.Checkpoint, name: str, wanted: dict[str, tuple]
) -> Iterator[str]:
    tensor = opened.tensor(name)
    if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
        yield f"{name} has {np.count_nonzero(~np.isfinite(tensor))} values that are not finite"
    if name.endswith("/moving_variance") and tensor.min() < 0:
        yield f"{name} has a negative variance, {tensor.min():g}"
    of = name.removesuffix(checkpoint.MOMENTUM)
    if of != name and wanted.get(of) != tensor.shape:
        yield f"{name} has shape {list(tensor.shape)}, its variable {list(wanted.get(of, ()))}"


def wrong_sums(prefix: Path) -> Iterator[str]:
    """Yields the mismatches with the SHA-256 file next to a checkpoint, one line each."""
    path = prefix.with_name(prefix.name + SUMS)
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ()
    if path.exists() and not lines:
        yield f"{path.name} is empty"
    for number, line in enumerate(lines, 1):
        expected, _, name = line.partition(" ")
        name = name.strip().lstrip("*")
        if not (is_sha256(expected.lower()) and is_name(name)):
            yield f"{path.name}:{number} is not a SHA-256 and the name of a file in the same folder"
            continue
        file = prefix.with_name(name)
        if not file.is_file():
            yield f"{path.name} names {file.name}, which is missing"
        elif sha256(file) != expected.lower():
            yield f"{file.name}: its SHA-256 differs from {path.name}"


def _report(path: str | Path) -> int:
    """Prints the result; returns 1 for an invalid checkpoint, else 0."""
    try:
        path = checkpoint.find(path)
        wrong = list(problems(path, Path(path).name))
    except (checkpoint.CheckpointError, OSError) as error:  # No checkpoint found.
        wrong = [str(error)]
    if not wrong:
        print(f"ok   {path}: {checkpoint_report.summary(checkpoint.read(path))}")
        return 0
    print(f"BAD  {path}", *wrong, sep="\n     ")
    return 1


if __name__ == "__main__":
    command.run(main)
