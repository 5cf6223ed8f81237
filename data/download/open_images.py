"""Makes a download list of Open Images from image ids and annotations.

Most of the Flickr originals in the released lists no longer exist; the data set's public bucket has
copies of 1.9 million of them by id. Annotations are joined by id, or by the original URL if the
file of ids has it.
"""

from __future__ import annotations

import csv
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from data.common.files import read_text, refuse_other_encodings, rewritten
from data.download.names import flickr_name
from data.lists.rows import ListError, Row, format_row, parse_row, read_rows

BUCKET = "https://s3.amazonaws.com/open-images-dataset/{subset}/{id}.jpg"
"""URL template of the copies; `{subset}` is train, validation or test."""

# Columns of the data set's CSV files.
_ID, _SUBSET, _URL, _ROTATION = "ImageID", "Subset", "OriginalURL", "Rotation"
_DEGREES = {"": 0, "nan": 0, "0": 0, "0.0": 0, "90.0": 90, "180.0": 180, "270.0": 270} | {
    str(degrees): degrees for degrees in (90, 180, 270)
}


class Image(NamedTuple):
    """An image id and what else the file of ids has; otherwise, empty strings and no labels.

    `rotation` is in degrees counterclockwise; also 0 if the data set does not give it.
    """

    image_id: str
    subset: str
    original_url: str
    labels: Row
    rotation: int = 0


class Joined(NamedTuple):
    """Counts of a join.

    Attributes:
        rows: number of rows written.
        without_annotations: number of ids left out because they have no annotations.
        annotations: number of annotations read.
        rotated: number of rows written whose image has a rotation.
    """

    rows: int
    without_annotations: int
    annotations: int
    rotated: int


def read_ids(path: Path) -> Iterator[Image]:
    """The ids of a CSV with a column ImageID, or of a list (`id` or `subset/id`, optional labels).

    Raises:
        ListError: a row that has no id, or a rotation other than 0, 90, 180, 270 or nan.
        UserError: not UTF-8.
    """
    refuse_other_encodings(path)
    with open(path, encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader([file.readline()]), [])
        if _ID in header:
            for number, fields in enumerate(csv.DictReader(file, header), 2):
                if not fields[_ID]:
                    raise ListError(f"{path}:{number}: no {_ID}")
                url, subset = fields.get(_URL) or "", fields.get(_SUBSET) or ""
                rotation = _DEGREES.get((fields.get(_ROTATION) or "").strip().lower())
                if rotation is None:
                    raise ListError(f"{path}:{number}: {_ROTATION} is {fields[_ROTATION]!r}")
                yield Image(fields[_ID], subset, url, Row("", (), ()), rotation)
            return
    for row in read_rows(path):
        subset, _, image_id = row.image.rpartition("/")
        yield Image(image_id, subset, "", row)


def join_ids(image_ids: Path, annotations: Path | None, needs_subset: bool, output: Path) -> Joined:
    """Writes the list `output`: an id (or `subset/id`) and labels per row, in the order of the ids.

    Args:
        image_ids: see `read_ids`.
        annotations: a list whose images are ids or original URLs; ids not in it are left out. None
            uses the labels in `image_ids`.
        needs_subset: write `subset/id`.
        output: the list to write. The rotations of its images are written next to it, see
            `rotations_next_to`.

    Raises:
        ListError: a row is malformed, or its subset is unknown.
    """
    rows = left_out = rotated = 0
    with (
        rewritten(output) as file,
        rewritten(rotations_next_to(output)) as rotations,
        tempfile.TemporaryDirectory(dir=output.parent, prefix=".join") as folder,
        closing(sqlite3.connect(Path(folder, "labels.sqlite"))) as known,
    ):
        count = _store(known, annotations) if annotations else 0
        for number, image in enumerate(read_ids(image_ids), 1):
            name = f"{image.subset}/{image.image_id}" if needs_subset else image.image_id
            if needs_subset and not image.subset:
                raise ListError(
                    f"{image_ids}: image {number}, {image.image_id}, has no subset: write"
                    " train/ID, or give a --url_template without {subset}"
                )
            row = _find(known, image) if annotations else image.labels
            if row is None:
                left_out += 1
                continue
            file.write(format_row(row._replace(image=name)).encode() + b"\n")
            rows += 1
            if image.rotation:
                rotations.write(f"{name}\t{image.rotation}\n".encode())
                rotated += 1
    return Joined(rows, left_out, count, rotated)


def rotations_next_to(joined: Path) -> Path:
    """The file of rotations that `join_ids` writes next to a list."""
    return joined.with_name(f"{joined.stem}.rotations.txt")


def read_rotations(path: Path) -> dict[str, int]:
    """Degrees counterclockwise by the names of a list, from lines `name<TAB>degrees`.

    Raises:
        ListError: a line has another form.
    """
    found = {}
    for number, line in enumerate(read_text(path).splitlines(), 1):
        name, _, degrees = line.partition("\t")
        if degrees not in _DEGREES:
            raise ListError(f"{path}:{number}: expected name<TAB>degrees")
        found[name] = _DEGREES[degrees]
    return found


def _store(known: sqlite3.Connection, annotations: Path) -> int:
    """Stores the annotations in a table on disk, by id or URL; returns their number."""
    known.execute("PRAGMA journal_mode = OFF")
    known.execute("PRAGMA synchronous = OFF")
    known.execute("CREATE TABLE known (key TEXT PRIMARY KEY, row TEXT) WITHOUT ROWID")
    rows = (
        (_key(row.image), format_row(row._replace(image="x"))) for row in read_rows(annotations)
    )
    cursor = known.executemany("INSERT OR REPLACE INTO known VALUES (?, ?)", rows)
    return cursor.rowcount


def _find(known: sqlite3.Connection, image: Image) -> Row | None:
    for name in (image.image_id, image.original_url):
        query = "SELECT row FROM known WHERE key = ?"
        if name and (found := known.execute(query, (_key(name),)).fetchone()):
            return parse_row(found[0])
    return None


def _key(image: str) -> str:
    """The key of an id or a URL, regardless of scheme and of which Flickr host it is."""
    if "://" not in image:
        return image.rpartition("/")[2]
    return flickr_name(image) or image.partition("://")[2]
