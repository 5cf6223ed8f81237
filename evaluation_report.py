"""Writes the report of evaluate.py: JSON, CSV with a row per class, HTML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.common import html_report
from data.common.files import atomic_write
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.outputs import evaluation_files, evaluation_html
from models.metrics.results import HEADLINES, MultiLabelMetrics, SingleLabelMetrics
from models.prediction.evaluation import NOBODY, Evaluation

LISTED_CLASSES = 20
DRAWN_CLASSES = 3
LISTED_CONFUSIONS = 30


class Report(NamedTuple):
    """What the report is made of.

    Attributes:
      names: of the classes.
      evaluations: of each checkpoint, by step; the classes shown are those of the last one.
      compared: another checkpoint that the last one is set against.
      settings: what decides on the numbers, by name.
      images, prepare: give the images shown.
      page_classes: worst classes that are shown with images.
    """

    names: Sequence[str]
    evaluations: Sequence[Evaluation]
    compared: Evaluation | None
    settings: dict[str, Any]
    images: EvaluationImages
    prepare: Preparation
    page_classes: int

    def write(self, folder: Path) -> None:
        """Writes metrics.json, classes.csv, confusions.csv (single label) and report.html."""
        last = self.evaluations[-1]
        evaluation_files.write_json(folder / "metrics.json", self._numbers())
        evaluation_files.write_classes(
            folder / "classes.csv", self.names, last.metrics.class_table()
        )
        if isinstance(last.metrics, SingleLabelMetrics):
            rows = last.metrics.top_confusions(len(last.metrics.confusions))
            evaluation_files.write_confusions(folder / "confusions.csv", self.names, rows)
        page = html_report.page(f"Evaluation of {last.title}", self._sections())
        atomic_write(folder / "report.html", page.encode("utf-8", "replace"))

    def _numbers(self) -> dict[str, Any]:
        everyone = [*self.evaluations, *([self.compared] if self.compared else [])]
        return {
            "evaluations": [
                {
                    "checkpoint": e.checkpoint,
                    "step": e.step,
                    "unreadable_images": e.unreadable,
                    "metrics": e.metrics.summary(),
                }
                for e in everyone
            ],
            "unreadable": [[name, reason] for _, name, reason in self.images.left_out],
            "settings": self.settings,
        }

    def _sections(self) -> list[tuple[str, str]]:
        last, compared = self.evaluations[-1], self.compared
        columns = {e.title: e.metrics.summary() for e in (last, compared) if e}
        sections = [("Metrics", evaluation_html.metric_table(columns))]
        if len(self.evaluations) > 1:
            sections.append(("Checkpoints", self._checkpoint_curve()))
        if compared:
            sections.append(("Classes that changed most", self._changes(compared)))
        multi = isinstance(last.metrics, MultiLabelMetrics)
        sections += self._multi_label() if multi else self._single_label()
        sections += self._classes()
        rows = [(name, reason) for _, name, reason in self.images.left_out]
        left_out = html_report.table(["image", "reason"], rows)
        sections.append((f"Unreadable images, left out: {last.unreadable}", left_out))
        settings = [(name, str(value)) for name, value in self.settings.items()]
        return [*sections, ("Settings", html_report.table(["setting", "value"], settings))]

    def _checkpoint_curve(self) -> str:
        summaries = [e.metrics.summary() for e in self.evaluations]
        shown = [name for name in HEADLINES if name in summaries[0]]
        steps = [e.step if e.step is not None else i for i, e in enumerate(self.evaluations)]
        curves = {name: [summary[name] for summary in summaries] for name in shown}
        rows = [[s, *(values[i] for values in curves.values())] for i, s in enumerate(steps)]
        plot = evaluation_html.step_plot(steps, curves)
        return plot + html_report.table(["step", *shown], rows)

    def _changes(self, compared: Evaluation) -> str:
        ours, positives = self.evaluations[-1].quality()
        theirs, _ = compared.quality()
        change = ours - theirs
        known = np.flatnonzero(~np.isnan(change) & (change != 0))
        order = known[np.argsort(-np.abs(change[known]), kind="stable")][:LISTED_CLASSES]
        columns = {"this": ours, "other": theirs, "difference": change, "positives": positives}
        return evaluation_html.class_table(self.names, columns, order)

    def _multi_label(self) -> list[tuple[str, str]]:
        last = self.evaluations[-1]
        classes = last.ranked_classes()
        curves = {"all classes (micro)": last.metrics.curve()}
        drawn = [*classes[-DRAWN_CLASSES:][::-1], *classes[:DRAWN_CLASSES]]
        curves |= {f"{self.names[c]} ({c})": last.metrics.curve(c) for c in dict.fromkeys(drawn)}
        return [("Precision and recall", evaluation_html.precision_recall_plot(curves))]

    def _single_label(self) -> list[tuple[str, str]]:
        confusions = self.evaluations[-1].metrics.top_confusions(LISTED_CONFUSIONS)
        rows = [(self.names[t], self.names[p], n) for t, p, n in confusions.tolist()]
        return [("Confusions", html_report.table(["label", "predicted", "images"], rows))]

    def _classes(self) -> list[tuple[str, str]]:
        last = self.evaluations[-1]
        classes, columns = last.ranked_classes(), last.metrics.class_table()
        worst, best = classes[:LISTED_CLASSES], classes[::-1][:LISTED_CLASSES]
        return [
            ("Worst classes", evaluation_html.class_table(self.names, columns, worst)),
            ("Images of the worst classes", self._images(worst[: self.page_classes])),
            ("Best classes", evaluation_html.class_table(self.names, columns, best)),
        ]

    def _images(self, classes: np.ndarray) -> str:
        hardest = self.evaluations[-1].hardest
        kinds = [("lowest scores where it holds", hardest.false_negatives)]
        kinds.append(("highest scores where it does not", hardest.false_positives))
        wanted = {int(p) for _, found in kinds for c in classes for p in found[:, c]} - {NOBODY}
        crops = self.images.some(wanted, self.prepare)
        groups = []
        for c in classes:
            for kind, found in kinds:
                shown = [int(p) for p in found[:, c] if p != NOBODY]
                tiles = [(evaluation_html.thumbnail(crops[p][0]), f"image {p}") for p in shown]
                groups.append((f"{self.names[c]}: {kind}", tiles))
        return evaluation_html.image_rows(groups)
