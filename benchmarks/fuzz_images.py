"""Damaged images of every format through the whole input of the inference scripts.

    python benchmarks/fuzz_images.py --images=2000

prints how many still show an image, the longest time that one took and the peak memory. It fails
on an exception, on an image that takes longer than a minute, and above 2 GiB.
"""

import argparse
import io
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image
from skimage import data as photographs

from data.common.images import ImageError
from data.input.image_batches import Preparation

LONGEST_SECONDS = 60.0
MOST_BYTES = 2 << 30
IMAGE_SIZE = 64


def whole_images() -> list[bytes]:
    """Small images of every kind that is read."""
    cat = Image.fromarray(photographs.chelsea()).resize((160, 120))
    deep = Image.fromarray(np.asarray(cat.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [cat.rotate(90)]}
    kinds = [
        (cat, "JPEG", {"exif": turned}),
        (cat, "JPEG", {"progressive": True}),
        (cat.convert("CMYK"), "JPEG", {}),
        (cat.convert("L"), "JPEG", {}),
        (cat, "PNG", {}),
        (cat.convert("P"), "PNG", {"transparency": 3}),
        (cat.convert("LA"), "PNG", {}),
        (deep, "PNG", {}),
        (cat.convert("P"), "GIF", frames),
        (cat, "WEBP", frames),
        (cat, "BMP", {}),
        (cat, "TIFF", {"compression": "tiff_lzw"}),
        (cat.convert("CMYK"), "TIFF", {}),
        (deep, "TIFF", {}),
        (cat, "PPM", {}),
        (cat, "JPEG2000", {}),
    ]
    encoded = []
    for image, kind, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        encoded.append(buffer.getvalue())
    return encoded


def damaged_images(count: int, seed: int) -> Iterator[bytes]:
    """`count` images, each damaged in one to four ways; the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    originals = whole_images()
    for number in range(count):
        data = bytearray(originals[number % len(originals)])
        for _ in range(rng.integers(1, 5)):
            data = _damaged(data, originals, rng) or data
        yield bytes(data)


def _damaged(data: bytearray, originals: list[bytes], rng: np.random.Generator) -> bytearray:
    # Headers are short and decide most, so half of the damage is done to the first 64 bytes.
    reach = len(data) if rng.random() < 0.5 else min(64, len(data))
    at, length = int(rng.integers(reach)), int(rng.integers(1, 9))
    way = rng.integers(7)
    if way == 0:
        data[at] ^= 1 << int(rng.integers(8))
    elif way == 1:
        data[at : at + length] = rng.bytes(length)
    elif way == 2:
        data[at : at + 4] = [b"\xff" * 4, bytes(4), b"\x7f\xff\xff\xff"][rng.integers(3)]
    elif way == 3:
        del data[int(rng.integers(1, len(data) + 1)) :]
    elif way == 4:
        del data[at : at + length]
    elif way == 5:
        data[at:at] = data[: int(rng.integers(1, 200))]
    else:
        other = originals[rng.integers(len(originals))]
        data[at:] = other[at:]
    return data


def run(count: int, seed: int) -> tuple[int, float]:
    """(images that still show something, longest seconds of one); fails on what must not be."""
    prepare = Preparation(IMAGE_SIZE)
    shown, longest = 0, 0.0
    for data in damaged_images(count, seed):
        started = time.monotonic()
        try:
            crops = prepare(data)
        except ImageError as error:
            assert str(error), "an unreadable image without a reason"
            assert "\n" not in str(error)
        else:
            shown += 1
            assert crops.shape == (1, IMAGE_SIZE, IMAGE_SIZE, 3)
            assert np.isfinite(crops).all()
        longest = max(longest, time.monotonic() - started)
    assert longest < LONGEST_SECONDS, f"one image took {longest:.0f} s"
    return shown, longest


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=2000, help="how many (default 2000)")
    parser.add_argument("--seed", type=int, default=1, help="of the damage (default 1)")
    options = parser.parse_args(argv)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    shown, longest = run(options.images, options.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{options.images} damaged images: {shown} still show something, the rest refused")
    print(f"longest {longest:.2f} s; peak memory {peak >> 10} MiB, {before >> 10} at the start")
    return 0 if peak << 10 < MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
