"""Final pass over the manifests: finds duplicate bodies and writes the lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data.common.files import rewritten
from data.common.sharding import Shard
from data.download.manifest import Entry, Manifest
from data.download.names import Naming
from data.download.store import partial_name
from data.lists.rows import Row, format_row, read_rows

REPEATED = "repeated"
"""The kind of failure of a row whose body came from many URLs."""

_DIGITS = 32  # of a SHA-256 that are looked at: 128 bits
_CELL_BITS = 24
_FULL = 255


class Totals(NamedTuple):
    """Rows by kind (ok, converted, pending, or a kind of failure) and bytes of the files."""

    kinds: dict[str, int]
    stored_bytes: int

    @property
    def rows(self) -> int:
        return sum(self.kinds.values())

    @property
    def ok(self) -> int:
        return self.kinds.get("ok", 0) + self.kinds.get("converted", 0)

    @property
    def pending(self) -> int:
        return self.kinds.get("pending", 0)

    @property
    def failed(self) -> dict[str, int]:
        """Failed rows by kind, the most frequent first."""
        others = {k: n for k, n in self.kinds.items() if k not in ("ok", "converted", "pending")}
        return dict(sorted(others.items(), key=lambda item: (-item[1], item[0])))


def totals(manifests: Sequence[Manifest]) -> Totals:
    kinds: dict[str, int] = {}
    for manifest in manifests:
        for kind, count in manifest.counts().items():
            kinds[kind] = kinds.get(kind, 0) + count
    return Totals(kinds, sum(manifest.stored_bytes for manifest in manifests))


class Repeated(NamedTuple):
    """One body that many URLs gave."""

    sha256: str
    rows: int
    example_url: str


def mark_repeated(manifests: Sequence[Manifest], urls: int) -> list[Repeated]:
    """Marks the rows whose files are the same for at least `urls` different URLs.

    Such a body is a placeholder that no list knows yet. A first pass counts in tables of fixed
    size (a count-min sketch), so that a second one needs to remember only what may be repeated.

    Returns:
        the bodies, the most frequent first.
    """
    suspects = _suspects(manifests, urls)
    different: dict[str, set[int]] = {digest: set() for digest in suspects}
    for entry in _valid(manifests, suspects):
        known = different[entry.sha256[:_DIGITS]]
        if len(known) < urls:
            known.add(hash(entry.url))
    found = {digest for digest, known in different.items() if len(known) >= urls}
    repeated: dict[str, Repeated] = {}
    for manifest in manifests:
        # Lines appended here are read too, and passed over: their rows are no longer OK.
        for entry in _valid([manifest], found):
            before = repeated.get(entry.sha256, Repeated(entry.sha256, 0, entry.url))
            repeated[entry.sha256] = before._replace(rows=before.rows + 1)
            reason = f"the same body came from {urls} or more URLs"
            manifest.append(entry._replace(status=REPEATED, error=reason))
    return sorted(repeated.values(), key=lambda body: (-body.rows, body.sha256))


def _valid(manifests: Iterable[Manifest], digests: set[str]) -> Iterator[Entry]:
    """The last entries of rows that are OK, where the digest, cut, is one of these."""
    if not digests:
        return
    for manifest in manifests:
        last: dict[int, str] = {}  # Of a row that was tried again, earlier bodies do not count.
        for entry in manifest.entries():
            if entry.sha256[:_DIGITS] in digests:
                last[entry.row] = entry.sha256
            else:
                last.pop(entry.row, None)
        for entry in manifest.entries():
            if entry.sha256 and last.get(entry.row) == entry.sha256 and manifest.is_ok(entry.row):
                yield entry


def _suspects(manifests: Sequence[Manifest], urls: int) -> set[str]:
    """Digests, cut, that may occur `urls` times: all that do, and few others."""
    mask = (1 << _CELL_BITS) - 1
    tables = bytearray(mask + 1), bytearray(mask + 1)
    enough = min(urls, _FULL)
    suspects = set()
    for manifest in manifests:
        for entry in manifest.entries():
            if not entry.sha256:
                continue
            key = int(entry.sha256[:16], 16)
            cells = key & mask, key >> _CELL_BITS & mask
            count = min(tables[0][cells[0]], tables[1][cells[1]])
            if count + 1 >= enough:
                suspects.add(entry.sha256[:_DIGITS])
            for table, cell in zip(tables, cells, strict=True):
                table[cell] = min(_FULL, max(table[cell], count + 1))
    return suspects


def write_lists(
    manifests: Sequence[Manifest],
    url_list: Path,
    naming: Naming,
    folder: Path,
    im_list: Path,
    invalid_list: Path,
) -> None:
    """The image list and the list of failed rows, both with their tags, in the order of the list.

    Files of repeated bodies, and half-written ones, are removed from `folder` on the way. The list
    of failed rows is a list of URLs (or ids) again.

    Args:
        manifests: of all parts of the list, in order; no row of them is pending.
    """
    with rewritten(im_list) as images, rewritten(invalid_list) as invalid:
        for index, manifest in enumerate(manifests):
            part = Shard(index, len(manifests))
            rows = read_rows(url_list, part=part)
            for number, row in enumerate(rows):
                file = naming.file(row.image)
                if manifest.is_ok(number):
                    images.write(_line(row._replace(image=file)))
                    continue
                (folder / file).with_name(partial_name(number, part)).unlink(missing_ok=True)
                if manifest.kind(number) == REPEATED:
                    (folder / file).unlink(missing_ok=True)
                invalid.write(_line(row))


def _line(row: Row) -> bytes:
    return format_row(row).encode() + b"\n"
