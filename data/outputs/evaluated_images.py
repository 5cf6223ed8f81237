"""Per-image results of an evaluation: on disk while it runs, then as CSV and Parquet.

Each worker writes a JSON line per image to its own file, and one worker then reads all files,
merged in image order. So memory does not grow with the number of images.
"""

from __future__ import annotations

import csv
import heapq
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data.common import mirror
from data.common.errors import UserError
from data.common.files import errors_name, rewritten
from data.outputs.prediction_files import write_parquet
from data.outputs.result_files import has_pyarrow

PARTIAL = "predictions.partial"
LABEL_COLUMNS = ("labels", "predicted", "missed", "wrong", "best")
CSV_COLUMNS = (
    *("number", "image", "loss", *LABEL_COLUMNS),
    *("missed_names", "wrong_names", "problem"),
)
NAME_SEPARATOR = "; "


class ScoredLabel(NamedTuple):
    """A class on an image: its index and score, whether it is a label, whether it is predicted."""

    index: int
    score: float
    positive: bool
    predicted: bool

    @property
    def missed(self) -> bool:
        """Whether it is a label but not predicted."""
        return self.positive and not self.predicted

    @property
    def wrong(self) -> bool:
        """Whether it is predicted but not a label."""
        return self.predicted and not self.positive


class EvaluatedImage(NamedTuple):
    """An image with its labels and best predictions, highest score first.

    `number` is its index among all images; `loss` is minus the logarithm of the probability that
    the scores assign to the labels; `problem` is why an image was unreadable, else "".
    """

    number: int
    name: str
    loss: float | None
    labels: tuple[ScoredLabel, ...]
    problem: str = ""


class EvaluatedImages:
    """The evaluated images of all workers, in files in the folder `PARTIAL` of a result.

    Args:
      result: folder of the evaluation, shared by all workers.
      rank, size: this worker's number, and the number of workers.
    """

    def __init__(self, result: Path, rank: int = 0, size: int = 1) -> None:
        self.folder = result / PARTIAL
        self._files = [self.folder / f"{number:06d}-of-{size:06d}" for number in range(size)]
        self.folder.mkdir(parents=True, exist_ok=True)
        self._own: BinaryIO = open(self._files[rank], "wb")  # noqa: SIM115 - until `close`

    def add(self, images: Iterable[EvaluatedImage]) -> None:
        """Adds images of this worker, in the order of their numbers."""
        with errors_name(self._own.name):
            self._own.writelines(json.dumps(image).encode() + b"\n" for image in images)

    def close(self) -> None:
        """Completes the file of this worker."""
        with errors_name(self._own.name):
            self._own.close()
        if len(self._files) > 1:
            mirror.push(self._own.name)

    def read(self, left_out: Iterable[tuple[int, str, str]] = ()) -> Iterator[EvaluatedImage]:
        """All images in order, once every worker has closed its file.

        Args:
          left_out: (number, name, reason) of the unreadable images, in order.

        Raises:
          UserError: the file of another worker is missing.
        """
        if len(self._files) > 1:
            mirror.pull(self.folder)
        for path in self._files:
            mirror.fetch(path)
        unreadable = (EvaluatedImage(n, name, None, (), problem) for n, name, problem in left_out)
        return heapq.merge(unreadable, *map(_read, self._files), key=lambda image: image.number)

    def remove(self) -> None:
        """Removes the files of all workers."""
        shutil.rmtree(self.folder)


def _read(path: Path) -> Iterator[EvaluatedImage]:
    try:
        with open(path, "rb") as lines:
            for line in lines:
                number, name, loss, labels, problem = json.loads(line)
                scored = tuple(ScoredLabel(*label) for label in labels)
                yield EvaluatedImage(number, name, loss, scored, problem)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: all workers must see the folder --result") from None


def _write_csv(path: Path, images: Iterable[EvaluatedImage], names: Sequence[str]) -> None:
    """Writes CSV_COLUMNS, a row per image; labels are `class:score`, separated by spaces."""
    with rewritten(path) as file:
        # Writes file names that are not UTF-8 unchanged.
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(_csv_row(image, names) for image in images)
        text.flush()
        text.detach()


def _csv_row(image: EvaluatedImage, names: Sequence[str]) -> list[Any]:
    missed = [label for label in image.labels if label.missed]
    wrong = [label for label in image.labels if label.wrong]
    columns = (
        [label for label in image.labels if label.positive],
        [label for label in image.labels if label.predicted],
        *(missed, wrong, image.labels),
    )
    loss = "" if image.loss is None else f"{image.loss:.6g}"
    return [
        *(image.number, image.name, loss),
        *(" ".join(f"{label.index}:{label.score:.6g}" for label in column) for column in columns),
        *(NAME_SEPARATOR.join(names[x.index] for x in found) for found in (missed, wrong)),
        image.problem,
    ]


def _write_parquet(path: Path, images: Iterable[EvaluatedImage], names: Sequence[str]) -> None:
    """Writes a row per image, with its labels as a list."""
    import pyarrow as pa  # heavy, and only needed for this format

    flags = {"positive": pa.bool_(), "predicted": pa.bool_()}
    label = {"index": pa.int32(), "name": pa.string(), "score": pa.float32(), **flags}
    schema = pa.schema(
        {
            "number": pa.int64(),
            "image": pa.string(),
            "loss": pa.float64(),
            "labels": pa.list_(pa.struct(label)),
            "problem": pa.string(),
        }
    )
    rows = (
        {
            "number": image.number,
            "image": image.name.encode("utf-8", "replace").decode(),
            "loss": image.loss,
            "labels": [{"name": names[x.index], **x._asdict()} for x in image.labels],
            "problem": image.problem or None,
        }
        for image in images
    )
    write_parquet(path, schema, rows)


_WRITERS = {"csv": _write_csv, "parquet": _write_parquet}


def chosen_formats(choice: str) -> list[str]:
    """The formats for the choice "all", "csv", "parquet" or "none".

    Raises:
      UserError: "parquet" was chosen but pyarrow is not installed.
    """
    if choice == "parquet" and not has_pyarrow():
        raise UserError("--predictions=parquet needs pyarrow: pip install pyarrow")
    if choice == "all":
        return ["csv", "parquet"] if has_pyarrow() else ["csv"]
    return [choice] if choice in _WRITERS else []


def write_files(
    folder: Path,
    formats: Sequence[str],
    names: Sequence[str],
    log: EvaluatedImages | None,
    left_out: Sequence[tuple[int, str, str]],
) -> None:
    """Writes `predictions.FORMAT` in a folder, and removes those of an earlier evaluation.

    Args:
      formats: the result of `chosen_formats`.
      names: the class names.
      log, left_out: see `EvaluatedImages.read`; the log may be None if there are no formats.
    """
    for name, write in _WRITERS.items():
        path = folder / f"predictions.{name}"
        if name in formats:
            write(path, log.read(left_out), names)
        else:
            path.unlink(missing_ok=True)
