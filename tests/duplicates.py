"""Finds blocks of equal lines among source files.

    python tests/duplicates.py FILE...      lists the blocks, exit code 1 if there are any

Indentation, empty lines, comment lines and imports do not count: two blocks are equal when at least
`BLOCK_LINES` of their other lines, in a row, read the same.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

BLOCK_LINES = 8


class Line(NamedTuple):
    """A line that counts: where it stands, counted from 1, and its text without indentation."""

    path: Path
    number: int
    text: str


def counted_lines(path: Path) -> list[Line]:
    """The lines of a file that count."""
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    stripped = (Line(path, number, text.strip()) for number, text in lines)
    return [
        line
        for line in stripped
        if line.text and not line.text.startswith(("#", "import ", "from "))
    ]


def blocks(lines: Sequence[Line]) -> Iterator[tuple[str, Line]]:
    """Every run of BLOCK_LINES lines of a file, as one text, with its first line."""
    for start in range(len(lines) - BLOCK_LINES + 1):
        run = lines[start : start + BLOCK_LINES]
        yield "\n".join(line.text for line in run), run[0]


def find_duplicates(paths: Sequence[Path]) -> list[tuple[Line, Line]]:
    """Pairs of first lines (earlier, later) of equal blocks; one pair for a block of any length."""
    first_seen: dict[str, Line] = {}
    pairs: list[tuple[Line, Line]] = []
    for path in paths:
        previous: Line | None = None  # the earlier twin of the block one line above
        for text, line in blocks(counted_lines(path)):
            twin = first_seen.setdefault(text, line)
            is_new = twin is not line
            if is_new and not (previous and twin.path == previous.path):
                pairs.append((twin, line))
            previous = twin if is_new else None
    return pairs


def main(arguments: Sequence[str]) -> int:
    """Prints the blocks found; 1 if there are any."""
    pairs = find_duplicates([Path(argument) for argument in arguments])
    for first, second in pairs:
        print(f"{first.path}:{first.number} and {second.path}:{second.number}: {first.text}")
    return 1 if pairs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
