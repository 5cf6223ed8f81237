"""Distinct JPEGs cut out of real photographs, those of scikit-image."""

import io

import numpy as np
from PIL import Image


def jpegs(count: int, size: tuple[int, int] = (500, 375), quality: int = 90) -> list[bytes]:
    """`count` images, each another part of a photograph; the same ones in every call.

    Args:
      size: width and height in pixels; the default is ImageNet's usual one.
    """
    from skimage import data  # of the extra `demo`

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
