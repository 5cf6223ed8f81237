"""Writes and verifies the manifest: rows, bytes and SHA-256 of each shard, labels of all.

While a conversion runs, each finished shard has its own report in the folder `.shards`, so that any
number of processes and machines can write, and a killed run can resume. When all shards are
finished, the reports become `manifest.json` and `bad_images.tsv`.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from data.common import state, storage
from data.common.errors import UserError
from data.common.files import atomic_write, clear_leftovers, sha256
from data.common.finished import Reports
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.tfrecords.examples import positive_classes
from data.tfrecords.records import INDEX_SUFFIX, RecordError, RecordWriter, read_index, read_records

MANIFEST = "manifest.json"
BAD_IMAGES = "bad_images.tsv"
_REPORTS = ".shards"
_FORM, _REPORT_FORM = "record manifest", "shard report"
_VERSION = 2  # 1 had label counts per shard: hundreds of megabytes for 17 million images
_REMEDY = "delete it and convert again"
_COUNTS = re.compile(r"(\d{1,9}:\d{1,15}( \d{1,9}:\d{1,15})*)?", re.ASCII)
LOGGER = logging.getLogger(__name__)


def _is_label_counts(value: Any) -> bool:
    """label counts such as '3:17 8:2'"""
    return value is None or (isinstance(value, str) and _COUNTS.fullmatch(value) is not None)


_SHARD = {
    **dict.fromkeys(("rows", "bytes", "kept", "image_bytes"), state.is_count),
    "name": state.is_name,
    "source": state.is_text,
    "sha256": state.is_sha256,
    "bad": [[state.is_text]],
    "label_counts?": _is_label_counts,
    "clipped_boxes?": state.is_count,
}
_SCHEMA = {"shards": [_SHARD], "label_counts?": _is_label_counts}


@dataclass
class ShardReport:
    """A shard's contents, and the rows that were left out of it.

    Attributes:
        name: name of the shard's file.
        source: a hash of the rows and options it was made from.
        rows: records in it.
        bytes, sha256: of the file.
        kept: images stored unchanged, byte for byte.
        image_bytes: bytes of all encoded images in it.
        bad: `list:line`, image, kind and reason of each row that was left out.
        label_counts: positive records of each class, as `3:17 8:2`; None once the conversion is
            done, because the manifest has the sums over all shards.
        clipped_boxes: boxes that were partly outside their image; stored if there are any.
    """

    name: str
    source: str
    rows: int
    bytes: int
    sha256: str
    kept: int
    image_bytes: int
    bad: list[tuple[str, str, str, str]] = field(default_factory=list)
    label_counts: str | None = None
    clipped_boxes: int = 0

    def document(self) -> dict[str, Any]:
        """The report as it is stored."""
        content = asdict(self)
        if not self.clipped_boxes:
            del content["clipped_boxes"]
        return content


class ShardWriter(RecordWriter):
    """Writes a shard and collects its report."""

    def __init__(self, path: Path):
        super().__init__(path)
        self._kept = self._image_bytes = self._clipped_boxes = 0
        self._labels: Counter[int] = Counter()

    def add(
        self,
        example: bytes,
        positives: Sequence[int],
        image_bytes: int,
        is_kept: bool,
        clipped_boxes: int = 0,
    ) -> None:
        """Appends an image.

        Args:
            example: from `encode_example`.
            positives: the classes with a label above 0 in it, see `positives_of`.
            image_bytes: the size of the encoded image in it.
            is_kept: the image is stored unchanged, byte for byte.
            clipped_boxes: boxes in it that were partly outside the image.
        """
        self.write(example)
        self._labels.update(positives)
        self._image_bytes += image_bytes
        self._kept += is_kept
        self._clipped_boxes += clipped_boxes

    def report(self, source: str, bad: Sequence[tuple[str, str, str, str]] = ()) -> ShardReport:
        """The report of the finished shard; see `ShardReport` for the arguments."""
        return ShardReport(
            name=self.path.name,
            source=source,
            rows=self.count,
            bytes=self.path.stat().st_size,
            sha256=sha256(self.path),
            kept=self._kept,
            image_bytes=self._image_bytes,
            bad=list(bad),
            label_counts=_format_counts(self._labels),
            clipped_boxes=self._clipped_boxes,
        )


class Manifest(NamedTuple):
    """The shards of a complete conversion by name, and the positive records of each class in them.

    `label_counts` is None if they are not known: in an early version, or because a shard was
    rewritten with other records.
    """

    shards: dict[str, ShardReport]
    label_counts: Counter[int] | None


def _format_counts(counts: Mapping[int, int]) -> str:
    """`class:count` of each class, in order of class, joined by blanks."""
    return " ".join(f"{label}:{count}" for label, count in sorted(counts.items()))


def _sum_counts(texts: Iterable[str]) -> Counter[int]:
    """The sums of formatted counts."""
    total: Counter[int] = Counter()
    for text in texts:
        numbers = list(map(int, text.replace(":", " ").split()))
        total.update(dict(zip(numbers[::2], numbers[1::2], strict=True)))
    return total


class ShardFolder:
    """A folder of shards, with its manifest and the reports of finished shards."""

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self._reports = Reports(self.path / _REPORTS, _REPORT_FORM, _SHARD, _REMEDY)

    def add(self, report: ShardReport) -> None:
        """Stores the report of a finished shard."""
        self._reports.add(report.document())

    def reports(self) -> dict[str, ShardReport]:
        """The finished shards by name: those of the manifest, and of the running conversion.

        Raises:
            StateError: the manifest or a report is damaged.
        """
        new = {report.name: replace(report, label_counts=None) for report in self._new_reports()}
        return read_manifest(self.path).shards | new

    def is_done(self, report: ShardReport | None) -> bool:
        """Whether the shard and its index exist, and its size matches the report."""
        if report is None:
            return False
        shard = self.path / report.name
        has_index = shard.with_name(shard.name + INDEX_SUFFIX).exists()
        return shard.exists() and has_index and shard.stat().st_size == report.bytes

    def finish(self, names: Iterable[str] | None = None) -> list[ShardReport]:
        """Writes `manifest.json` and `bad_images.tsv`, and deletes leftovers of interrupted runs.

        Args:
            names: the shards of this run; another run may be writing others there. None: all.

        Returns:
            the reports of all finished shards of the folder, sorted by name.
        """
        shards, counts = read_manifest(self.path)
        for report in self._new_reports():
            earlier = shards.get(report.name)
            shards[report.name] = replace(report, label_counts=None)
            if earlier and earlier.sha256 == report.sha256:
                continue  # already counted
            if earlier or report.label_counts is None:
                counts = None
            elif counts is not None:
                counts.update(_sum_counts([report.label_counts]))
        reports = sorted(shards.values(), key=lambda report: report.name)
        self._write_manifest(reports, counts)
        ours = set(shards) if names is None else set(names)
        self.clear_leftovers(ours)
        self._reports.remove(ours)
        return reports

    def _write_manifest(self, reports: list[ShardReport], counts: Counter[int] | None) -> None:
        bad = [entry for report in reports for entry in report.bad]
        atomic_write(self.path / BAD_IMAGES, "".join("\t".join(entry) + "\n" for entry in bad))
        content = {
            "shards": [report.document() for report in reports],
            "label_counts": None if counts is None else _format_counts(counts),
        }
        for shard in content["shards"]:
            del shard["label_counts"]
        state.write_document(self.path / MANIFEST, _FORM, content, _VERSION)

    def clear_leftovers(self, names: set[str]) -> None:
        """Deletes unfinished files of these shards that interrupted runs left."""
        indices = {name + INDEX_SUFFIX for name in names}
        clear_leftovers(self.path, names | indices | {MANIFEST, BAD_IMAGES})

    def _new_reports(self) -> Iterator[ShardReport]:
        return (ShardReport(**report) for report in self._reports.all().values())


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """The manifest of the last complete conversion in a folder or at a URL; empty if there is none.

    Raises:
        StateError: it is damaged.
    """
    path = os.path.join(folder, MANIFEST)
    try:
        content = state.read_document(path, _FORM, _SCHEMA, _REMEDY, _VERSION)
    except FileNotFoundError:
        return Manifest({}, Counter())
    texts = [entry.pop("label_counts", None) for entry in content["shards"]]
    if "label_counts" in content:
        texts = [content["label_counts"]]
    shards = {entry["name"]: ShardReport(**entry) for entry in content["shards"]}
    if len(shards) < len(content["shards"]):
        raise state.damaged(path, "it names a shard twice", _REMEDY)
    return Manifest(shards, None if None in texts else _sum_counts(texts))


def verify(folder: str | os.PathLike[str], processes: int) -> tuple[list[ShardReport], list[str]]:
    """Compares a folder or URL with its manifest; shards missing from the manifest are problems.

    Checks the size, SHA-256, record CRCs, number of records and index of each shard, and the labels
    of all. At a URL, each process copies a shard to the temporary folder.

    Returns:
        the reports of the manifest, and the problems, one line each.

    Raises:
        UserError: there is no manifest, or it is damaged.
    """
    shards, counts = read_manifest(folder)
    if not shards:
        path = os.path.join(folder, MANIFEST)
        raise UserError(f"{path} is missing: no complete conversion is here")
    if storage.is_url(folder):
        paths, check = [file.url for file in storage.find(os.fspath(folder))], _check_copy
    else:
        paths, check = [entry.path for entry in os.scandir(folder)], _check_shard
    work = [(folder, report) for report in shards.values()]
    problems, found = [], Counter()
    with Progress("verification", len(work), "shard") as progress:
        for problem, labels in ordered_map(check, work, processes):
            problems += [problem] if problem else []
            found += labels
            progress.update()
    if not problems and counts is not None and found != counts:
        problems.append(f"{folder}: its records have other labels than {MANIFEST} says")
    if not any(report.rows for report in shards.values()):
        problems.append(f"{folder}: no rows in {MANIFEST}; {BAD_IMAGES} says why each was left out")
    suffixes = {Path(name).suffix for name in shards}
    problems += [
        f"{path}: not in the manifest"
        for path in sorted(paths)
        if Path(path).suffix in suffixes and os.path.basename(path) not in shards
    ]
    return list(shards.values()), problems


def _check_copy(work: tuple[str, ShardReport]) -> tuple[str, Counter[int]]:
    """`_check_shard` of a shard at a URL."""
    url, report = work[0].rstrip("/"), work[1]
    with tempfile.TemporaryDirectory() as copies:
        try:
            for name in (report.name, report.name + INDEX_SUFFIX):
                storage.download(f"{url}/{name}", os.path.join(copies, name))
        except UserError as error:
            return str(error), Counter()
        problem, labels = _check_shard((copies, report))
        return problem.replace(copies, url), labels


def _check_shard(work: tuple[str | os.PathLike[str], ShardReport]) -> tuple[str, Counter[int]]:
    """What is wrong with a shard, "" if nothing, and the positive records of each class in it."""
    folder, report = work
    path, labels = Path(folder, report.name), Counter()
    try:
        if path.stat().st_size != report.bytes:
            size = path.stat().st_size
            return f"{path}: {size} bytes, the manifest says {report.bytes}", labels
        if sha256(path) != report.sha256:
            return f"{path}: its SHA-256 does not match the manifest", labels
        # Before reading the records, which would fix the index.
        stored = path.with_name(path.name + INDEX_SUFFIX).read_text(encoding="utf-8")
        found = list(_labels_in(path))
        if len(found) != report.rows:
            return f"{path}: {len(found)} records, the manifest says {report.rows}", labels
        labels.update(itertools.chain.from_iterable(found))
        index = read_index(path)
    except (OSError, UserError) as error:
        return str(error), labels
    lines = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    if stored != "".join(f"{offset} {size}\n" for offset, size in lines):
        return f"{path}{INDEX_SUFFIX}: does not list the records of the shard", labels
    return "", labels


def _labels_in(path: Path) -> Iterator[list[int]]:
    """The positive classes of each record of a shard."""
    for record, payload in enumerate(read_records(path)):
        try:
            yield positive_classes(payload)
        except UserError as error:
            raise RecordError(f"{path}: record {record}: {error}") from error


def stored_label_counts(
    files: Sequence[str], rows: Sequence[int], sizes: Sequence[int]
) -> Counter[int] | None:
    """Positive records of each class in record files, from the manifests of their folders.

    Args:
        files: paths or URLs.
        rows: records of each file.
        sizes: sizes of the files in bytes.

    Returns None if a manifest is missing, damaged, without counts, or for other files.
    """
    folders: dict[str, dict[str, tuple[int, int]]] = {}
    for path, count, size in zip(files, rows, sizes, strict=True):
        folder, name = os.path.split(path)
        folders.setdefault(folder, {})[name] = (count, size)
    total: Counter[int] = Counter()
    for folder, found in folders.items():
        try:
            shards, counts = read_manifest(folder)
        except UserError as error:
            LOGGER.warning("counting labels by reading all records: %s", error)
            return None
        if counts is None or found != {n: (r.rows, r.bytes) for n, r in shards.items()}:
            return None
        total += counts
    return total


def bad_by_kind(reports: Iterable[ShardReport]) -> dict[str, int]:
    """Rows that were left out, counted by kind, the most frequent first."""
    counts = Counter(kind for report in reports for _, _, kind, _ in report.bad)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
