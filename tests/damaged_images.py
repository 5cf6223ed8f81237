"""Small images of every format that is read, damaged in many ways."""

import io
from collections.abc import Iterator

import numpy as np
from PIL import Image
from skimage import data as photographs


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
