"""Expands labels: adds ancestors in the hierarchy and co-occurring labels.

The annotation rules of the paper (spec section 1), on arrays of rows at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from data.lists.blocks import Labels
from data.lists.hierarchy import Hierarchy


class Implication(NamedTuple):
    """What each class of 0..C-1 implies: class c the `members` `offsets[c]` to `offsets[c + 1]`.

    `offsets` int64 [C + 1], `members` int32: c itself comes first. `by_pair` bool: the member was
    found to go together with c and is no ancestor of it.
    """

    offsets: np.ndarray
    members: np.ndarray
    by_pair: np.ndarray

    @classmethod
    def of(
        cls, hierarchy: Hierarchy, ancestors: bool, pairs: Iterable[tuple[int, int]] = ()
    ) -> Implication:
        """The implications of ancestors and of pairs (class, tag that goes together with it).

        With `ancestors`, a class also has the pairs of its ancestors, because its images are
        images of them, and the ancestors of what it is paired with. Pairs of what a pair added
        are not followed: the paper counts and adds once.
        """
        partners: dict[int, list[int]] = {}
        for c, tag in pairs:
            partners.setdefault(c, []).append(tag)

        def upwards(c: int) -> list[int]:
            return [c, *hierarchy.ancestors(c)] if ancestors else [c]

        sizes, members, by_pair = [], [], []
        for c in range(len(hierarchy)):
            own = upwards(c)
            added = [up for a in own for tag in partners.get(a, []) for up in upwards(tag)]
            implied = dict.fromkeys(own + added)
            sizes.append(len(implied))
            members.extend(implied)
            by_pair.extend([False] * len(own) + [True] * (len(implied) - len(own)))
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        return cls(offsets, np.array(members, np.int32), np.array(by_pair, bool))


def imply(tags: Labels, implication: Implication) -> Labels:
    """The tags with all that they imply, each class once, the highest class index first.

    An implied tag has the highest confidence among its own and those of the tags that imply it
    (spec section 1). Ours, where the paper is silent: confidence 0 implies nothing; -1 (unknown)
    makes an ancestor that has no tag unknown too, so that it is masked rather than learnt as
    absent, and implies nothing by a pair. Falling indices show the most specific class first, as
    the released lists do.

    Args:
        tags: with classes in 0..C-1.
    """
    levels = np.unique(tags.confidences)
    first = implication.offsets[tags.classes]
    sizes = implication.offsets[tags.classes + 1] - first
    owner = np.repeat(np.arange(len(first)), sizes)
    step = np.arange(len(owner)) - (np.cumsum(sizes) - sizes)[owner]
    entry = first[owner] + step
    value = tags.confidences[owner]
    holds = (step == 0) | (value > 0) | ((value < 0) & ~implication.by_pair[entry])
    owner, entry = owner[holds], entry[holds]
    # Sorted keys (row, class, confidence) end each group of a row and class with its maximum.
    level_bits = len(levels).bit_length()
    class_bits = len(implication.offsets).bit_length()
    last_class = (1 << class_bits) - 1
    key = tags.rows[owner] << class_bits
    key |= last_class - implication.members[entry]
    key <<= level_bits
    key |= np.searchsorted(levels, tags.confidences)[owner]
    key.sort()
    group = key >> level_bits
    highest = np.append(group[1:] != group[:-1], True)[: len(group)]
    group, level = group[highest], key[highest] & ((1 << level_bits) - 1)
    counts = np.bincount(group >> class_bits, minlength=len(tags.offsets) - 1)
    classes = (last_class - (group & last_class)).astype(np.int32)
    return Labels(np.concatenate([[0], np.cumsum(counts)]), classes, levels[level])


def remap(tags: Labels, mapping: np.ndarray) -> Labels:
    """The tags with class c become `mapping[c]`; those mapped to -1, or not at all, are dropped."""
    known = tags.classes < len(mapping)
    classes = np.where(known, mapping[np.where(known, tags.classes, 0)], -1).astype(np.int32)
    return tags._replace(classes=classes).where(classes >= 0)
