"""Checks the annotations of a list; counts problems and keeps the first examples."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np

from data.lists.blocks import Block, Labels
from data.lists.hierarchy import NO_PARENT

CHECKS = {
    "format": "lines that are no rows of a list",
    "confidence": "confidences that are neither in 0..1 nor -1",
    "class": "classes that the dictionary does not have",
    "repeated_class": "tags overruled by another one of their row",
    "untagged": "rows without a tag above 0",
    "ancestor": "tags above 0 whose parent is no tag of their row",
    "parent_confidence": "tags with a higher confidence than their parent",
    "duplicate": "rows with an image that an earlier row has",
    "overlap": "rows of the second list with an image that the first list has",
}
"""What each check counts."""


@dataclass
class Findings:
    """Counts by check, and the first examples: (lines before, what is wrong)."""

    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(CHECKS, 0))
    examples: dict[str, list[tuple[int, str]]] = field(
        default_factory=lambda: {check: [] for check in CHECKS}
    )

    def add(self, check: str, count: int, examples: list[tuple[int, str]]) -> None:
        self.counts[check] += count
        self.examples[check] += examples

    def merge(self, other: Findings, lines_before: int, most: int) -> None:
        """Adds the findings of the next chunk, whose lines come after `lines_before`."""
        for check, examples in other.examples.items():
            room = max(0, most - len(self.examples[check]))
            moved = [(lines_before + line, text) for line, text in examples[:room]]
            self.add(check, other.counts[check], moved)


def check_block(block: Block, parents: np.ndarray, most: int) -> Findings:
    """All checks that need to see but one row at a time.

    Args:
        parents: int32 [C], of each class.
        most: examples of each check that are kept.
    """
    findings = Findings()
    for line, reason in block.problems:
        words = reason.split()[0]
        check = words if words in ("confidence", "class") else "format"
        room = len(findings.examples[check]) < most
        findings.add(check, 1, [(line, reason)] if room else [])
    examples = [(line, f"{count} repeated") for line, count in block.repeated[:most]]
    findings.add("repeated_class", sum(count for _, count in block.repeated), examples)

    tags = block.labels.where(block.labels.confidences > 0)
    untagged = np.flatnonzero(np.diff(tags.offsets) == 0)
    findings.add(
        "untagged", len(untagged), [(_line(block, r), block.names[r]) for r in untagged[:most]]
    )
    for check, wrong, parent_text in _against_parents(block.labels, parents):
        rows = block.labels.rows[wrong[:most]]
        classes = block.labels.classes[wrong[:most]]
        examples = [
            (_line(block, r), f"{block.names[r]}: class {c} {parent_text} {parents[c]}")
            for r, c in zip(rows.tolist(), classes.tolist(), strict=True)
        ]
        findings.add(check, len(wrong), examples)
    return findings


def _line(block: Block, row: int) -> int:
    return int(block.numbers[row])


def _against_parents(tags: Labels, parents: np.ndarray) -> list[tuple[str, np.ndarray, str]]:
    """Tags above 0 without their parent, and tags above their parent: indices into the tags."""
    row_keys = tags.rows << 32
    keys = row_keys | tags.classes
    order = np.argsort(keys)
    parent = parents[tags.classes]
    above = np.flatnonzero((tags.confidences > 0) & (parent != NO_PARENT))
    wanted = row_keys[above] | parent[above]
    found = np.minimum(np.searchsorted(keys, wanted, sorter=order), max(0, len(keys) - 1))
    at = order[found] if len(order) else found
    present = keys[at] == wanted
    higher = tags.confidences[above] > tags.confidences[at]
    return [
        ("ancestor", above[~present], "without its parent"),
        ("parent_confidence", above[present & higher], "above its parent"),
    ]


def name_hashes(block: Block) -> np.ndarray:
    """uint64 [R]: a hash of each image name; two names share one with probability 2^-64."""
    digests = [blake2b(name.encode(), digest_size=8).digest() for name in block.names]
    return np.frombuffer(b"".join(digests), np.uint64)
