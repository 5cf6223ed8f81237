"""Checks downloaded files against the manifest and marks changed ones for download."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from data.common.files import sha256
from data.download.manifest import Entry, Manifest

LOST = "lost"
"""The kind of failure of a row whose file was deleted or altered after it was downloaded."""


def mark_lost(manifest: Manifest, is_kept: Callable[[Entry], bool]) -> int:
    """Marks the rows that are OK but for their file; returns how many."""
    lost: dict[int, Entry] = {}
    for entry in manifest.entries():
        lost.pop(entry.row, None)  # of the lines of a row the last one counts
        if manifest.is_ok(entry.row) and not is_kept(entry):
            lost[entry.row] = entry
    for entry in lost.values():
        reason = "the file was deleted or altered after it was downloaded"
        manifest.append(entry._replace(status=LOST, sha256="", error=reason))
    if lost:
        print(
            f"{manifest.path}: {len(lost)} images were deleted or altered since;"
            " they are downloaded again",
            file=sys.stderr,
        )
    return len(lost)


def is_whole(path: Path, entry: Entry, by_hash: bool) -> bool:
    """Whether the file of a row is there, as long as it was, and perhaps with the same content."""
    try:
        is_as_long = path.stat().st_size == entry.bytes
    except (FileNotFoundError, NotADirectoryError):
        return False
    return is_as_long and (not by_hash or sha256(path) == entry.sha256)
