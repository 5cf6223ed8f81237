"""Training targets of an image's anchors and regions, and the random choice of those to train on.

All draws are functions of a seed and the image's number in training, so they do not depend on how
images are spread over batches and workers, and a resumed run draws the same.
"""

from __future__ import annotations

from typing import NamedTuple

import tensorflow as tf

from models.detection import anchors as anchor_boxes
from models.detection import boxes
from models.detection.anchors import Proposals
from models.detection.boxes import REGION_WEIGHTS
from models.detection.options import DetectionOptions

# Added to the seed, so that the draws of anchors and of regions differ.
ANCHOR_DRAW, REGION_DRAW = 0, 1


class Objects(NamedTuple):
    """The objects of an image: boxes [N, 4], classes int32 [N] from 0, -1 for padding; N >= 1."""

    boxes: tf.Tensor
    classes: tf.Tensor

    @classmethod
    def padded(cls, corners: tf.Tensor, classes: tf.Tensor) -> Objects:
        """Adds one entry of padding, so that there is always one to compare with."""
        classes = tf.pad(classes, [[0, 1]], constant_values=-1)
        return cls(tf.pad(corners, [[0, 1], [0, 0]]), classes)

    def overlaps(self, others: tf.Tensor) -> tf.Tensor:
        """IoU [A, N] of boxes [A, 4] with the objects; -1 for padding and objects without area."""
        real = (self.classes >= 0) & (boxes.areas(self.boxes) > 0)
        return tf.where(real[None], boxes.iou(others, self.boxes), -1.0)


class Sample(NamedTuple):
    """A draw: indices int32 [S], and which of them are positive and which count, bool [S] each."""

    indices: tf.Tensor
    positive: tf.Tensor
    used: tf.Tensor


class AnchorTargets(NamedTuple):
    """Targets of S drawn anchors of an image.

    indices: int32 [S], which anchors. objectness: float32 [S], 1 for an object, else 0.
    used: float32 [S], 0 for fillers. offsets: [S, 4], 0 where there is no object.
    """

    indices: tf.Tensor
    objectness: tf.Tensor
    used: tf.Tensor
    offsets: tf.Tensor


class RegionTargets(NamedTuple):
    """Targets of R drawn regions of an image; [B, R, ...] for several.

    boxes: [R, 4]. classes: int32 [R], 0 for background, else an object's class plus 1.
    used: float32 [R], 0 for fillers. offsets: [R, 4], weighted, 0 for background.
    """

    boxes: tf.Tensor
    classes: tf.Tensor
    used: tf.Tensor
    offsets: tf.Tensor


def draw_seed(seed: int, purpose: int, sample_index: tf.Tensor) -> tf.Tensor:
    """The random key, int64 [2], of an image's draw."""
    return tf.stack([tf.constant(seed + purpose, tf.int64), tf.cast(sample_index, tf.int64)])


def draw(
    positive: tf.Tensor, negative: tf.Tensor, count: int, most_positive: int, key: tf.Tensor
) -> Sample:
    """Draws up to `most_positive` positives, then negatives until there are `count`.

    Args:
      positive, negative: bool [A] each, disjoint.
      key: int64 [2].

    Returns:
      S = min(count, A) entries; the last ones are not used if there are too few negatives.
    """
    uniform = tf.random.stateless_uniform([tf.size(positive)], key, alg="philox")
    limit = tf.minimum(most_positive, tf.size(positive))
    _, first = tf.math.top_k(tf.where(positive, uniform, -1.0), limit)
    kept = tf.scatter_nd(first[:, None], tf.ones_like(first), [tf.size(positive)]) > 0
    rank = tf.where(positive & kept, uniform + 1, tf.where(negative, uniform, -1.0))
    ranks, indices = tf.math.top_k(rank, tf.minimum(count, tf.size(rank)))
    return Sample(indices, tf.gather(positive, indices) & (ranks >= 0), ranks >= 0)


def label_anchors(
    anchors: tf.Tensor, objects: Objects, size: tf.Tensor, options: DetectionOptions
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Labels anchors [A, 4] as positive or negative, and finds the nearest object of each.

    An anchor is positive if its IoU is at least `rpn_positive_iou` or the best of any anchor with
    an object (in a tie, all are); others are negative below `rpn_negative_iou`. Anchors that cross
    the border of the image are neither.

    Returns:
      positive bool [A], negative bool [A], nearest int32 [A].
    """
    usable = anchor_boxes.inside(anchors, size)
    overlaps = tf.where(usable[:, None], objects.overlaps(anchors), -1.0)
    best, nearest = tf.reduce_max(overlaps, axis=1), tf.argmax(overlaps, 1, tf.int32)
    best_of_object = tf.reduce_max(overlaps, axis=0, keepdims=True)
    is_best = tf.reduce_any((overlaps == best_of_object) & (overlaps > 0), axis=1)
    positive = (best >= options.rpn_positive_iou) | is_best
    return positive, usable & ~positive & (best < options.rpn_negative_iou), nearest


def anchor_targets(
    anchors: tf.Tensor,
    objects: Objects,
    size: tf.Tensor,
    key: tf.Tensor,
    options: DetectionOptions,
) -> AnchorTargets:
    """Draws `rpn_samples` of the anchors [A, 4] of an image of `size` (height, width)."""
    positive, negative, nearest = label_anchors(anchors, objects, size, options)
    most_positive = int(options.rpn_samples * options.rpn_positive_fraction)
    sample = draw(positive, negative, options.rpn_samples, most_positive, key)
    drawn = tf.gather(anchors, sample.indices)
    truth = tf.gather(objects.boxes, tf.gather(nearest, sample.indices))
    truth = tf.where(sample.positive[:, None], truth, drawn)
    return AnchorTargets(
        sample.indices,
        tf.cast(sample.positive, tf.float32),
        tf.cast(sample.used, tf.float32),
        boxes.encode(truth, drawn),
    )


def region_targets(
    proposals: Proposals, objects: Objects, key: tf.Tensor, options: DetectionOptions
) -> RegionTargets:
    """Draws `regions` from an image's proposals and its objects' own boxes."""
    fill = tf.zeros([options.regions, 4])
    candidates = tf.concat([proposals.boxes, objects.boxes, fill], axis=0)
    real = tf.concat([proposals.valid, objects.classes >= 0], axis=0)
    real = tf.pad(real, [[0, options.regions]]) & (boxes.areas(candidates) > 0)
    overlaps = objects.overlaps(candidates)
    best, nearest = tf.reduce_max(overlaps, axis=1), tf.argmax(overlaps, 1, tf.int32)
    foreground = real & (best >= options.region_foreground_iou)
    # `best` is -1 without objects.
    enough = tf.maximum(best, 0.0) >= options.region_background_min_iou
    most = int(options.regions * options.region_foreground_fraction)
    sample = draw(foreground, real & ~foreground & enough, options.regions, most, key)
    drawn, nearest = (tf.gather(values, sample.indices) for values in (candidates, nearest))
    drawn = tf.ensure_shape(drawn, [options.regions, 4])
    of_object = sample.positive[:, None]
    ones = tf.constant([[0.0, 0.0, 1.0, 1.0]])  # any box with an area, which fillers lack
    truth = tf.where(of_object, tf.gather(objects.boxes, nearest), ones)
    offsets = boxes.encode(truth, tf.where(of_object, drawn, ones), REGION_WEIGHTS)
    return RegionTargets(
        drawn,
        tf.where(sample.positive, tf.gather(objects.classes, nearest) + 1, 0),
        tf.cast(sample.used, tf.float32),
        offsets,
    )
