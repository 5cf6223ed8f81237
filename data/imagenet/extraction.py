"""Extracts the images of a list, and no others, from ImageNet's archives; resumable.

Images are written as `<output>/n04310904/n04310904_8388.JPEG`. A synset whose images are all
written has a report in `<output>/.extracted`; after an interruption, the next run does the others.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.common import state
from data.common.files import atomic_write, clear_leftovers, rewritten
from data.common.finished import Reports
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.common.state import StateError
from data.imagenet.archives import ArchiveError, Location, read_images, wnid
from data.lists.blocks import Block, Refused, format_rows, over_list, read_block
from data.lists.rows import chunks

REPORTS = ".extracted"
_FORM, _REMEDY = "extraction report", "delete it and extract again"
# The form of names in lists and of the output; in archives, folders differ.
_IMAGE = re.compile(r"n([0-9]{8})/n\1_(0|[1-9][0-9]{0,8})\.JPEG")
_LINES = re.compile(r"(\d{1,9}\t\d{1,15}\t[0-9a-f]{64}\n)*", re.ASCII)


def _are_images(value: Any) -> bool:
    """lines of an image's number, bytes and SHA-256"""
    return state.is_text(value) and _LINES.fullmatch(value) is not None


_REPORT = {"name": state.is_name, "source": state.is_text, "images": _are_images}


class Wanted(NamedTuple):
    """The images that a list names.

    Attributes:
        numbers: image numbers of each synset, int32, ascending.
        rows: number of rows that name an image, including repeated ones.
        repeated: number of rows whose image an earlier row names.
        others: number of rows whose name is not that of an ImageNet image.
        first_others: the first five of these names.
    """

    numbers: dict[int, np.ndarray]
    rows: int
    repeated: int
    others: int
    first_others: list[str]


class SynsetJob(NamedTuple):
    """Numbers of images to find (int32, ascending), and the locations to search, in order."""

    synset: int
    wanted: np.ndarray
    locations: tuple[Location, ...]


def image_path(synset: int, number: int) -> str:
    """An image's path in the output folder."""
    return f"{wnid(synset)}/{wnid(synset)}_{number}.JPEG"


def image_ids(block: Block) -> np.ndarray:
    """int64 [R]: synset * 2^32 + number of the image that each row names; -1 if it names none."""
    matches = map(_IMAGE.fullmatch, block.names)
    return np.array([int(m[1]) << 32 | int(m[2]) if m else -1 for m in matches], np.int64)


def read_wanted(path: str | os.PathLike, refused: Refused) -> Wanted:
    """Reads the images that a list names. Takes 16 bytes per row; bad lines go to `refused`."""
    parts, others, first_others, lines = [], 0, [], 0
    for chunk in chunks(path):
        block = read_block(chunk)
        refused.add(block.problems, lines)
        lines += block.lines
        ids = image_ids(block)
        odd = np.flatnonzero(ids < 0)
        others += len(odd)
        first_others += [block.names[row] for row in odd[: max(0, 5 - len(first_others))].tolist()]
        parts.append(ids[ids >= 0])
    ids = np.concatenate([np.zeros(0, np.int64), *parts])
    unique = np.unique(ids)
    synsets, starts = np.unique(unique >> 32, return_index=True)
    numbers = np.split((unique & 0xFFFFFFFF).astype(np.int32), starts[1:])
    by_synset = dict(zip(synsets.tolist(), numbers, strict=False))
    return Wanted(by_synset, len(ids), len(ids) - len(unique), others, first_others)


class Found(NamedTuple):
    """Found images of a synset: `numbers` int32, and the SHA-256 of each."""

    numbers: np.ndarray
    hashes: list[str]


class Extractor:
    """Extracts the images of one synset per call into the folder `output`."""

    def __init__(self, output: Path) -> None:
        self.output = output
        self.reports = Reports(output / REPORTS, _FORM, _REPORT, _REMEDY)

    def __call__(self, job: SynsetJob) -> str:
        """Writes the images it finds, then the report; returns the problems, "" if none."""
        folder = self.output / wnid(job.synset)
        folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(folder)
        wanted = set(job.wanted.tolist())
        lines, problems = [], []
        for location in job.locations:
            if not wanted:
                break
            try:
                for number, data in read_images(job.synset, location, wanted):
                    atomic_write(self.output / image_path(job.synset, number), data, False)
                    wanted.discard(number)
                    lines.append(f"{number}\t{len(data)}\t{hashlib.sha256(data).hexdigest()}\n")
            except ArchiveError as error:
                problems.append(str(error))
        lines.sort(key=lambda line: int(line.partition("\t")[0]))
        # Images found despite damage count, but the next run searches for them again.
        source = "damaged" if problems else _source(job)
        report = {"name": wnid(job.synset), "source": source, "images": "".join(lines)}
        self.reports.add(report)
        return "; ".join(problems)

    def is_done(self, job: SynsetJob) -> bool:
        """Whether an earlier run searched the same locations for the same images."""
        try:
            return self.reports.read(wnid(job.synset))["source"] == _source(job)
        except (FileNotFoundError, StateError):  # a damaged report is rewritten
            return False

    def found(self, synset: int) -> Found:
        """The images in the report of a synset; none if there is no report. Raises StateError."""
        try:
            lines = self.reports.read(wnid(synset))["images"].splitlines()
        except FileNotFoundError:
            lines = []
        fields = [line.split("\t") for line in lines]
        numbers = np.array([int(number) for number, _, _ in fields], np.int32)
        return Found(numbers, [digest for _, _, digest in fields])


def _source(job: SynsetJob) -> str:
    """A hash of the wanted images and the locations, without folders: archives may move."""
    locations = [(Path(at.path).name, at.offset, at.size, at.number) for at in job.locations]
    return hashlib.sha256(job.wanted.tobytes() + repr(locations).encode()).hexdigest()


def extract(
    wanted: Wanted, locations: dict[int, list[Location]], output: Path, processes: int
) -> tuple[Extractor, list[str]]:
    """Writes the wanted images; synsets are in the order in which the archives have them.

    Args:
        locations: the locations of each synset's images, see `archives.index`.

    Returns:
        the extractor, which has the reports of what was found, and the problems, one line each.
    """
    extractor = Extractor(output)
    clear_leftovers(extractor.reports.folder)
    jobs = [
        SynsetJob(synset, wanted.numbers[synset], tuple(found))
        for synset, found in locations.items()
        if synset in wanted.numbers
    ]
    todo = [job for job in jobs if not extractor.is_done(job)]
    problems = []
    with Progress("extraction", len(jobs), "synset", len(jobs) - len(todo)) as progress:
        for problem in ordered_map(extractor, todo, processes):
            problems += [problem] if problem else []
            progress.update()
    return extractor, problems


def missing(wanted: Wanted, extractor: Extractor) -> Iterator[str]:
    """The wanted images that were not found, by synset and number."""
    for synset, numbers in wanted.numbers.items():
        found = extractor.found(synset).numbers
        for number in np.setdiff1d(numbers, found).tolist():
            yield image_path(synset, number)


def duplicates(wanted: Wanted, extractor: Extractor) -> Iterator[list[str]]:
    """Groups of two or more images with the same bytes.

    The first 64 bits of the hashes, 8 bytes per image, narrow down which full hashes to compare.
    """
    short = [
        int(digest[:16], 16)
        for synset in wanted.numbers
        for digest in extractor.found(synset).hashes
    ]
    ordered = np.sort(np.array(short, np.uint64))
    del short
    twice = set(ordered[1:][ordered[1:] == ordered[:-1]].tolist())
    groups: dict[str, list[str]] = {}
    for synset in wanted.numbers if twice else ():
        found = extractor.found(synset)
        for number, digest in zip(found.numbers.tolist(), found.hashes, strict=True):
            if int(digest[:16], 16) in twice:
                groups.setdefault(digest, []).append(image_path(synset, number))
    yield from (group for group in groups.values() if len(group) > 1)


def write_found_rows(
    path: str | os.PathLike, output: str | os.PathLike, wanted: Wanted, extractor: Extractor
) -> int:
    """Writes the rows of the list whose images were found, in order; returns their number."""
    found = {synset: extractor.found(synset).numbers for synset in wanted.numbers}
    rows = 0
    with rewritten(output) as file:
        for block, _, _ in over_list(path, read_block, processes=1):
            ids = image_ids(block)
            chosen = np.zeros(len(block), bool)
            for row in np.flatnonzero(ids >= 0).tolist():
                synset, number = divmod(int(ids[row]), 1 << 32)
                numbers = found[synset]
                at = int(np.searchsorted(numbers, number))
                chosen[row] = at < len(numbers) and numbers[at] == number
            names = list(compress(block.names, chosen))
            file.write(format_rows(names, block.labels.of_rows(chosen)))
            rows += len(names)
    return rows
