"""Sections of the HTML evaluation report: metrics, curves, classes, images."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image

from data.common import html_report
from data.input.image_batches import to_image

THUMBNAIL_SIDE = 112
SIGNED_DIFFERENCE = "{:+.4f}"

# The first pattern that matches a metric's name tells what it is; \1 is its k.
MEANINGS = (
    (r"images", "images evaluated"),
    (r"images_with_positive", "images with at least one positive label"),
    (r"supported_classes", "classes that means over classes are over"),
    (r"map_macro", "mean of the classes' average precision"),
    (r"map_micro", "average precision of all (image, class) pairs in one ranking"),
    (r"map_weighted", "mean of the classes' average precision, by number of positives"),
    (r"label_ranking_ap", "mean over labels of the share of positives ranked down to them"),
    (r"coverage", "classes down the ranking until all positives are found; less is better"),
    (r"ranking_loss", "share of (positive, negative) pairs in the wrong order; less is better"),
    (r"one_error", "share of images whose best class is wrong; less is better"),
    (r"hamming", "share of (image, class) pairs predicted wrongly; less is better"),
    (r"hierarchical_precision_at_(\d+)", r"share of the best \1 classes and ancestors that hold"),
    (
        r"hierarchical_recall_at_(\d+)",
        r"share of labels and ancestors among the best \1 and theirs",
    ),
    (r"hierarchical_f1_at_\d+", "harmonic mean of the two above"),
    (r"precision_at_(\d+)", r"mean over images: share of the best \1 classes that hold"),
    (r"recall_at_(\d+)", r"mean over images: share of labels among the best \1 classes"),
    (r"f1_at_(\d+)", r"mean over images: F1 of the best \1 classes"),
    (r"(precision|recall|f1)_at_threshold", r"mean over images: \1 of the classes predicted"),
    (r"macro_(\w+)", r"mean over classes: \1 of the predictions"),
    (r"micro_(\w+)", r"\1 of all predictions together"),
    (r"top_(\d+)", r"share of images with their label among the best \1"),
    (r"top_\d+_(low|high)", r"\1 end of its 95 % interval (Wilson)"),
    (r"mean_class_accuracy", "mean of the classes' top-1"),
    (r"loss", "mean of minus the logarithm of the label's probability; less is better"),
)


def meaning(metric: str) -> str:
    """What a metric is, in a line; empty for an unknown one."""
    for pattern, text in MEANINGS:
        match = re.fullmatch(pattern, metric.removeprefix("ema_"))
        if match:
            return match.expand(text)
    return ""


def metric_table(columns: Mapping[str, Mapping[str, float]]) -> str:
    """The metrics of each column; of two columns also how far the first is above the second."""
    header, values = ["metric", *columns], list(columns.values())
    if len(values) == 2:
        header.append("difference")
    rows = []
    for metric in values[0]:
        row: list[object] = [metric, *(column.get(metric, "") for column in values)]
        if len(values) == 2 and metric in values[1]:
            row.append(SIGNED_DIFFERENCE.format(values[0][metric] - values[1][metric]))
        rows.append([*row, meaning(metric)])
    return html_report.table([*header, "meaning"], rows)


def class_table(
    names: Sequence[str], columns: Mapping[str, np.ndarray], chosen: Sequence[int]
) -> str:
    """A row for each chosen class: its index, its name, and an entry of each column [C]."""
    rows = [[int(c), names[c], *(column[c].item() for column in columns.values())] for c in chosen]
    return html_report.table(["class", "name", *columns], rows)


def precision_recall_plot(curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Curves, by name, of (recall, precision); each begins at recall 0."""
    lines = {
        name: ([0.0, *recall], [precision[0], *precision])
        for name, (recall, precision) in curves.items()
        if len(recall)
    }
    return html_report.line_plot(lines, "recall", "precision", (0.0, 1.0))


def step_plot(steps: Sequence[int], metrics: Mapping[str, Sequence[float]]) -> str:
    """Each metric against the training step."""
    lines = {name: (steps, values) for name, values in metrics.items()}
    return html_report.line_plot(lines, "step", "")


def image_rows(groups: Sequence[tuple[str, Sequence[tuple[Image.Image, str]]]]) -> str:
    """Headed rows of images with captions; a group without an image is left out."""
    parts = []
    for heading, tiles in groups:
        if tiles:
            parts.append(f"<h3>{html.escape(heading)}</h3>")
            parts += [
                html_report.figure(html_report.image_address(image), caption, THUMBNAIL_SIDE)
                for image, caption in tiles
            ]
    return "\n".join(parts)


def thumbnail(crop: np.ndarray) -> Image.Image:
    """A small image of what the network saw: float32 [S, S, 3] in [-1, 1]."""
    image = to_image(crop)
    image.thumbnail((2 * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE))
    return image
