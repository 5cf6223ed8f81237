"""Line plots as inline SVG for HTML pages; needs no plotting library."""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WIDTH, HEIGHT = 460, 320
LEFT, RIGHT, TOP, BOTTOM = 52, 12, 12, 40
COLORS = ("#0b57d0", "#b3261e", "#1a7f37", "#9a6700", "#6f42c1", "#24747a", "#8c564b")
TICKS = 5
MAX_POINTS = 200


class Line(NamedTuple):
    """A named line through the points (x, y), in order."""

    name: str
    x: Sequence[float]
    y: Sequence[float]


def line_plot(
    lines: Sequence[Line],
    x_label: str,
    y_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """An SVG element with axes and a legend; long lines are thinned to MAX_POINTS points.

    Args:
      x_range, y_range: ends of the axes; None: those of the data.
    """
    x_range = x_range or _range([x for line in lines for x in line.x])
    y_range = y_range or _range([y for line in lines for y in line.y])
    height = HEIGHT + 16 * len(lines)
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
        ' font-size="11" font-family="system-ui, sans-serif" fill="#222">'
    ]
    parts += _axes(x_range, y_range, x_label, y_label)
    for number, line in enumerate(lines):
        color = COLORS[number % len(COLORS)]
        chosen = np.unique(np.linspace(0, len(line.x) - 1, MAX_POINTS).round().astype(int))
        x = _place(np.asarray(line.x, float)[chosen], x_range, LEFT, WIDTH - RIGHT)
        y = _place(np.asarray(line.y, float)[chosen], y_range, HEIGHT - BOTTOM, TOP)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
        )
        row = HEIGHT + 16 * number + 4
        parts.append(f'<rect x="{LEFT}" y="{row - 8}" width="14" height="3" fill="{color}"/>')
        parts.append(_text(line.name, f'x="{LEFT + 20}" y="{row - 3}"'))
    return "\n".join([*parts, "</svg>"])


def _axes(
    x_range: tuple[float, float], y_range: tuple[float, float], x_label: str, y_label: str
) -> list[str]:
    parts = []
    for share in np.linspace(0, 1, TICKS):
        x = LEFT + share * (WIDTH - RIGHT - LEFT)
        y = HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)
        x_value = x_range[0] + share * (x_range[1] - x_range[0])
        y_value = y_range[0] + share * (y_range[1] - y_range[0])
        parts += [
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>',
            _text(f"{y_value:.4g}", f'x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end"'),
            _centred(f"{x_value:.4g}", f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 15}"'),
        ]
    middle, side = (LEFT + WIDTH - RIGHT) / 2, (TOP + HEIGHT - BOTTOM) / 2
    parts.append(_centred(x_label, f'x="{middle}" y="{HEIGHT - 10}"'))
    parts.append(_centred(y_label, f'transform="translate(12 {side}) rotate(-90)"'))
    return parts


def _centred(text: str, place: str) -> str:
    return _text(text, f'{place} text-anchor="middle"')


def _text(text: str, place: str) -> str:
    return f"<text {place}>{html.escape(text)}</text>"


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = (float(min(values)), float(max(values))) if len(values) else (0.0, 1.0)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def _place(values: np.ndarray, ends: tuple[float, float], start: float, stop: float) -> np.ndarray:
    return start + (values - ends[0]) / (ends[1] - ends[0]) * (stop - start)
