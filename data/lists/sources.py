"""The data set that an image comes from, inferred from its name (spec section 1)."""

from __future__ import annotations

import re

import numpy as np

from data.lists.blocks import Block

SOURCES = ("ImageNet", "Open Images", "other")

_SOURCE = re.compile(
    rb"(?:.*/)?(?:n[0-9]{8}[_/]|ILSVRC20)"  # synsets, and ILSVRC's validation images
    rb"|(https?://[^/]*(?:flickr|openimages)"  # group 1: the lists of URLs,
    rb"|(?:.*/)?[0-9]{5,}_[0-9a-f]{8,10}(?:_[a-z])?\.jpg$"  # files called as at Flickr,
    rb"|(?:.*/)?[0-9a-f]{16}(?:\.jpg)?$)"  # and image ids
)


def sources(block: Block) -> np.ndarray:
    """int8 [R]: the index in SOURCES of each row's image."""
    text = block.data.tobytes()
    found = np.empty(len(block), np.int8)
    match = _SOURCE.match
    spans = zip(block.starts.tolist(), block.name_ends.tolist(), strict=True)
    for row, (start, end) in enumerate(spans):
        name = match(text, start, end)
        found[row] = 2 if name is None else name.lastindex is not None
    return found
