"""Mask annotations: one PNG per image, palette or gray, whose pixel values are classes.

images/street 1.jpg     masks/street 1.png
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from data.common.errors import UserError
from data.common.images import MAX_BYTES
from data.dense.annotation import (
    Annotation,
    Problem,
    checked_mask,
    image_of,
    images_by_stem,
    read_annotation,
)


@dataclass(frozen=True)
class MaskImage:
    """An image with a mask; see `annotation.AnnotatedImage`. Its classes are below `class_num`."""

    name: str
    image: str
    problem: Problem
    where: str
    class_num: int

    def made_from(self) -> bytes:
        """See `AnnotatedImage`."""
        return os.fsencode(os.path.basename(self.where))

    def annotation(self, size: tuple[int, int]) -> Annotation:
        """See `AnnotatedImage`."""
        mask = read_annotation(self.name, self.where, MAX_BYTES)
        return checked_mask(self.name, mask, size, self.class_num)


def mask_images(masks: str, images: str, class_num: int) -> list[MaskImage]:
    """The masks in a folder, sorted, with the images of the same names in another folder.

    Raises:
        UserError: a folder is missing, or there are no masks.
    """
    if not os.path.isdir(masks):
        raise UserError(f"{masks}: no such folder of masks")
    paths = sorted(path for path in Path(masks).iterdir() if path.suffix.lower() == ".png")
    paths = [path for path in paths if not path.name.startswith(".")]
    if not paths:
        raise UserError(f"{masks}: no PNG files in it")
    by_stem = images_by_stem(images)
    return [MaskImage(*image_of(path.stem, by_stem), str(path), class_num) for path in paths]
