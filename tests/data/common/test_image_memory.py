"""Hostile images of every format: what decoding them allocates stays below what is estimated."""

import io
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from data.common.image_memory import Budget, bounded, decode_cost
from data.common.images import ImageError, decode, to_jpeg, whole

SIDE = 2048
PEAK = """
import os, sys
from data.common import images

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) << 10

for name in sys.argv[1:]:
    if os.fork() == 0:
        data = open(name, "rb").read()
        images.decode(open(name + ".small", "rb").read())
        before = peak()
        images.decode(data)
        os.write(1, f"{name} {peak() - before}\\n".encode())
        os._exit(0)
    os.wait()
"""
BOMBS = {
    "jpeg": ("JPEG", "RGB", {}),
    "jpeg_cmyk": ("JPEG", "CMYK", {}),
    "progressive": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "progressive_cmyk": ("JPEG", "CMYK", {"progressive": True}),
    "png_alpha": ("PNG", "RGBA", {}),
    "png_gray_alpha": ("PNG", "LA", {}),
    "png_palette": ("PNG", "P", {"transparency": bytes(256)}),
    "png_16": ("PNG", "I;16", {}),
    "animated_png": ("PNG", "RGBA", {"save_all": True}),
    "gif": ("GIF", "P", {"transparency": 0}),
    "animated_gif": ("GIF", "P", {"save_all": True}),
    "webp": ("WEBP", "RGBA", {"method": 0}),
    "animated_webp": ("WEBP", "RGB", {"method": 0, "save_all": True}),
    "bmp": ("BMP", "RGB", {}),
    "ppm": ("PPM", "RGB", {}),
    "tiff_one_strip": ("TIFF", "CMYK", {"compression": "tiff_lzw", "strip_size": 1 << 30}),
    "tiff_jpeg": ("TIFF", "RGB", {"compression": "jpeg", "strip_size": 1 << 30}),
    "tiff_32": ("TIFF", "I", {}),
    "tiff_pages": ("TIFF", "RGB", {"compression": "tiff_lzw", "save_all": True}),
    "jpeg_2000": ("JPEG2000", "RGBA", {}),
    "avif": ("AVIF", "RGBA", {"speed": 10, "subsampling": "4:4:4"}),
    "animated_avif": ("AVIF", "RGB", {"speed": 10, "save_all": True}),
}


def bomb(name: str, side: int = SIDE) -> bytes:
    """An image of one color, so that few bytes become many."""
    image_format, mode, options = BOMBS[name]
    image, encoded = Image.new(mode, (side, side)), io.BytesIO()
    if options.get("save_all"):
        other = Image.new(mode, (side, side), 1 if mode == "P" else (9,) * len(mode))
        options = {**options, "append_images": [other, image]}
    image.save(encoded, image_format, **options)
    return encoded.getvalue()


@pytest.fixture(scope="module")
def allocated(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """A folder of bombs, and the bytes that decoding each takes, in a process of its own."""
    folder = tmp_path_factory.mktemp("bombs")
    for name in BOMBS:
        (folder / name).write_bytes(bomb(name))
        (folder / f"{name}.small").write_bytes(bomb(name, 16))
    root = Path(__file__).resolve().parents[3]
    command = [sys.executable, "-c", PEAK, *BOMBS]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (line.split() for line in done.stdout.splitlines())
    return folder, {name: int(size) for name, size in lines}


@pytest.mark.slow
@pytest.mark.parametrize("name", BOMBS)
def test_a_decode_allocates_no_more_than_its_header_tells(name: str, allocated) -> None:
    folder, sizes = allocated
    cost = decode_cost(Image.open(folder / name))
    assert sizes[name] < cost + (8 << 20)  # of the interpreter and the allocator
    assert sizes[name] > cost / 4  # honest images are not refused for nothing


@pytest.mark.parametrize("name", ["progressive", "webp", "jpeg_2000"])
def test_what_costs_too_much_is_refused_before_it_is_decoded(name: str) -> None:
    data = bomb(name, 256)
    cost = decode_cost(Image.open(io.BytesIO(data)))
    for work in (decode, whole, to_jpeg):
        work(data, max_image_bytes=cost)
        with pytest.raises(ImageError, match=r"256 x 256 pixels, .* more than") as refusal:
            work(data, max_image_bytes=cost - 1)
        assert refusal.value.kind == "too_large"


def test_a_jpeg_of_several_scans_costs_its_coefficients() -> None:
    """Also where it does not call itself progressive."""
    one = bomb("jpeg", 256)
    scan = one.index(b"\xff\xda")
    several = one[:scan] + b"\xff\xda\0\x08\1\1\0\0\x3f\0" + one[scan + 14 :]
    costs = [decode_cost(Image.open(io.BytesIO(data))) for data in (one, several)]
    assert costs[1] > costs[0]


def test_a_tile_larger_than_its_image_counts() -> None:
    image = Image.open(io.BytesIO(bomb("tiff_jpeg", 16)))
    image.tag_v2[322] = image.tag_v2[323] = 1 << 16  # width and height of a tile
    assert decode_cost(image) > 3 << 32


def test_decodes_of_a_process_share_the_limit() -> None:
    budget, order = Budget(), []
    second_began = threading.Event()

    def second() -> None:
        second_began.set()
        with budget.reserved(60, 100):
            order.append("second")

    with budget.reserved(60, 100):
        with budget.reserved(40, 100):
            thread = threading.Thread(target=second)
            thread.start()
            second_began.wait()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_an_allocation_beyond_the_bound_fails_and_work_goes_on(monkeypatch) -> None:
    """A decoder that takes more than its estimate."""
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: np.ones(64 << 20))
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with bounded(32 << 20), pytest.raises(ImageError, match="more than") as refusal:
        decode(bomb("gif", 16))
    assert refusal.value.kind == "too_large"
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    monkeypatch.undo()
    assert decode(bomb("gif", 16)).size == (16, 16)
