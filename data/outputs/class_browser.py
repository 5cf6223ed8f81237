"""A page to browse the classes of a data set: tree, counts, images, co-occurring labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.common import html_report
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.images import ImageError
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.input.image_source import LoadError, SourceImage, in_list
from data.lists.blocks import Labels, Refused, over_list, read_block
from data.lists.hierarchy import Hierarchy
from data.lists.rows import count_lines
from data.lists.survey import Survey
from data.tfrecords.record_source import RecordSource

THUMBNAIL_SIDE = 112
SPARE_SAMPLES = 4
"""Rows sampled per image that a class shows: spares for missing or unreadable images."""

CO_OCCURRING = 12
RECORDS_AT_ONCE = 1 << 14
_PAGE_FOLDER = "thumbnails"
_IN_A_FOLDER = 1000

ImageOf = Callable[[int], SourceImage]


@dataclass(frozen=True)
class SurveyOptions:
    """What is sampled and counted; the fields are flags of data/browse.py.

    Attributes:
        per_class: number of images shown per class.
        pair_rows: approximate number of rows whose pairs of labels are counted.
        seed: random seed of the samples.
    """

    per_class: int
    pair_rows: int
    seed: int

    def begin(self, hierarchy: Hierarchy, rows: int) -> Survey:
        """An empty survey of about `rows` rows."""
        fraction = min(1.0, self.pair_rows / max(1, rows))
        return Survey(hierarchy, SPARE_SAMPLES * self.per_class, fraction, self.seed)


def survey_lists(
    paths: Iterable[str],
    hierarchy: Hierarchy,
    options: SurveyOptions,
    images_dir: str | None,
    processes: int,
) -> tuple[Survey, ImageOf, list[Refused]]:
    """Reads lists; refuses malformed rows, and rows with classes that are not in the dictionary.

    Returns:
        the survey, a function that returns the image of a sampled row, and the refused lines of
        each list.
    """
    paths = list(paths)
    survey = options.begin(hierarchy, sum(map(count_lines, paths)))
    names: dict[int, tuple[str, str]] = {}
    refused = [Refused(path) for path in paths]
    read = partial(read_block, class_num=len(hierarchy))
    for path, problems in zip(paths, refused, strict=True):
        for block, lines, _ in over_list(path, read, processes):
            problems.add(block.problems, lines)
            before = survey.rows
            for row in survey.add(block.labels).tolist():
                names[before + row] = path, block.names[row]

    def image(row: int) -> SourceImage:
        return in_list(*names[row], images_dir)

    return survey, image, refused


def survey_records(
    data_dir: str, hierarchy: Hierarchy, options: SurveyOptions, max_bad_records: int
) -> tuple[Survey, ImageOf]:
    """Reads the labels of TFRecords; also returns a function that returns a record's image."""
    source = RecordSource(data_dir, len(hierarchy), max_bad_records)
    survey = options.begin(hierarchy, source.total)
    positives = source.positives()
    for start in range(0, len(positives), RECORDS_AT_ONCE):
        found = positives[start : start + RECORDS_AT_ONCE]
        offsets = np.concatenate([[0], np.cumsum([len(classes) for classes in found])])
        classes = np.concatenate(found)
        survey.add(Labels(offsets, classes, np.ones(len(classes))))

    def image(record: int) -> SourceImage:
        path, offset, size = source.place(record)
        return SourceImage(source.where(record), "", path, "", offset, size)

    return survey, image


class Small(NamedTuple):
    """An image's name and its thumbnail as JPEG; empty if the image is unreadable."""

    name: str
    jpeg: bytes


class Thumbnails(NamedTuple):
    """The thumbnails, the indices of those that each class shows, and how many were unreadable."""

    images: list[Small]
    shown: list[list[int]]
    missing: int


def make_thumbnails(
    drawn: list[list[int]], image: ImageOf, per_class: int, most: int, processes: int
) -> Thumbnails:
    """Makes thumbnails until each class has `per_class` of its sampled rows, or there are `most`.

    Every class gets a first one before any gets a second. A row serves all classes that sampled it.
    """
    classes_of: dict[int, list[int]] = {}
    for c, rows in enumerate(drawn):
        for row in rows:
            classes_of.setdefault(row, []).append(c)
    images: list[Small] = []
    shown: list[list[int]] = [[] for _ in drawn]
    tried: set[int] = set()
    left = [iter(rows) for rows in drawn]
    with Progress("thumbnails", None, "image") as progress:
        for target in range(1, per_class + 1):
            while len(images) < most:
                lacking = (c for c, found in enumerate(shown) if len(found) < target)
                wanted = list(islice(_untried(lacking, left, tried), most - len(images)))
                if not wanted:
                    break
                tried.update(wanted)
                made = ordered_map(_small, map(image, wanted), processes)
                for row, small in zip(wanted, made, strict=True):
                    progress.update()
                    if small.jpeg:
                        for c in classes_of[row]:
                            if len(shown[c]) < per_class:
                                shown[c].append(len(images))
                        images.append(small)
    return Thumbnails(images, shown, len(tried) - len(images))


def _untried(classes: Iterable[int], left: list[Iterator[int]], tried: set[int]) -> Iterator[int]:
    """The next untried row that each class sampled, without repeats."""
    asked: set[int] = set()
    for c in classes:
        row = next((row for row in left[c] if row not in tried and row not in asked), None)
        if row is not None:
            asked.add(row)
            yield row


def _small(image: SourceImage) -> Small:
    try:
        loaded = image.load()
        return Small(loaded.name, html_report.small_jpeg(loaded.data, THUMBNAIL_SIDE))
    except (LoadError, ImageError):
        return Small(image.name, b"")


def write_page(
    output: Path, title: str, hierarchy: Hierarchy, survey: Survey, thumbnails: Thumbnails
) -> Path:
    """Writes the page: one file if `output` ends in .html, else a folder with index.html.

    Returns:
        the page to open.

    Raises:
        UserError: the folder is a file.
    """
    alone = output.suffix == ".html"
    if not alone and output.is_file():
        raise UserError(f"--output {output} is a file; name a folder, or a page that ends in .html")
    addresses = []
    for number, small in enumerate(thumbnails.images):
        if alone:
            addresses.append(html_report.jpeg_address(small.jpeg))
        else:
            parts = _PAGE_FOLDER, str(number // _IN_A_FOLDER), f"{number}.jpg"
            atomic_write(output.joinpath(*parts), small.jpeg, sync=False)
            addresses.append("/".join(parts))
    content = _content(hierarchy, survey, thumbnails, addresses)
    folder = Path(__file__).parent
    section = (
        f"<style>\n{(folder / 'class_browser.css').read_text('utf-8')}</style>\n"
        f'<div id="browser"></div>\n{html_report.data_block("classes", content)}\n'
        f"{html_report.script(folder / 'class_browser.js')}"
    )
    page = html_report.page(title, [("", section)])
    path = output if alone else output / "index.html"
    atomic_write(path, page.encode("utf-8", "replace"))
    if not alone:
        _remove_others(output / _PAGE_FOLDER, len(addresses))
    return path


def _remove_others(folder: Path, count: int) -> None:
    """Removes an earlier page's thumbnails numbered `count` and up from the same folder."""
    for path in folder.glob("*/*.jpg"):
        if path.stem.isdecimal() and int(path.stem) >= count:
            path.unlink()


def _content(
    hierarchy: Hierarchy, survey: Survey, thumbnails: Thumbnails, addresses: list[str]
) -> dict[str, Any]:
    """The data for the page's script; lists are by class or by thumbnail."""
    names = [os.fsencode(small.name).decode("utf-8", "replace") for small in thumbnails.images]
    return {
        "rows": survey.rows,
        "labels": survey.labels,
        "missing": thumbnails.missing,
        "names": hierarchy.names,
        "ids": hierarchy.ids,
        "parents": hierarchy.parents.tolist(),
        "own": survey.own.tolist(),
        "total": survey.total.tolist(),
        "shown": thumbnails.shown,
        "coOccurring": [
            [[other, round(fraction, 3)] for other, fraction in found]
            for found in survey.co_occurring(CO_OCCURRING)
        ],
        "images": addresses,
        "imageNames": names,
    }
