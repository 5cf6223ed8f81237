"""Distinct JPEGs cropped from scikit-image's photographs."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

LABELS_PER_IMAGE = 9  # ML-Images has 8.72


def jpegs(count: int, size: tuple[int, int] = (500, 375), quality: int = 90) -> list[bytes]:
    """`count` images, each a different crop of a photograph; the same in every call.

    Args:
      size: width and height in pixels; the default is typical of ImageNet.
    """
    from skimage import data  # from the extra `demo`

    sources = [data.astronaut(), data.coffee(), data.rocket(), data.chelsea()]
    width, height = size
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        wide = min(source.width, source.height * width / height) * rng.uniform(0.5, 1)
        high = wide * height / width
        left, top = rng.uniform(0, source.width - wide), rng.uniform(0, source.height - high)
        box = left, top, left + wide, top + high
        part = source.resize(size, Image.Resampling.BICUBIC, box)
        data_file = io.BytesIO()
        part.save(data_file, "JPEG", quality=quality)
        encoded.append(data_file.getvalue())
    return encoded


def write(folder: Path, images: Sequence[bytes], classes: int) -> Path:
    """Writes images to `folder` as 0.jpg and so on; returns a list file with nine labels each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    rows = []
    for number, image in enumerate(images):
        (folder / f"{number}.jpg").write_bytes(image)
        labels = rng.choice(classes, LABELS_PER_IMAGE, replace=False)
        rows.append(f"{number}.jpg" + "".join(f"\t{label}:1" for label in labels) + "\n")
    path = folder.with_suffix(".txt")
    path.write_text("".join(rows))
    return path
