"""Turns scores into labels: top k, thresholds, class names, hierarchy."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.common.errors import UserError
from data.lists.hierarchy import Hierarchy

PATH_SEPARATOR = " > "


class Label(NamedTuple):
    """A predicted class: its index, its name (or path of names from the root), its probability."""

    index: int
    name: str
    probability: float


class Prediction(NamedTuple):
    """The labels of one image, best first; `problem` is why it was unreadable, else ""."""

    image: str
    label: str
    labels: tuple[Label, ...]
    problem: str = ""


@dataclass(frozen=True, eq=False)
class LabelSelector:
    """Chooses which labels of an image to show, and names them.

    Attributes:
      names: names of the C classes.
      top_k: maximum number of labels per image.
      thresholds: float32 [C], minimum probability at which each class is shown.
      show: "all"; "specific": no ancestors of other labels that are shown; "path": all, named by
        their path from the root.
      hierarchy: required unless `show` is "all".

    Raises:
      UserError: `show` needs a hierarchy or a threshold that is not given.
    """

    names: Sequence[str]
    top_k: int
    thresholds: np.ndarray
    show: str = "all"
    hierarchy: Hierarchy | None = None

    def __post_init__(self) -> None:
        if self.show != "all" and self.hierarchy is None:
            raise UserError(
                f"--show_labels={self.show} needs a class hierarchy: give --dictionary, "
                "e.g. dictionary_and_semantic_hierarchy.txt"
            )
        if self.show == "specific" and not self.thresholds.any():
            raise UserError("--show_labels=specific needs --threshold or --threshold_file")

    def choose(self, probabilities: np.ndarray) -> tuple[Label, ...]:
        """The labels of one image, best first; ties are sorted by index.

        Args:
          probabilities: float [C].
        """
        classes = np.flatnonzero(probabilities >= self.thresholds)
        if self.show == "specific":
            classes = self._without_ancestors(classes)
        if len(classes) > self.top_k:  # a partial sort first; ties with the last one are kept
            least = np.partition(probabilities[classes], -self.top_k)[-self.top_k]
            classes = classes[probabilities[classes] >= least]
        order = np.argsort(-probabilities[classes], kind="stable")[: self.top_k]
        best = classes[order].tolist()
        return tuple(Label(c, self._name(c), float(probabilities[c])) for c in best)

    def _without_ancestors(self, classes: np.ndarray) -> np.ndarray:
        above = {ancestor for c in classes for ancestor in self.hierarchy.ancestors(c)}
        return np.array([c for c in classes if c not in above], np.int64)

    def _name(self, index: int) -> str:
        if self.show != "path":
            return self.names[index]
        chain = [index, *self.hierarchy.ancestors(index)]
        return PATH_SEPARATOR.join(self.names[c] for c in reversed(chain))
