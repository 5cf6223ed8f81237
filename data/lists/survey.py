"""Data for the class browser: images per class, a sample of them, co-occurring labels."""

from __future__ import annotations

import numpy as np

from data.lists.annotation import Expansion, expand
from data.lists.blocks import Labels
from data.lists.cooccurrence import Counts, pair_keys
from data.lists.hierarchy import Hierarchy

_PAIRS_AT_ONCE = 1 << 22


class Survey:
    """Counts rows of labels in one pass; only labels with a confidence above 0 count.

    Memory: the samples of each class, and 16 bytes for each pair of labels that occurs.

    Args:
        hierarchy: the hierarchy of the C classes.
        samples: number of rows sampled per class, from those with the class or one below it.
        pair_fraction: fraction of the rows, sampled at random, whose pairs of labels are counted.
        seed: random seed.

    Attributes:
        rows: number of rows so far.
        labels: number of their labels.
        own: int64 [C], number of rows with a label of the class.
        total: int64 [C], number of rows with a label of the class or of one below it.
    """

    def __init__(self, hierarchy: Hierarchy, samples: int, pair_fraction: float, seed: int) -> None:
        self.rows = self.labels = 0
        self.own = np.zeros(len(hierarchy), np.int64)
        self.total = np.zeros(len(hierarchy), np.int64)
        self._hierarchy, self._samples, self._pair_fraction = hierarchy, samples, pair_fraction
        self._expansion = Expansion.of(hierarchy, ancestors=True)
        self._rng = np.random.default_rng(seed)
        # The sample of a class is its rows with the smallest random numbers ("keys").
        self._classes = np.zeros(0, np.int32)
        self._keys, self._rows = np.zeros(0), np.zeros(0, np.int64)
        self._largest = np.ones(len(hierarchy))
        self._pairs, self._waiting = Counts(), [np.zeros(0, np.int64)]

    def add(self, labels: Labels) -> np.ndarray:
        """Counts the labels of the next R rows.

        Returns:
            int64, sorted: which of these rows (0 to R - 1) are now in the sample of a class; later
            rows may replace them.
        """
        labels = labels.where(labels.confidences > 0)
        count, class_num = len(labels.offsets) - 1, len(self.own)
        keys = self._rng.random(count)
        self.own += np.bincount(labels.classes, minlength=class_num)
        self.labels += len(labels.classes)
        self._count_pairs(labels.of_rows(keys < self._pair_fraction))
        labels = expand(labels, self._expansion)
        self.total += np.bincount(labels.classes, minlength=class_num)
        self._draw(labels.classes, keys[labels.rows], labels.rows + self.rows)
        drawn = np.unique(self._rows[self._rows >= self.rows]) - self.rows
        self.rows += count
        return drawn

    def _draw(self, classes: np.ndarray, keys: np.ndarray, rows: np.ndarray) -> None:
        possible = keys < self._largest[classes]
        pairs = ((self._classes, classes), (self._keys, keys), (self._rows, rows))
        classes, keys, rows = (np.concatenate([old, new[possible]]) for old, new in pairs)
        order = np.lexsort((keys, classes))
        chosen = order[_places(classes[order]) < self._samples]
        self._classes, self._keys, self._rows = classes[chosen], keys[chosen], rows[chosen]
        full = _places(self._classes) == self._samples - 1
        self._largest[self._classes[full]] = self._keys[full]

    def _count_pairs(self, labels: Labels) -> None:
        keys = pair_keys(labels, labels.rows, labels.classes.astype(np.int64), len(self.own))
        self._waiting.append(keys)
        if sum(map(len, self._waiting)) > _PAIRS_AT_ONCE:
            self._settle()

    def _settle(self) -> None:
        self._pairs.add(np.concatenate(self._waiting))
        self._waiting = [np.zeros(0, np.int64)]

    def drawn(self) -> list[list[int]]:
        """The sample of each class: rows, in random order."""
        ends = np.searchsorted(self._classes, np.arange(1, len(self.own)))
        return [part.tolist() for part in np.split(self._rows, ends)]

    def co_occurring(self, most: int) -> list[list[tuple[int, float]]]:
        """For each class, the `most` labels most frequent on its images, with their fractions.

        Its ancestors and descendants are left out, because they add no information.
        """
        self._settle()
        class_num = len(self.own)
        classes, others = np.divmod(self._pairs.keys, class_num)
        counts = self._pairs.counts
        images = np.zeros(class_num, np.int64)
        itself = classes == others
        images[classes[itself]] = counts[itself]
        offsets, members = self._hierarchy.closure
        below = np.repeat(np.arange(class_num), np.diff(offsets))
        on_path = np.concatenate([below * class_num + members, members * class_num + below])
        apart = ~np.isin(self._pairs.keys, on_path)
        classes, others, counts = classes[apart], others[apart], counts[apart]
        order = np.lexsort((others, -counts, classes))
        order = order[_places(classes[order]) < most]
        found: list[list[tuple[int, float]]] = [[] for _ in range(class_num)]
        rows = (classes[order], others[order], counts[order] / images[classes[order]])
        for c, other, fraction in zip(*(column.tolist() for column in rows), strict=True):
            found[c].append((other, fraction))
        return found


def _places(ordered: np.ndarray) -> np.ndarray:
    """int64: the number of equal values before each value of a sorted array."""
    first = np.searchsorted(ordered, ordered, side="left")
    return np.arange(len(ordered)) - first
