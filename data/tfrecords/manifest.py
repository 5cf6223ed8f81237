"""Shard manifest: rows, bytes and SHA-256 of each shard; written and verified.

While a conversion runs, each finished shard has a report of its own in the folder `.shards`, so
that any number of processes and machines can write, and a killed run continues. When all shards are
there, the reports become `manifest.json` and `bad_images.tsv`.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from data.common import state
from data.common.errors import UserError
from data.common.files import atomic_write, clear_leftovers, sha256
from data.common.finished import Reports
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.tfrecords import label_counts
from data.tfrecords.examples import positive_classes
from data.tfrecords.records import INDEX_SUFFIX, read_index, read_records

MANIFEST = "manifest.json"
BAD_IMAGES = "bad_images.tsv"
_REPORTS = ".shards"
_FORM, _REPORT_FORM = "record manifest", "shard report"
_REMEDY = "delete it and convert again"
_SHARD = {
    **dict.fromkeys(("rows", "bytes", "kept", "image_bytes"), state.is_count),
    "name": state.is_name,
    "source": state.is_text,
    "sha256": state.is_sha256,
    "bad": [[state.is_text]],
    "label_counts?": label_counts.is_label_counts,
}
LOGGER = logging.getLogger(__name__)


@dataclass
class ShardReport:
    """What a shard holds, and what of its part of the list it does not hold.

    `source` is a hash of the list rows and options it was made from. `bad` has, for each row that
    is not in the shard, `list:line`, image, a word to count by, and the reason. `label_counts` has
    the positive records of each class, see `label_counts.py`; None in those of earlier versions.
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


class ShardFolder:
    """A folder of shards with what is known of them."""

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self._reports = Reports(self.path / _REPORTS, _REPORT_FORM, _SHARD, _REMEDY)

    def create(self) -> None:
        self._reports.folder.mkdir(parents=True, exist_ok=True)

    def add(self, report: ShardReport) -> None:
        """Remembers a finished shard."""
        self._reports.add(asdict(report))

    def reports(self) -> dict[str, ShardReport]:
        """The finished shards by name: those of an earlier, whole conversion, and of this one."""
        new = {name: ShardReport(**report) for name, report in self._reports.all().items()}
        with contextlib.suppress(FileNotFoundError):
            return {**self.manifest(), **new}
        return new

    def is_done(self, report: ShardReport | None) -> bool:
        """Whether the shard is there, with its index, as long as its report says."""
        if report is None:
            return False
        shard = self.path / report.name
        has_index = shard.with_name(shard.name + INDEX_SUFFIX).exists()
        return shard.exists() and has_index and shard.stat().st_size == report.bytes

    def finish(self, reports: Iterable[ShardReport], names: Iterable[str] | None = None) -> None:
        """Writes manifest and bad images, and clears away what interrupted runs left.

        Args:
            reports: of all finished shards of the folder.
            names: the shards of this run; another run may be making others next to it. None: all.
        """
        reports = sorted(reports, key=lambda report: report.name)
        bad = [entry for report in reports for entry in report.bad]
        listing = "".join("\t".join(entry) + "\n" for entry in bad)
        atomic_write(self.path / BAD_IMAGES, listing)
        content = {"shards": [asdict(report) for report in reports]}
        state.write_document(self.path / MANIFEST, _FORM, content)
        ours = {report.name for report in reports} if names is None else set(names)
        self.clear_leftovers(ours)
        self._reports.remove(ours)

    def clear_leftovers(self, names: set[str]) -> None:
        """Deletes what interrupted runs left half written of these shards."""
        indices = {name + INDEX_SUFFIX for name in names}
        clear_leftovers(self.path, names | indices | {MANIFEST, BAD_IMAGES})

    def verify(self, processes: int) -> tuple[list[ShardReport], list[str]]:
        """Reads every shard again: size, SHA-256, each record's CRC, rows, index; and no others.

        Returns:
            the reports of the manifest, and the problems, a line each.
        """
        try:
            reports = list(self.manifest().values())
        except FileNotFoundError:
            missing = f"{self.path / MANIFEST} is missing: no whole conversion is here"
            raise UserError(missing) from None
        work = [(self.path, report) for report in reports]
        problems = []
        with Progress("verification", len(work), "shard") as progress:
            for problem in ordered_map(_shard_problem, work, processes):
                problems += [problem] if problem else []
                progress.update()
        known = {report.name for report in reports}
        suffixes = {Path(name).suffix for name in known}
        problems += [
            f"{path}: not in the manifest"
            for path in sorted(self.path.iterdir())
            if path.suffix in suffixes and path.name not in known
        ]
        return reports, problems

    def manifest(self) -> dict[str, ShardReport]:
        """The shards of the last whole conversion, by name.

        Raises:
            FileNotFoundError: there is no manifest.
            StateError: it is damaged.
        """
        path = self.path / MANIFEST
        entries = state.read_document(path, _FORM, {"shards": [_SHARD]}, _REMEDY)["shards"]
        reports = {entry["name"]: ShardReport(**entry) for entry in entries}
        if len(reports) < len(entries):
            raise state.damaged(path, "it names a shard twice", _REMEDY)
        return reports


def _shard_problem(work: tuple[Path, ShardReport]) -> str:
    folder, report = work
    path = folder / report.name
    try:
        if path.stat().st_size != report.bytes:
            return f"{path}: {path.stat().st_size} bytes, the manifest says {report.bytes}"
        if sha256(path) != report.sha256:
            return f"{path}: its SHA-256 is not that of the manifest"
        # Before the records are read, which would fix the index.
        stored = path.with_name(path.name + INDEX_SUFFIX).read_text(encoding="utf-8")
        rows, labels = 0, Counter()
        for payload in read_records(path):
            rows += 1
            labels.update(positive_classes(payload))
        if rows != report.rows:
            return f"{path}: {rows} records, the manifest says {report.rows}"
        if report.label_counts not in (None, label_counts.written(labels)):
            return f"{path}: the labels of its records are not as many as the manifest says"
        index = read_index(path)
    except (OSError, UserError) as error:
        return str(error)
    lines = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    if stored != "".join(f"{offset} {size}\n" for offset, size in lines):
        return f"{path}{INDEX_SUFFIX}: does not list the records of the shard"
    return ""


def labels_of(files: Sequence[str], rows: Sequence[int]) -> np.ndarray | None:
    """int64 [highest class + 1]: positive records of each class in record files of so many rows.

    From the manifests next to them; None where one is absent, damaged, of a time before it had
    counts, or of other files.
    """
    texts = []
    try:
        folders = {os.path.dirname(path) for path in files}
        reports = {folder: ShardFolder(folder or ".").manifest() for folder in folders}
        for path, count in zip(files, rows, strict=True):
            folder, name = os.path.split(path)
            report = reports[folder].get(name)
            if not report or (report.rows, report.bytes) != (count, os.path.getsize(path)):
                return None
            texts.append(report.label_counts)
    except FileNotFoundError:
        return None
    except state.StateError as error:
        LOGGER.warning("labels are counted by reading all records: %s", error)
        return None
    return None if None in texts else label_counts.added(texts)


def bad_by_reason(reports: Iterable[ShardReport]) -> dict[str, int]:
    """Rows that are in no shard, counted by reason, the most frequent first."""
    counts: dict[str, int] = {}
    for kind in _kinds(reports):
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _kinds(reports: Iterable[ShardReport]) -> Iterator[str]:
    for report in reports:
        for _, _, kind, _ in report.bad:
            yield kind
