"""The report of evaluate.py: metrics as JSON, a CSV with a row per class, an HTML page."""

from __future__ import annotations

import csv
import html
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data.common import html_report, mirror
from data.common.files import atomic_write
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation, center_image

LISTED_CLASSES = 20
DRAWN_CLASSES = 3
LISTED_CONFUSIONS = 30
MAPPED_CLASSES = 40  # with more, the confusion matrix is too wide to read
# Results of classes with fewer positives are mostly noise: ranked only if all are that rare.
ENOUGH_POSITIVES = 5
THUMBNAIL_SIDE = 112
HEADINGS = {
    "false_negatives": "lowest scores on its images",
    "false_positives": "highest scores on other images",
}
SIGNED_DIFFERENCE = "{:+.4f}"

Curve = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one checkpoint.

    Attributes:
      checkpoint: its path.
      step: its training step, if known.
      metrics: values of the metrics, by name.
      classes: columns [C] of the class table, by name.
      quality: float [C], by which the classes are ranked; NaN if not measured.
      positives: int [C], number of positive images of each class.
      hardest: for `false_negatives` and `false_positives`: image numbers, int64 [N, C], worst
        first; negative for none.
      unreadable: number of images skipped as unreadable, over all workers.
      thresholds: float32 [C], the threshold with the best F1; only with several labels per image.
      curve: returns (recall, precision) of a class, or of all classes for None; only with several
        labels per image.
      confusions: int64 [N, 3], rows (missed class, wrong class, images), most frequent first.
      mean_if_present, mean_if_absent: float64 [C], mean score of a class over the images that have
        it as a label, and over those that do not.
      reliability: `predictions`, `true` and `confidence` (a sum) of each confidence bin.
      fit: the fitted calibration, if any.
    """

    checkpoint: str
    step: int | None
    metrics: Mapping[str, float]
    classes: Mapping[str, np.ndarray]
    quality: np.ndarray
    positives: np.ndarray
    hardest: Mapping[str, np.ndarray]
    unreadable: int
    confusions: np.ndarray
    mean_if_present: np.ndarray
    mean_if_absent: np.ndarray
    reliability: Any
    thresholds: np.ndarray | None = None
    curve: Callable[[int | None], Curve] | None = None
    fit: Any = None

    @property
    def title(self) -> str:
        """The name of the checkpoint, after that of its folder."""
        return "/".join(Path(self.checkpoint).parts[-2:])

    def ranked_classes(self) -> np.ndarray:
        """Classes with ENOUGH_POSITIVES positives, or all if none has that many; worst first."""
        measured = ~np.isnan(self.quality) & self.classes.get("supported", True)
        frequent = measured & (self.positives >= ENOUGH_POSITIVES)
        chosen = np.flatnonzero(frequent if frequent.any() else measured)
        return chosen[np.lexsort((-self.positives[chosen], self.quality[chosen]))]


def write_thresholds(path: str | os.PathLike, thresholds: np.ndarray) -> None:
    """Writes rows `class<TAB>threshold`, for image_classification.py --threshold_file.

    Nine digits keep a float32 exact.

    Args:
      thresholds: float32 [C].
    """
    rows = [f"{c}\t{threshold:.9g}\n" for c, threshold in enumerate(thresholds.tolist())]
    atomic_write(path, "".join(rows))


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Attributes:
      names: names of the C classes.
      evaluations: one per checkpoint, by step; the class tables show the last one.
      compared: evaluation of another checkpoint, to compare with the last one.
      define: returns a metric's `better` (higher, lower or count), `meaning` and `headline` by
        name.
      settings: values of the flags that influence the metrics, by name.
      images, prepare: read the images to show.
      page_classes: number of worst classes to show with images.
      mistakes: name of the page of mistakes in the same folder, if there is one.
    """

    names: Sequence[str]
    evaluations: Sequence[Evaluation]
    compared: Evaluation | None
    define: Callable[[str], Any]
    settings: Mapping[str, Any]
    images: EvaluationImages
    prepare: Preparation
    page_classes: int
    mistakes: str | None = None

    def write(self, folder: Path) -> None:
        """Writes metrics.json, classes.csv, confusions.csv and report.html."""
        last = self.evaluations[-1]
        _write_json(folder / "metrics.json", self._numbers())
        self._write_classes(folder / "classes.csv")
        self._write_confusions(folder / "confusions.csv")
        page = html_report.page(f"Evaluation of {last.title}", self._sections())
        atomic_write(folder / "report.html", page.encode("utf-8", "replace"))

    def _numbers(self) -> dict[str, Any]:
        everyone = [*self.evaluations, *([self.compared] if self.compared else [])]
        return {
            "evaluations": [
                {
                    "checkpoint": mirror.shown(e.checkpoint),
                    "step": e.step,
                    "unreadable_images": e.unreadable,
                    "metrics": e.metrics,
                }
                for e in everyone
            ],
            "unreadable": [[name, reason] for _, name, reason in self.images.left_out],
            "settings": self.settings,
            "definitions": {
                name: {"better": metric.better, "meaning": metric.meaning}
                for name, metric in ((n, self.define(n)) for n in self.evaluations[-1].metrics)
            },
        }

    def _write_classes(self, path: Path) -> None:
        """Leaves cells empty for undefined values, e.g. the AP of a class without positives."""
        columns = self.evaluations[-1].classes
        rows = (
            (c, name, *(_cell(column[c]) for column in columns.values()))
            for c, name in enumerate(self.names)
        )
        _write_csv(path, ("class", "name", *columns), rows)

    def _write_confusions(self, path: Path) -> None:
        confusions, names = self.evaluations[-1].confusions, self.names
        rows = ((t, names[t], p, names[p], n) for t, p, n in confusions.tolist())
        _write_csv(path, ("label", "label_name", "predicted", "predicted_name", "images"), rows)

    def _sections(self) -> list[tuple[str, str]]:
        last, compared = self.evaluations[-1], self.compared
        sections = [("Metrics", self._metrics())]
        if self.mistakes:
            link = html_report.link(self.mistakes, "images with missed and wrong labels")
            sections.append(("Mistakes", f"<p>{link}, by class and kind</p>"))
        if len(self.evaluations) > 1:
            sections.append(("Checkpoints", self._checkpoints()))
        if compared:
            sections.append(("Classes that changed most", self._changes(compared)))
        if last.curve:
            sections.append(("Precision and recall", self._curves()))
        sections.append(("Reliability of the scores", self._reliability()))
        sections.append(("Confusions", self._confusions()))
        worst = last.ranked_classes()[:LISTED_CLASSES]
        best = last.ranked_classes()[::-1][:LISTED_CLASSES]
        sections.append(("Worst classes", self._class_table(last.classes, worst)))
        sections.append(("Images of the worst classes", self._images(worst[: self.page_classes])))
        sections.append(("Best classes", self._class_table(last.classes, best)))
        rows = [(name, reason) for _, name, reason in self.images.left_out]
        left_out = html_report.table(["image", "reason"], rows)
        sections.append((f"Unreadable images, left out: {last.unreadable}", left_out))
        settings = [(name, str(value)) for name, value in self.settings.items()]
        return [*sections, ("Settings", html_report.table(["setting", "value"], settings))]

    def _metrics(self) -> str:
        """A row per metric; with a compared checkpoint, also the difference (last - compared)."""
        shown = [e for e in (self.evaluations[-1], self.compared) if e]
        header = ["metric", *(e.title for e in shown), *["difference"][: len(shown) - 1], "meaning"]
        rows = []
        for name, value in shown[0].metrics.items():
            row: list[object] = [name, *(e.metrics.get(name, "") for e in shown)]
            if len(shown) == 2:
                other = shown[1].metrics.get(name)
                row.append("" if other is None else SIGNED_DIFFERENCE.format(value - other))
            rows.append([*row, self._meaning(name)])
        return html_report.table(header, rows)

    def _meaning(self, name: str) -> str:
        metric = self.define(name)
        return metric.meaning + ("; lower is better" if metric.better == "lower" else "")

    def _checkpoints(self) -> str:
        """The headline metrics against the training step."""
        steps = [e.step if e.step is not None else i for i, e in enumerate(self.evaluations)]
        curves = {
            name: [e.metrics[name] for e in self.evaluations]
            for name in self.evaluations[0].metrics
            if self.define(name).headline
        }
        rows = [[s, *(values[i] for values in curves.values())] for i, s in enumerate(steps)]
        lines = {name: (steps, values) for name, values in curves.items()}
        return html_report.line_plot(lines, "step", "") + html_report.table(["step", *curves], rows)

    def _changes(self, compared: Evaluation) -> str:
        last = self.evaluations[-1]
        change = last.quality - compared.quality
        known = np.flatnonzero(~np.isnan(change) & (change != 0))
        order = known[np.argsort(-np.abs(change[known]), kind="stable")][:LISTED_CLASSES]
        columns = {
            "this": last.quality,
            "other": compared.quality,
            "difference": change,
            "positives": last.positives,
        }
        return self._class_table(columns, order)

    def _curves(self) -> str:
        """Precision against recall, for all classes together and for the best and worst ones."""
        last = self.evaluations[-1]
        classes = last.ranked_classes()
        drawn = [*classes[-DRAWN_CLASSES:][::-1], *classes[:DRAWN_CLASSES]]
        curves = {"all classes (micro)": last.curve(None)}
        curves |= {
            f"{self.names[c]} ({c}, {last.positives[c]:,} images)": last.curve(c)
            for c in dict.fromkeys(drawn)
        }
        lines = {
            name: ([0.0, *recall], [precision[0], *precision])
            for name, (recall, precision) in curves.items()
            if len(recall)
        }
        return html_report.line_plot(lines, "recall", "precision", (0.0, 1.0))

    def _reliability(self) -> str:
        """The fraction of true predictions against the confidence, with the numbers of each bin."""
        last = self.evaluations[-1]
        predictions, true, confidence = last.reliability
        used = np.flatnonzero(predictions)
        means, fractions = (part[used] / predictions[used] for part in (confidence, true))
        lines = {"perfectly calibrated": ([0.0, 1.0], [0.0, 1.0]), last.title: (means, fractions)}
        rows = [
            (f"{b / len(predictions):.3f} to {(b + 1) / len(predictions):.3f}", *row)
            for b, *row in zip(used, predictions[used].tolist(), means, fractions, strict=True)
        ]
        header = ["confidence", "predictions", "mean confidence", "fraction true"]
        axes = "confidence", "fraction true", (0.0, 1.0)
        said = f"<p>with --probabilities={self.settings['probabilities']}</p>\n"
        return said + html_report.line_plot(lines, *axes) + html_report.table(header, rows)

    def _confusions(self) -> str:
        """The most frequent pairs as a table; with few classes, all pairs as a heat map, too."""
        last, count = self.evaluations[-1], len(self.names)
        confusions = last.confusions
        rows = [
            (
                html_report.Link(self.names[t], self._mistakes_of(t, p)),
                *(last.positives[t].item(), self.names[p], n),
            )
            for t, p, n in confusions[:LISTED_CONFUSIONS].tolist()
        ]
        table = html_report.table(["label", "images with it", "predicted", "images"], rows)
        if count > MAPPED_CLASSES or not len(confusions):
            return table
        counts = np.zeros((count, count), np.int64)
        counts[confusions[:, 0], confusions[:, 1]] = confusions[:, 2]
        names = [f"{name} ({n:,})" for name, n in zip(self.names, last.positives, strict=True)]
        note = "rows: missed label (images with it); columns: class predicted on those images"
        cells = html_report.heat_map(names, self.names, counts, self._mistakes_of)
        return f"<p>{note}</p>\n{cells}\n{table}"

    def _mistakes_of(self, label: int, wrong: int | None = None) -> str | None:
        """The link to a class's mistakes: all of them, or those where `wrong` is predicted."""
        if not self.mistakes:
            return None
        pair = "" if wrong is None else f"&kind=missed&with={wrong}"
        return f"{self.mistakes}#class={label}{pair}"

    def _class_table(self, columns: Mapping[str, np.ndarray], chosen: Sequence[int]) -> str:
        """A row per chosen class: its index, its name, and its value in each column [C]."""
        rows = [
            [
                int(c),
                html_report.Link(self.names[c], self._mistakes_of(c)),
                *(column[c].item() for column in columns.values()),
            ]
            for c in chosen
        ]
        return html_report.table(["class", "name", *columns], rows)

    def _images(self, classes: np.ndarray) -> str:
        """The hardest images of each class, under a heading."""
        last = self.evaluations[-1]
        hardest = last.hardest
        wanted = {int(p) for found in hardest.values() for c in classes for p in found[:, c]}
        crops = dict(self.images.crops_of({p for p in wanted if p >= 0}, self.prepare))
        parts = []
        for c in classes:
            for kind, heading in HEADINGS.items():
                shown = [int(p) for p in hardest[kind][:, c] if p >= 0]
                if shown:
                    name = f"{self.names[c]} (a label of {last.positives[c]:,} images)"
                    parts.append(f"<h3>{html.escape(f'{name}: {heading}')}</h3>")
                for p in shown:
                    address = html_report.image_address(thumbnail(crops[p], 2 * THUMBNAIL_SIDE))
                    parts.append(html_report.figure(address, f"image {p}", THUMBNAIL_SIDE))
        return "\n".join(parts)


def _write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes JSON; NumPy numbers become plain ones, NaN and infinity become null."""
    atomic_write(path, json.dumps(plain(content), indent=1) + "\n")


def _write_csv(
    path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _cell(value: Any) -> Any:
    value = plain(value)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else int(value)


def plain(value: Any) -> Any:
    """The value for JSON: NumPy numbers and arrays as Python ones, NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def thumbnail(crops: np.ndarray, side: int) -> Image.Image:
    """The center crop from float32 [crops, S, S, 3], reduced to at most side x side pixels."""
    image = center_image(crops)
    image.thumbnail((side, side))
    return image
