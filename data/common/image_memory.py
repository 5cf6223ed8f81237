"""The memory needed to decode an image, estimated from its header, and limits on it.

The figures are peaks of Pillow 13, measured as in tests/data/common/test_image_memory.py.
"""

from __future__ import annotations

import ctypes
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import ImageFile

MAX_IMAGE_BYTES = 512 << 20
"""Default limit on what a process allocates to decode images."""

_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2}  # bytes per pixel; others 4
_LARGE = 128 << 20  # for such images, giving memory back takes little of the decoding time
_RESULT = 4  # bytes per RGB pixel, as Pillow stores it
_COPY = 3  # bytes per pixel of an array, and at most of the JPEG made of it
_WEBP_CANVAS, _AVIF_FRAMES = 12, 12
_COMPONENT = 6  # of JPEG 2000: 32 bits, and a tile of 16
_START_OF_SCAN = b"\xff\xda"
_STRIP_ROWS, _TILE_WIDTH, _TILE_HEIGHT, _BITS = 278, 322, 323, 258  # tags of TIFF


def decode_cost(image: ImageFile.ImageFile, copies: int = 1) -> int:
    """The maximum bytes that Pillow allocates to turn an opened image into 8-bit RGB pixels.

    The encoded bytes are not counted; they have their own limit.

    Args:
        copies: number of copies made of the decoded pixels, at 3 bytes per pixel.
    """
    pixels = image.width * image.height
    stored = _STORED.get(image.mode, 4)
    loading, kept = stored + _work(image), stored
    if image.format == "WEBP":
        kept += _WEBP_CANVAS  # for the next frame
    converted = kept + _conversion(image)
    return int(pixels * max(loading, converted, _RESULT + copies * _COPY)) + _strip_bytes(image)


def _work(image: ImageFile.ImageFile) -> float:
    """Bytes per pixel that the decoder needs in addition to the pixels."""
    bands = len(image.getbands())
    if image.format in ("JPEG", "MPO"):
        return 0 if _is_one_scan(image) else 2 * bands  # all coefficients, of 16 bits
    if image.format == "JPEG2000":
        return _COMPONENT * bands
    return {"WEBP": _WEBP_CANVAS, "AVIF": _AVIF_FRAMES}.get(image.format, 0.25)


def _is_one_scan(image: ImageFile.ImageFile) -> bool:
    """Whether the first scan of a JPEG, whose header Pillow has read, has all components."""
    if image.info.get("progressive") or image.fp is None:
        return False
    components = len(image.getbands())
    end = image.fp.tell()
    image.fp.seek(max(0, end - 8 - 2 * components))
    return image.fp.read(8 + 2 * components).startswith(_START_OF_SCAN)


def _conversion(image: ImageFile.ImageFile) -> int:
    """Bytes per pixel that converting the loaded pixels to RGB allocates."""
    if image.mode.startswith("I"):
        return 2 * _STORED.get(image.mode, 4) + 4
    if image.has_transparency_data:
        return _RESULT if image.mode == "RGBA" else 4 + _RESULT
    return 0 if image.mode == "RGB" else _RESULT


def _strip_bytes(image: ImageFile.ImageFile) -> int:
    """The bytes of a TIFF's strip or tile, which may be larger than the image."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or tags is None:
        return 0
    bits = sum(tags.get(_BITS, (1,)))
    if _TILE_WIDTH in tags:
        return tags[_TILE_WIDTH] * tags.get(_TILE_HEIGHT, 1) * bits // 8
    return image.width * min(tags.get(_STRIP_ROWS, image.height), image.height) * bits // 8


class Budget:
    """A limit on the bytes that concurrent decodes of a process may use; more of them wait."""

    def __init__(self) -> None:
        self._used = 0
        self._changed = threading.Condition()

    @contextmanager
    def reserved(self, size: int, limit: int) -> Iterator[None]:
        """Reserves `size` of `limit` bytes (`size` <= `limit`) until the block ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._used + size <= limit or not self._used)
            self._used += size
        try:
            yield
        finally:
            if size >= _LARGE:
                _give_back()
            with self._changed:
                self._used -= size
                self._changed.notify_all()


def _give_back() -> None:
    """Returns freed memory to the system; glibc would keep it for the thread that freed it."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # other C libraries have none, and keep less
        trim(0)


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Makes allocations of more than `size` additional bytes fail in the block, on Linux.

    For single-threaded processes: allocations of other threads would fail, too.
    """
    try:
        with open("/proc/self/statm", "rb") as file:
            data_pages = int(file.read().split()[5])
    except OSError:
        yield
        return
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    limit = data_pages * resource.getpagesize() + size
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))


BUDGET = Budget()
"""The budget of this process."""
