"""A page of an evaluation's mistakes: images with true and predicted labels, to filter and sort.

mistakes_page.js is its script in the browser. The page is a single file and loads nothing else.
"""

from __future__ import annotations

import heapq
import html
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.common import html_report
from data.common.files import atomic_write
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.outputs.evaluated_images import EvaluatedImage, ScoredLabel
from data.outputs.evaluation_report import Evaluation, plain, thumbnail

NAME = "images.html"
KINDS = ("missed", "wrong", "suspect")
CURVE_POINTS = 24
THUMBNAIL_SIDE = 160
LISTED_CONFUSIONS = 5
# Mistakes kept in memory during the search for the worst, about 100 bytes each; a class keeps at
# least LEAST_KEPT of each kind.
REMEMBERED = 200_000
LEAST_KEPT = 3
_POSITIVE, _PREDICTED, _SUSPECT = 1, 2, 4  # bits of a label, as in mistakes_page.js

_BODY = """<p>{summary}</p>
<details><summary>What counts as a mistake, and which images are here</summary>
<p>A class is <b class="missed">missed</b> (a false negative) if the image has it as a label, but
its score is below the class's threshold{best}. It is <b class="wrong">wrong</b> (a false positive)
if it is predicted, is among the image's best scores, and is not one of its labels. Images were
chosen class by class: first the missed label with the lowest score and the wrong one with the
highest score of every class, then the second of each, and so on, up to {limit} images.</p>
<p>A mistake is marked as a <b class="suspect">likely label error</b> if the network confidently
disagrees with the label: a wrong label whose score is at least the class's mean score over the
images that have it, or a missed one whose score is at most its mean over those that do not (after
confident learning, Northcutt et al. 2021). Look at the image before you change a label: the network
may be wrong, and for a class that it has not learned, the mark means nothing.</p>
</details>
<div id="page">
<nav id="list"><input id="find-class" type="search" placeholder="find a class" aria-label="class">
<table></table><p></p></nav>
<main>
<div id="bar">
<input id="find" type="search" placeholder="find a file name" aria-label="file name">
<label>show <select id="kind"><option value="any">all mistakes<option value="missed">missed labels
(false negatives)<option value="wrong">wrong labels (false positives)<option value="suspect">likely
label errors</select></label>
<label>sort by <select id="sort"><option value="score">confidence of the mistake<option
value="loss">loss of the image<option value="name">file name<option value="number">number</select>
</label><span id="count" role="status"></span><a id="reset" href="#">show all</a></div>
<section id="class"></section>
<div id="cards"></div><button id="more" hidden>show more</button>
</main>
</div>"""


@dataclass(frozen=True)
class MistakesPage:
    """The page's content.

    Attributes:
      evaluation: the measurements of the classes.
      names: names of the C classes.
      images, prepare: read the images to show.
      limit: maximum number of images on the page.
    """

    evaluation: Evaluation
    names: Sequence[str]
    images: EvaluationImages
    prepare: Preparation
    limit: int

    def write(self, path: Path, read: Callable[[], Iterator[EvaluatedImage]]) -> None:
        """Writes the page.

        Args:
          read: returns all images in order; called twice.
        """
        chooser = MistakeChooser(len(self.names), self.limit, self.is_suspect)
        for image in read():
            chooser.add(image)
        chosen = chooser.chosen()
        thumbnails = dict(self._thumbnails(chosen))
        shown = [self._row(image, thumbnails) for image in read() if image.number in thumbnails]
        content = {"classes": self._classes(chooser.counts), "images": shown}
        summary = (
            f"{len(shown):,} of {chooser.images_with_mistake:,} images with a mistake are here;"
            f" {chooser.images:,} images were evaluated"
        )
        best = "" if self.evaluation.curve else " (here: if another class scores best)"
        body = _BODY.format(summary=html.escape(summary), best=best, limit=f"{self.limit:,}")
        here = Path(__file__)
        style = f"<style>\n{here.with_suffix('.css').read_text('utf-8')}</style>\n"
        body += html_report.data_block("mistakes", plain(content))
        body += html_report.script(here.with_suffix(".js"))
        page = html_report.page(f"Mistakes of {self.evaluation.title}", [("", style + body)])
        atomic_write(path, page.encode("utf-8", "replace"))

    def is_suspect(self, label: ScoredLabel) -> bool:
        """Whether a mistake is a likely label error, as the page defines it."""
        if label.wrong:
            return label.score >= self.evaluation.mean_if_present[label.index]
        return label.missed and label.score <= self.evaluation.mean_if_absent[label.index]

    def _thumbnails(self, numbers: set[int]) -> Iterator[tuple[int, str]]:
        for number, crops in self.images.crops_of(numbers, self.prepare):
            yield number, html_report.image_address(thumbnail(crops, THUMBNAIL_SIDE))

    def _row(self, image: EvaluatedImage, thumbnails: dict[int, str]) -> list[Any]:
        """Number, name, loss, thumbnail, and (class, score, bits) of true or predicted classes."""
        labels = [
            (
                label.index,
                round(label.score, 4),
                _POSITIVE * label.positive
                | _PREDICTED * label.predicted
                | _SUSPECT * self.is_suspect(label),
            )
            for label in image.labels
            if label.positive or label.predicted
        ]
        return [image.number, image.name, round(image.loss, 4), thumbnails[image.number], labels]

    def _classes(self, mistakes: np.ndarray) -> dict[str, Any]:
        """The columns of the class table, and the classes' curves and confusions."""
        evaluation = self.evaluation
        thresholds = evaluation.classes.get("threshold")
        curves = []
        if evaluation.curve:
            curves = [_thinned(*evaluation.curve(c)) for c in range(len(self.names))]
        confusions: dict[int, list[tuple[int, int]]] = {}
        for missed, wrong, count in evaluation.confusions.tolist():
            if len(found := confusions.setdefault(missed, [])) < LISTED_CONFUSIONS:
                found.append((wrong, count))
        return {
            "names": list(self.names),
            "positives": evaluation.positives,
            "quality": np.round(evaluation.quality, 4),
            "quality_name": "AP" if evaluation.curve else "accuracy",
            "thresholds": [] if thresholds is None else np.round(thresholds.astype(float), 4),
            **dict(zip(KINDS, mistakes, strict=True)),
            "curves": curves,
            "confusions": confusions,
        }


class MistakeChooser:
    """Chooses images with mistakes so that the worst of every class are among them.

    Args:
      limit: maximum number of images to choose.
      is_suspect: whether a mistake is a likely label error.

    Attributes:
      images, images_with_mistake: how many were added.
      counts: int64 [3, C], mistakes by KINDS and class; likely label errors are counted as missed
        or wrong, too.
    """

    def __init__(
        self, class_num: int, limit: int, is_suspect: Callable[[ScoredLabel], bool]
    ) -> None:
        self._limit, self._is_suspect = limit, is_suspect
        self._keep = max(LEAST_KEPT, min(limit, REMEMBERED // (2 * class_num)))
        self._worst: dict[tuple[int, bool], list[tuple[float, int]]] = {}
        self.images = self.images_with_mistake = 0
        self.counts = np.zeros((len(KINDS), class_num), np.int64)

    def add(self, image: EvaluatedImage) -> None:
        """Adds the next image."""
        mistakes = [label for label in image.labels if label.missed or label.wrong]
        self.images += 1
        self.images_with_mistake += bool(mistakes)
        for label in mistakes:
            self.counts[int(label.wrong), label.index] += 1
            self.counts[2, label.index] += self._is_suspect(label)
            kept = self._worst.setdefault((label.index, label.wrong), [])
            wrongness = label.score if label.wrong else 1 - label.score
            put = heapq.heappush if len(kept) < self._keep else heapq.heappushpop
            put(kept, (wrongness, -image.number))  # ties: the first image

    def chosen(self) -> set[int]:
        """The numbers of the chosen images."""
        ranked = [sorted(kept, reverse=True) for kept in self._worst.values()]
        found: set[int] = set()
        for place in range(max(map(len, ranked), default=0)):
            for _, number in sorted((r[place] for r in ranked if len(r) > place), reverse=True):
                if len(found) >= self._limit:
                    return found
                found.add(-number)
        return found


def _thinned(recall: np.ndarray, precision: np.ndarray) -> list[list[float]]:
    """Some points of a curve, the first with recall 0: [recalls, precisions]."""
    if not len(recall):
        return [[], []]
    chosen = np.unique(np.linspace(0, len(recall) - 1, CURVE_POINTS).round().astype(int))
    recall = np.append(0.0, recall[chosen])
    precision = np.append(precision[0], precision[chosen])
    return [recall.round(3).tolist(), precision.round(3).tolist()]
