"""Annotated images as rows of the conversion to records (data/tfrecords/conversion.py)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from data.dense.annotation import AnnotatedImage
from data.dense.records import encode_dense
from data.tfrecords.conversion import BadRow, Converted, ImageOptions, RowError


class DenseShard(NamedTuple):
    """A shard: the images `start` to `stop - 1`."""

    name: str
    start: int
    stop: int


class DenseRows(NamedTuple):
    """Annotated images; see `data.tfrecords.conversion.Rows`.

    Images are stored upright, and annotations refer to the upright image.

    Attributes:
        images: all images, in order.
        class_names: class names by index.
        options: how images are stored; must keep their size and turn them upright.
    """

    images: Sequence[AnnotatedImage]
    class_names: Sequence[str]
    options: ImageOptions

    def shards(self, shard_size: int, start_index: int, suffix: str) -> list[DenseShard]:
        """Divides the images, in order, into shards of `shard_size`, named like those of lists."""
        starts = range(0, len(self.images), shard_size)
        return [
            DenseShard(f"{number:05d}{suffix}", start, min(start + shard_size, len(self.images)))
            for number, start in enumerate(starts, start_index)
        ]

    def source(self, shard: DenseShard) -> str:
        """See `Rows`."""
        made_from = (*self.class_names, self.options.quality, self.options.max_pixels)
        digest = hashlib.sha256(repr(made_from).encode("utf-8", "surrogateescape"))
        for image in self.images[shard.start : shard.stop]:
            digest.update(repr(image.made_from()).encode())
        return digest.hexdigest()[:32]

    def converted(self, shard: DenseShard) -> Iterator[Converted | BadRow]:
        """See `Rows`."""
        for image in self.images[shard.start : shard.stop]:
            try:
                yield self._converted(image)
            except RowError as error:
                yield BadRow(*map(_shown, (image.where, image.name, error.kind, error.reason)))

    def _converted(self, image: AnnotatedImage) -> Converted:
        if image.problem:
            raise RowError(image.name, *image.problem)
        original, jpeg = self.options.read(image.image, image.name)
        annotation = image.annotation((jpeg.height, jpeg.width))
        return Converted(
            encode_dense(image.name, jpeg, annotation),
            positives=annotation.present,
            image_bytes=len(jpeg.data),
            is_kept=jpeg.data is original,
            clipped_boxes=annotation.clipped,
        )


def _shown(text: str) -> str:
    """The text as one field of a tab-separated line."""
    return " ".join(text.encode("utf-8", "replace").decode().split())
