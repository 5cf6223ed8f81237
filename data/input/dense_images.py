"""Decodes, resizes, crops and flips images with their boxes and masks; nothing is random here.

Images are resized bilinearly (half-pixel centers, no antialiasing), masks to the nearest pixel with
the same centers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from data.common.images import ImageError, class_indices, decoded
from data.dense.annotation import IGNORED
from data.input.image_batches import pixels_of
from data.input.loader import aligned, to_tensor
from data.input.preprocess import CHANNELS
from data.tfrecords.records import RecordError

SIDE_MULTIPLE = 32  # sides are padded to a multiple, so that a compiled step sees few shapes
_CPU = "CPU:0"


class DetectionInputs(NamedTuple):
    """A detector's input for one image; the fields are those of `dense.DetectionImage`."""

    image: tf.Tensor
    sizes: tf.Tensor
    scale: np.ndarray
    size: tuple[int, int]


def detection_image(contents: bytes, min_side: int, max_side: int) -> DetectionInputs:
    """A detector's input for an encoded image.

    Raises:
        ImageError: not a complete image, or over the limits.
    """
    pixels = decode(contents)
    return DetectionInputs(*detector_input(pixels, min_side, max_side), pixels.shape[:2])


def detector_input(
    pixels: np.ndarray, min_side: int, max_side: int
) -> tuple[tf.Tensor, tf.Tensor, np.ndarray]:
    """Image, sizes and scale, as in `DetectionInputs`, for an image uint8 [H, W, 3]."""
    image, scale = resized(pixels, min_side, max_side)
    return *padded([image]), scale


def segmenter_input(pixels: np.ndarray) -> tf.Tensor:
    """A segmentation network's input, float32 [1, H, W, 3] in [-1, 1], for uint8 [H, W, 3]."""
    image = aligned((1, *pixels.shape))
    _write_scaled(pixels, image[0])
    return to_tensor(image)


def segmentation_image(contents: bytes) -> tuple[tf.Tensor, tuple[int, int]]:
    """An encoded image, float32 [1, H, W, 3] in [-1, 1], and its height and width.

    Raises:
        ImageError: not a complete image, or over the limits.
    """
    pixels = decode(contents)
    return segmenter_input(pixels), pixels.shape[:2]


def decode(contents: bytes) -> np.ndarray:
    """The pixels, uint8 [H, W, 3], of an encoded image, turned upright.

    Raises:
        ImageError: not a complete image, or over the limits.
    """
    with decoded(contents) as image:
        return pixels_of(image)


def mask_classes(contents: bytes, class_num: int, size: tuple[int, int]) -> np.ndarray:
    """Decodes the mask of an image of that size: uint8 [H, W], classes below `class_num` or 255.

    Raises:
        RecordError: it cannot be decoded, or has a wrong size or class.
    """
    try:
        mask = class_indices(contents)
    except ImageError as error:
        raise RecordError(f"the mask cannot be decoded: {error}") from error
    if mask.shape != size:
        of_mask, of_image = (f"{shape[1]} x {shape[0]}" for shape in (mask.shape, size))
        raise RecordError(f"the mask has {of_mask} pixels, the image {of_image}")
    unknown = mask[(mask >= class_num) & (mask != IGNORED)]
    if unknown.size:
        raise RecordError(f"the mask has class {unknown[0]}, out of range [0, {class_num})")
    return mask


def resized(pixels: np.ndarray, min_side: int, max_side: int) -> tuple[np.ndarray, np.ndarray]:
    """Resizes an image, uint8 [h, w, 3], to short side `min_side`, but long side <= `max_side`.

    Returns:
        float32 [H, W, 3] in [0, 255], and the factors, float32 [4], that scale its boxes.
    """
    height, width = pixels.shape[:2]
    factor = min(min_side / min(height, width), max_side / max(height, width))
    size = _scaled_side(height, factor), _scaled_side(width, factor)
    scale = np.array([size[0] / height, size[1] / width] * 2, np.float32)
    with tf.device(_CPU):
        image = tf.raw_ops.ResizeBilinear(
            images=pixels[np.newaxis], size=size, half_pixel_centers=True
        )
    return image.numpy()[0], scale


def flipped(boxes: np.ndarray, width: int) -> np.ndarray:
    """Flips boxes [N, 4], in pixels, of an image of this width left-right."""
    y1, x1, y2, x2 = boxes.T
    return np.stack([y1, width - x2, y2, width - x1], 1)


def padded(images: Sequence[np.ndarray]) -> tuple[tf.Tensor, tf.Tensor]:
    """Pads images of different sizes, in [0, 255], into one batch; see `dense.DetectionBatch`.

    Returns:
        float32 [B, H, W, 3] in [-1, 1], and int32 [B, 2], height and width of each.
    """
    sizes = np.array([image.shape[:2] for image in images], np.int32)
    height, width = (rounded_up(side, SIDE_MULTIPLE) for side in sizes.max(0).tolist())
    batch = aligned((len(images), height, width, CHANNELS))
    for place, image in zip(batch, images, strict=True):
        below, right = image.shape[:2]
        place[below:], place[:, right:] = 0, 0
        _write_scaled(image, place[:below, :right])
    return to_tensor(batch), tf.constant(sizes)


def cropped(
    pixels: np.ndarray, mask: np.ndarray, factor: float, size: int, place: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A crop of an image and its mask, both resized by a factor; only the crop is computed.

    Args:
        pixels: uint8 [h, w, 3].
        mask: uint8 [h, w].
        size: side of the crop in pixels.
        place: the vertical and horizontal position of the crop, in [0, 1). A resized image smaller
            than the crop is at the top left; the rest is gray, and ignored in the mask.

    Returns:
        float32 [size, size, 3] in [-1, 1] and uint8 [size, size].
    """
    whole = np.array([_scaled_side(side, factor) for side in mask.shape])
    first = (np.array(place) * (np.maximum(whole - size, 0) + 1)).astype(int)
    below, right = np.minimum(whole - first, size).tolist()
    image = np.zeros((size, size, CHANNELS), np.float32)
    with tf.device(_CPU):
        part = tf.raw_ops.ScaleAndTranslate(
            images=pixels[np.newaxis],
            size=[below, right],
            scale=(whole / mask.shape).astype(np.float32),
            translation=-first.astype(np.float32),
            kernel_type="triangle",
            antialias=False,
        )
    _write_scaled(part.numpy()[0], image[:below, :right])
    indices = np.full((size, size), IGNORED, np.uint8)
    # The pixel that holds the center of pixel i is floor((i + 1/2) * h / H), in integers.
    rows, columns = (
        (2 * np.arange(start, start + count) + 1) * side // (2 * resized_side)
        for start, count, side, resized_side in zip(
            first, (below, right), mask.shape, whole, strict=True
        )
    )
    indices[:below, :right] = mask[rows[:, np.newaxis], columns]
    return image, indices


def rounded_up(number: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is not below `number`."""
    return -(-number // multiple) * multiple


def _scaled_side(side: int, factor: float) -> int:
    return max(1, round(side * factor))


def _write_scaled(pixels: np.ndarray, out: np.ndarray) -> None:
    """Writes pixels in [0, 255] to `out`, scaled to [-1, 1]."""
    np.multiply(pixels, np.float32(2 / 255), out=out, dtype=np.float32)
    out -= 1
