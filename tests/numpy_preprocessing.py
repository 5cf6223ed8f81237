"""The inference preprocessing of spec section 5 in plain NumPy, float64: what tests compare with.

Written from the specification alone: it shares no code with data/.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


def crops(path: str | Path, image_size: int = 224, ten: bool = False) -> np.ndarray:
    """[K, S, S, 3] in [-1, 1] of an image file."""
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), np.float64)
    height, width = pixels.shape[:2]
    short = image_size * 256 // 224
    scale = short / min(height, width)
    new_height = short if height <= width else int(height * short / width)
    new_width = short if width <= height else int(width * short / height)
    assert abs(new_height - height * scale) < 1
    pixels = bilinear(bilinear(pixels, new_height, axis=0), new_width, axis=1) / 127.5 - 1
    bottom, right = new_height - image_size, new_width - image_size
    corners = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    parts = [
        pixels[y : y + image_size, x : x + image_size] for y, x in (corners if ten else corners[4:])
    ]
    return np.stack(parts + [part[:, ::-1] for part in parts] if ten else parts)


def bilinear(x: np.ndarray, size: int, axis: int) -> np.ndarray:
    """`x` resized along an axis: two neighbors of each half-pixel center, no antialiasing."""
    at = (np.arange(size) + 0.5) * x.shape[axis] / size - 0.5
    lower = np.floor(at).astype(int)
    weight = (at - lower).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    last = x.shape[axis] - 1
    first, second = (np.take(x, np.clip(i, 0, last), axis) for i in (lower, lower + 1))
    return first * (1 - weight) + second * weight
