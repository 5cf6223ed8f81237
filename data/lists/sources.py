"""The data set that an image comes from, inferred from its name (spec section 1)."""

from __future__ import annotations

import re

import numpy as np

from data.lists.blocks import Block

SOURCES = ("ImageNet", "Open Images", "other")

_SOURCE = re.compile(
    r"(?:.*/)?(?:n[0-9]{8}[_/]|ILSVRC20)"  # synsets, and ILSVRC's validation images
    r"|(https?://[^/]*(?:flickr|openimages)"  # group 1: the lists of URLs,
    r"|(?:.*/)?[0-9]{5,}_[0-9a-f]{8,10}(?:_[a-z])?\.jpg$"  # files called as at Flickr,
    r"|(?:.*/)?[0-9a-f]{16}(?:\.jpg)?$)"  # and image ids
)


def sources(block: Block) -> np.ndarray:
    """int8 [R]: the index in SOURCES of each row's image."""
    matches = map(_SOURCE.match, block.names)
    return np.array([2 if m is None else m.lastindex is not None for m in matches], np.int8)
