"""Images from untrusted bytes: decoded as a viewer shows them, within limits, and made JPEG.

Pillow does the decoding. Everything that its plugins raise on hostile bytes becomes `ImageError`.
Color profiles are ignored, as the released code did.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, NamedTuple

import numpy as np
from PIL import AvifImagePlugin, ExifTags, Image, PngImagePlugin

from data.common.errors import UserError
from data.common.image_memory import BUDGET, MAX_IMAGE_BYTES, decode_cost

MAX_BYTES = 256 << 20
"""Largest file that is read; the largest Flickr originals have about 50 MiB."""

MAX_PIXELS = 89_478_485
"""Default limit against decompression bombs: Pillow's own warning level (256 MiB of RGB).
Pillow refuses twice as many in any case."""

JPEG_QUALITY = 95
"""Of images that must be re-encoded."""

IMAGE_SUFFIXES = (  # of _FORMATS
    *(".avif", ".bmp", ".dib", ".gif", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)
_MASK_DEPTHS = ((0, 1), (0, 8), (3, 1), (3, 2), (3, 4), (3, 8))  # color type, bits of a PNG
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_JPEG_FORMATS = ("JPEG", "MPO")  # Pillow names a JPEG with more images behind it MPO

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each of our threads decodes its own image

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_FRAME = 12  # bytes of a chunk's length, kind and checksum
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")  # text and color profile
_PNG_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")  # texts that may hold it
_PNG_TEXT_BYTES = 1 << 20  # longest compressed chunk that is searched for the orientation
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 16 << 20  # bytes, uncompressed

_Turn = Image.Transpose
_UPRIGHT = {  # EXIF orientation -> what makes the image upright
    2: _Turn.FLIP_LEFT_RIGHT,
    3: _Turn.ROTATE_180,
    4: _Turn.FLIP_TOP_BOTTOM,
    5: _Turn.TRANSPOSE,
    6: _Turn.ROTATE_270,
    7: _Turn.TRANSVERSE,
    8: _Turn.ROTATE_90,
}


_ROTATED = {0: 1, 90: 8, 180: 3, 270: 6}  # degrees counter-clockwise -> EXIF orientation


class ImageError(UserError):
    """Bytes that are not a whole, decodable image within the limits.

    `kind` is one of a few words to count by: empty, not_an_image, truncated, too_large, corrupt,
    not_a_mask.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Probe(NamedTuple):
    """Format by Pillow's name; width and height in pixels, as stored (before any EXIF turn)."""

    format: str
    width: int
    height: int


class Jpeg(NamedTuple):
    """A JPEG file's bytes with its stored width and height in pixels."""

    data: bytes
    width: int
    height: int


def probe(data: bytes, max_pixels: int = MAX_PIXELS) -> Probe:
    """Format and size from the header alone; the rest of the bytes is not read.

    Raises:
        ImageError: not an image of a known format, or over the limits.
    """
    return _probe(_open(data, max_pixels))


def whole(
    data: bytes, max_pixels: int = MAX_PIXELS, max_image_bytes: int = MAX_IMAGE_BYTES
) -> Probe:
    """Checks that the image is complete: a truncated or undecodable one is refused.

    A JPEG's entropy-coded data are read to the end, but it is reconstructed at an eighth of its
    size, because the remaining arithmetic cannot fail.

    Raises:
        ImageError: as `probe`, and what decoding finds.
    """
    opened = _open(data, max_pixels)
    with _reserved(opened, max_image_bytes):
        return _check(opened)


def decode(
    data: bytes, max_pixels: int = MAX_PIXELS, max_image_bytes: int = MAX_IMAGE_BYTES
) -> Image.Image:
    """The image as a viewer shows it, as 8-bit RGB; see `decoded`."""
    with decoded(data, max_pixels, max_image_bytes) as image:
        return image


@contextmanager
def decoded(
    data: bytes, max_pixels: int = MAX_PIXELS, max_image_bytes: int = MAX_IMAGE_BYTES
) -> Iterator[Image.Image]:
    """The image as a viewer shows it, as 8-bit RGB.

    The first frame of an animation, upright by its EXIF orientation, transparency over white,
    16 bits scaled to 8, CMYK and grayscale converted. Until the `with` block ends, its memory is
    counted, including that of an array of it and of TensorFlow's copy of that.

    Raises:
        ImageError: as `whole`.
    """
    opened = _open(data, max_pixels)
    with _reserved(opened, max_image_bytes, copies=2):
        _load(opened)
        turn = _orientation(opened)  # after loading, which already turns a TIFF
        image = _rgb(opened)
        del opened
        yield _upright(image, turn)


def class_indices(
    data: bytes, max_pixels: int = MAX_PIXELS, max_image_bytes: int = MAX_IMAGE_BYTES
) -> np.ndarray:
    """The palette indices or gray values, uint8 [H, W], of a mask in PNG format.

    Raises:
        ImageError: as `whole`; or another format, a PNG of colors, or of grays that Pillow would
            scale.
    """
    opened = _open(data, max_pixels)
    # The PNG header's color type and bit depth.
    if opened.format != "PNG" or (data[25], data[24]) not in _MASK_DEPTHS:
        found = f"{opened.format}, {opened.mode}"
        raise ImageError("not_a_mask", f"{found}; expected a PNG with a palette or 8-bit grays")
    with _reserved(opened, max_image_bytes):
        _load(opened)
        return np.array(opened, np.uint8)


def to_jpeg(
    data: bytes,
    short_side: int | None = None,
    quality: int = JPEG_QUALITY,
    orientation: Literal["apply", "keep"] = "apply",
    max_pixels: int = MAX_PIXELS,
    max_image_bytes: int = MAX_IMAGE_BYTES,
    rotation: int = 0,
) -> Jpeg:
    """The image as an RGB JPEG; one that needs nothing is checked and kept byte for byte.

    Args:
        short_side: shrink so that the shorter side has this many pixels, the longer one in
            proportion, truncated (antialiased; smaller images stay as they are).
        quality: of JPEGs that have to be encoded.
        orientation: `apply` turns the image upright; `keep` leaves the pixels as stored, and keeps
            the EXIF orientation.
        rotation: degrees (0, 90, 180, 270) counter-clockwise that make the image upright if its
            own EXIF data do not turn it. (Ignored for TIFFs, which lose their EXIF when loaded.)

    Raises:
        ImageError: as `whole`.
    """
    opened = _open(data, max_pixels)
    with _reserved(opened, max_image_bytes):
        return _to_jpeg(data, opened, short_side, quality, orientation, rotation)


def _to_jpeg(
    data: bytes,
    opened: Image.Image,
    short_side: int | None,
    quality: int,
    orientation: str,
    rotation: int,
) -> Jpeg:
    shrunk = _shrunk_size(opened.size, short_side)
    is_rgb_jpeg = opened.format in _JPEG_FORMATS and opened.mode == "RGB"
    as_stored = orientation == "keep" or _orientation(opened, rotation) == 1
    if is_rgb_jpeg and shrunk is None and as_stored:
        found = _check(opened)
        return Jpeg(data, found.width, found.height)
    if shrunk is not None:
        # A JPEG decodes at 1/2, 1/4, 1/8 of its size; twice the target keeps the filter's quality.
        opened.draft(None, (2 * shrunk[0], 2 * shrunk[1]))
    _load(opened)
    turn = _orientation(opened, rotation)
    image = _rgb(opened)
    if shrunk is not None:
        image = image.resize(shrunk, Image.Resampling.HAMMING, reducing_gap=2.0)
    if orientation == "apply":
        return _encoded(_upright(image, turn), quality)
    return _encoded(image, quality, turn)


def _encoded(image: Image.Image, quality: int, turn: int = 1) -> Jpeg:
    exif = Image.Exif()
    if turn != 1:
        exif[ExifTags.Base.Orientation] = turn
    buffer = io.BytesIO()
    with _refusals("too_large"):  # a JPEG's sides have at most 65,500 pixels
        image.save(buffer, "JPEG", quality=quality, exif=exif)
    return Jpeg(buffer.getvalue(), *image.size)


def _open(data: bytes, max_pixels: int) -> Image.Image:
    if not data:
        raise ImageError("empty", "the file is empty")
    if len(data) > MAX_BYTES:
        raise ImageError("too_large", f"{len(data)} bytes; at most {MAX_BYTES} are accepted")
    with _refusals("not_an_image"):
        opened = Image.open(io.BytesIO(_without_png_text(data)), formats=_FORMATS)
    width, height = opened.size
    if width < 1 or height < 1:
        raise ImageError("corrupt", f"{width} x {height} pixels")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width} x {height} is more than {max_pixels} pixels")
    return opened


def _without_png_text(data: bytes) -> bytes:
    """The bytes of a PNG without its text and color profile; other files are unchanged.

    Pillow decompresses both when it opens a file, and refuses files with more than 1 MiB of text,
    such as generated images with their workflow. Text that may hold the orientation stays.
    """
    if not data.startswith(_PNG_START):
        return data
    parts, kept, position = [], 0, len(_PNG_START)
    while position + _PNG_FRAME <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + _PNG_FRAME + length
        if kind in _PNG_TEXT and (
            length > _PNG_TEXT_BYTES or not data.startswith(_PNG_ORIENTATION, position + 8)
        ):
            parts.append(data[kept:position])
            kept = end
        position = end
    return b"".join([*parts, data[kept:]]) if parts else data


@contextmanager
def _reserved(opened: Image.Image, max_image_bytes: int, copies: int = 1) -> Iterator[None]:
    cost = decode_cost(opened, copies)
    if cost > max_image_bytes:
        size = f"{opened.width} x {opened.height} pixels, {opened.format}, {opened.mode}"
        message = f"{size}: decoding takes up to {cost} bytes, more than {max_image_bytes}"
        raise ImageError("too_large", message)
    with BUDGET.reserved(cost, max_image_bytes):
        yield


def _probe(opened: Image.Image) -> Probe:
    format_name = "JPEG" if opened.format in _JPEG_FORMATS else opened.format
    return Probe(format_name, *opened.size)


def _check(opened: Image.Image) -> Probe:
    found = _probe(opened)
    opened.draft("L", (1, 1))
    _load(opened)
    return found


def _load(opened: Image.Image) -> None:
    with _refusals("corrupt"):
        opened.load()


@contextmanager
def _refusals(kind: str) -> Iterator[None]:
    """Turns any exception of Pillow into an ImageError with a one-line message."""
    try:
        yield
    except Image.DecompressionBombError as error:
        raise ImageError("too_large", str(error)) from error
    except MemoryError as error:
        raise ImageError("too_large", "decoding takes more than --max_image_bytes") from error
    except Exception as error:  # a plugin raises anything at all on hostile bytes
        if isinstance(error, Image.UnidentifiedImageError):
            raise ImageError("not_an_image", "not an image of a known format") from error
        message = " ".join(str(error).split()) or type(error).__name__
        raise ImageError("truncated" if "truncated" in message else kind, message) from error


def _orientation(opened: Image.Image, rotation: int = 0) -> int:
    """EXIF orientation, 1 to 8; that of `rotation` if it is missing, invalid or 1."""
    try:
        turn = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # as in `_refusals`; a viewer shows such an image as stored
        turn = 1
    if turn in _UPRIGHT:
        return turn
    return 1 if opened.format == "TIFF" else _ROTATED[rotation]


def _upright(image: Image.Image, turn: int) -> Image.Image:
    return image if turn == 1 else image.transpose(_UPRIGHT[turn])


def _rgb(opened: Image.Image) -> Image.Image:
    """8-bit RGB of a loaded image of any mode."""
    if opened.mode == "RGB" and "transparency" not in opened.info:
        return opened
    if opened.mode == "F":
        raise ImageError("not_an_image", "floating-point pixels have no defined brightness")
    with _refusals("corrupt"):
        if opened.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
            wide = np.clip(np.asarray(opened), 0, 0xFFFF)
            return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")
        if opened.has_transparency_data:
            rgba = opened if opened.mode == "RGBA" else opened.convert("RGBA")
            white = Image.new("RGB", opened.size, "white")
            white.paste(rgba, mask=rgba)
            return white
        return opened.convert("RGB")


def _shrunk_size(size: tuple[int, int], short_side: int | None) -> tuple[int, int] | None:
    """(width, height) with the given short side, or None if the image is small enough."""
    short = min(size)
    if short_side is None or short <= short_side:
        return None
    width, height = size
    return width * short_side // short, height * short_side // short
