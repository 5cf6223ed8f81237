"""Writes list statistics: the table of spec section 1, CSV files, plots."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.html_report import panels, write_figure
from data.lists.hierarchy import Hierarchy
from data.lists.selection import SOURCES
from data.lists.statistics import ListStatistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(
    hierarchy: Hierarchy, train: ListStatistics, val: ListStatistics | None, min_images: int
) -> list[tuple[str, str]]:
    """(fact, value) in the order of spec section 1.

    A label is one with a confidence above 0. Images per class is the number of training labels by
    the number of classes; a class is trainable with over `min_images` training images.
    """
    per_class = train.class_images.sum(0)
    rows = [("train images", f"{train.rows:,}")]
    if val is not None:
        rows.append(("val images", f"{val.rows:,}"))
    for source, name in enumerate(SOURCES):
        classes = np.count_nonzero(train.class_images[source])
        rows.append((f"{name}: train images", f"{train.images[source]:,}"))
        rows.append((f"{name}: classes in train", f"{classes:,}"))
        if val is not None:
            rows.append((f"{name}: val images", f"{val.images[source]:,}"))
    roots = ", ".join(hierarchy.names[root] for root in hierarchy.roots)
    return [
        *rows,
        ("classes", f"{len(hierarchy):,}"),
        ("classes with a train image", f"{np.count_nonzero(per_class):,}"),
        (f"trainable classes (over {min_images})", f"{np.sum(per_class > min_images):,}"),
        ("labels per train image (mean)", f"{train.labels / max(1, train.rows):.2f}"),
        ("train images per class (mean)", f"{per_class.mean():,.0f}"),
        ("unknown labels (confidence -1)", f"{train.unknown:,}"),
        ("denied labels (confidence 0)", f"{train.denied:,}"),
        ("trees of the hierarchy", f"{len(hierarchy.roots)} ({roots})"),
        ("longest path, edges", f"{hierarchy.depths.max()}"),
        ("mean path, edges", f"{hierarchy.depths.mean():.2f}"),
    ]


def write_files(
    folder: Path,
    hierarchy: Hierarchy,
    lists: dict[str, ListStatistics],
    min_images: int,
) -> list[Path]:
    """Writes CSV files and plots and returns their paths; `lists` by their role, train first.

    Lists without a label, and all without Matplotlib, are not plotted.
    """
    tables = {"images_per_class.csv": _class_rows(hierarchy, lists)}
    tables["tags_per_image.csv"] = _label_rows(lists)
    for name, rows in tables.items():
        atomic_write(folder / name, _csv(rows))
    plotted = {role: statistics for role, statistics in lists.items() if statistics.labels}
    figures = {}
    try:
        if plotted:
            figures["images_per_class.png"] = _plot_classes(plotted, min_images)
            figures["tags_per_image.png"] = _plot_labels(plotted)
    except UserError as error:  # without Matplotlib the rest is worth having
        print(error, file=sys.stderr)
    for name, figure in figures.items():
        write_figure(folder / name, figure)
    return [folder / name for name in (*tables, *figures)]


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _class_rows(
    hierarchy: Hierarchy, lists: dict[str, ListStatistics]
) -> Iterable[Iterable[object]]:
    yield [
        *("class", "id", "name", "parent", "depth"),
        *(f"{role} images" for role in lists),
        *(f"{role} images of {source}" for role in lists for source in SOURCES),
    ]
    totals = [statistics.class_images.sum(0).tolist() for statistics in lists.values()]
    parts = [part.tolist() for statistics in lists.values() for part in statistics.class_images]
    known = (hierarchy.ids, hierarchy.names, hierarchy.parents.tolist(), hierarchy.depths.tolist())
    yield from zip(range(len(hierarchy)), *known, *totals, *parts, strict=True)


def _label_rows(lists: dict[str, ListStatistics]) -> Iterable[Iterable[object]]:
    yield ["tags", *(f"{role} images" for role in lists)]
    counts = [_shown(statistics) for statistics in lists.values()]
    longest = max(map(len, counts))
    padded = [np.pad(count, (0, longest - len(count))).tolist() for count in counts]
    yield from zip(range(longest), *padded, strict=True)


def _shown(statistics: ListStatistics) -> np.ndarray:
    """Images by number of labels, up to the largest number that occurs."""
    return np.trim_zeros(statistics.images_by_labels, "b")


def _plot_classes(lists: dict[str, ListStatistics], min_images: int) -> Figure:
    """Classes from the most to the least frequent, both axes logarithmic."""
    figure, (axis,) = panels(1)
    for role, statistics in lists.items():
        images = np.sort(statistics.class_images.sum(0))[::-1]
        images = images[images > 0]
        axis.plot(np.arange(1, len(images) + 1), images, label=f"{role}: {len(images):,} classes")
    axis.axhline(min_images, color="gray", linestyle="--", linewidth=1)
    axis.annotate(
        f"trainable: over {min_images}", (1, min_images), (4, 3), textcoords="offset points"
    )
    axis.set(
        xscale="log", yscale="log", title="Images per class",
        xlabel="class, from the most to the least frequent", ylabel="images of the class",
    )  # fmt: skip
    axis.legend()
    return figure


def _plot_labels(lists: dict[str, ListStatistics]) -> Figure:
    """Images by number of labels; the counts logarithmic."""
    figure, axes = panels(len(lists))
    for axis, (role, statistics) in zip(axes, lists.items(), strict=True):
        images = _shown(statistics)
        mean = statistics.labels / max(1, statistics.rows)
        axis.stairs(images, np.arange(len(images) + 1) - 0.5, fill=True)
        axis.axvline(mean, color="black", linestyle="--", linewidth=1, label=f"mean {mean:.2f}")
        axis.set_title(f"Annotations per image: {role}, {statistics.rows:,} images")
        axis.set(yscale="log", ylim=(0.7, None), xlabel="annotations of an image", ylabel="images")
        axis.legend()
    return figure
