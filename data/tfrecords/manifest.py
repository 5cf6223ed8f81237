"""The manifest of a folder of record shards: rows, bytes and SHA-256 of each, made and verified.

While a conversion runs, each finished shard has a report of its own in the folder `.shards`, so
that any number of processes and machines can write, and a killed run goes on. When all shards are
there, the reports become `manifest.json` and `bad_images.tsv`.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data.common.files import atomic_write, sha256
from data.common.parallel import ordered_map
from data.common.progress import Progress
from data.tfrecords.records import INDEX_SUFFIX, RecordError, read_index, read_records

MANIFEST = "manifest.json"
BAD_IMAGES = "bad_images.tsv"
_REPORTS = ".shards"


class ManifestError(ValueError):
    """A folder of shards that is not what is asked for, or not what its manifest says."""


@dataclass
class ShardReport:
    """What a shard holds, and what of its part of the list it does not hold.

    `source` is a hash of the list rows and options it was made from. `bad` has, for each row that
    is not in the shard, `list:line`, image, a word to count by, and the reason.
    """

    name: str
    source: str
    rows: int
    bytes: int
    sha256: str
    kept: int
    image_bytes: int
    bad: list[tuple[str, str, str, str]] = field(default_factory=list)


class ShardFolder:
    """A folder of shards with what is known of them."""

    def __init__(self, folder: str | os.PathLike):
        self.path = Path(folder)
        self._reports = self.path / _REPORTS

    def create(self) -> None:
        self._reports.mkdir(parents=True, exist_ok=True)

    def add(self, report: ShardReport) -> None:
        """Remembers a finished shard."""
        atomic_write(self._reports / f"{report.name}.json", json.dumps(asdict(report)).encode())

    def reports(self) -> dict[str, ShardReport]:
        """The finished shards by name: those of an earlier, whole conversion, and of this one."""
        entries = self._manifest() if (self.path / MANIFEST).exists() else []
        entries += [_parsed(path) for path in sorted(self._reports.glob("*.json"))]
        return {entry["name"]: ShardReport(**entry) for entry in entries}

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
            names: the shards of this run; another run may be making others beside it. None: all.
        """
        reports = sorted(reports, key=lambda report: report.name)
        lines = ",\n  ".join(json.dumps(asdict(report)) for report in reports)
        bad = [entry for report in reports for entry in report.bad]
        listing = "".join("\t".join(entry) + "\n" for entry in bad)
        atomic_write(self.path / BAD_IMAGES, listing.encode("utf-8", "surrogateescape"))
        atomic_write(self.path / MANIFEST, f'{{"shards": [\n  {lines}\n]}}\n'.encode())
        ours = {report.name for report in reports} if names is None else set(names)
        for name in ours:
            (self._reports / f"{name}.json").unlink(missing_ok=True)
        written = ours | {name + INDEX_SUFFIX for name in ours} | {MANIFEST, BAD_IMAGES}
        for folder in (self.path, self._reports):
            for leftover in folder.glob(".*.tmp"):
                name = leftover.name[1:].removesuffix(".tmp").rpartition(".")[0]  # its process id
                if name in written or name.removesuffix(".json") in ours:
                    leftover.unlink()
        with contextlib.suppress(OSError):  # another run's reports are in it
            self._reports.rmdir()

    def verify(self, processes: int) -> tuple[list[ShardReport], list[str]]:
        """Reads every shard again: size, SHA-256, each record's CRC, rows, index; and no others.

        Returns:
            the reports of the manifest, and the problems, a line each.
        """
        if not (self.path / MANIFEST).exists():
            raise ManifestError(f"{self.path / MANIFEST} is missing: no whole conversion is here")
        reports = [ShardReport(**entry) for entry in self._manifest()]
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

    def _manifest(self) -> list[dict]:
        return _parsed(self.path / MANIFEST)["shards"]


def _shard_problem(work: tuple[Path, ShardReport]) -> str:
    folder, report = work
    path = folder / report.name
    try:
        if path.stat().st_size != report.bytes:
            return f"{path}: {path.stat().st_size} bytes, the manifest says {report.bytes}"
        if sha256(path) != report.sha256:
            return f"{path}: its SHA-256 is not that of the manifest"
        # Before the records are read, which would mend the index.
        stored = path.with_name(path.name + INDEX_SUFFIX).read_text()
        rows = sum(1 for _ in read_records(path))
        if rows != report.rows:
            return f"{path}: {rows} records, the manifest says {report.rows}"
        index = read_index(path)
    except (OSError, RecordError) as error:
        return str(error)
    lines = zip(index.offsets.tolist(), index.sizes.tolist(), strict=True)
    if stored != "".join(f"{offset} {size}\n" for offset, size in lines):
        return f"{path}{INDEX_SUFFIX}: does not list the records of the shard"
    return ""


def _parsed(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"{path}: not JSON ({error}); delete it and convert again") from error


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
