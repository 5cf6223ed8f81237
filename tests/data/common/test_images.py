"""Images of every kind and hostile bytes: shown as a viewer shows them, or refused."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.common.images import ImageError, Probe, decode, probe, to_jpeg, whole


def gradient(width: int = 64, height: int = 48, mode: str = "RGB") -> Image.Image:
    """Red grows to the right, green downwards: every turn and mirror differs."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 0 * x + 80], -1).astype(np.uint8)).convert(mode)


def encoded(image: Image.Image, image_format: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds a few compressed bytes: a decompression bomb."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(1000))
    chunks = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def assert_close(image: Image.Image, expected: Image.Image, tolerance: float = 6.0) -> None:
    assert (image.mode, image.size) == ("RGB", expected.size)
    difference = np.asarray(image, np.float64) - np.asarray(expected.convert("RGB"), np.float64)
    assert np.abs(difference).mean() < tolerance


@pytest.mark.parametrize(
    ("image_format", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {"quality": 95}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("PNG", "LA", {}),
        ("PNG", "RGBA", {}),
        ("GIF", "P", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("AVIF", "RGB", {"speed": 10}),
        ("BMP", "RGB", {}),
        ("TIFF", "CMYK", {}),
        ("PPM", "RGB", {}),
    ],
)
def test_formats_and_modes(image_format: str, mode: str, options: dict) -> None:
    image = gradient(mode=mode)
    data = encoded(image, image_format, **options)
    assert_close(decode(data), image)
    assert probe(data) == whole(data) == Probe(image_format, 64, 48)
    jpeg = to_jpeg(data)
    assert (jpeg.width, jpeg.height) == (64, 48)
    # The dots that a palette is dithered with suffer most from JPEG.
    assert_close(decode(jpeg.data), image, tolerance=18 if mode == "P" else 6)
    with Image.open(io.BytesIO(jpeg.data)) as again:
        assert (again.format, again.mode) == ("JPEG", "RGB")


def test_sixteen_bits_are_scaled_not_clipped() -> None:
    wide = (np.linspace(0, 65535, 64)[None, :] * np.ones((48, 1))).astype(np.uint16)
    shown = np.asarray(decode(encoded(Image.fromarray(wide), "PNG")))
    np.testing.assert_array_equal(shown[..., 0], wide >> 8)


def test_floating_point_pixels_are_refused() -> None:
    data = encoded(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="floating-point"):
        decode(data)


def test_transparency_is_over_white() -> None:
    clear = Image.new("RGBA", (8, 8), (10, 20, 30, 0))
    assert decode(encoded(clear, "PNG")).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("RGBA", (8, 8), (0, 0, 0, 128))
    assert decode(encoded(half, "PNG")).getpixel((0, 0)) == (127, 127, 127)
    palette = Image.new("P", (8, 8))
    assert decode(encoded(palette, "GIF", transparency=0)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("image_format", ["GIF", "WEBP", "PNG"])
def test_first_frame_of_an_animation(image_format: str) -> None:
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue")]
    data = encoded(frames[0], image_format, save_all=True, append_images=frames[1:])
    assert_close(decode(data), frames[0])


STORED_AS = {  # EXIF orientation -> how a camera turned the upright image
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int, image_format: str) -> None:
    upright = gradient()
    stored = upright.transpose(STORED_AS[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    data = encoded(stored, image_format, exif=exif)
    assert_close(decode(data), upright)
    applied = to_jpeg(data)
    assert (applied.width, applied.height) == upright.size
    assert_close(decode(applied.data), upright)
    shrunk = to_jpeg(data, short_side=24)
    assert_close(decode(shrunk.data), upright.resize((32, 24)))
    if image_format != "TIFF":  # which Pillow turns while loading
        kept = to_jpeg(data, short_side=24, orientation="keep")
        assert min(kept.width, kept.height) == 24
        assert_close(decode(kept.data), upright.resize((32, 24)))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_jpeg_that_needs_nothing_is_kept_byte_for_byte() -> None:
    data = encoded(gradient(), exif=b"Exif\0\0broken")
    assert to_jpeg(data).data is data
    assert to_jpeg(data, short_side=48).data is data
    assert to_jpeg(data, short_side=1000).data is data
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    turned = encoded(gradient(), exif=exif)
    assert to_jpeg(turned, orientation="keep").data is turned
    assert to_jpeg(turned).data is not turned


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [((500, 375), 256, (341, 256)), ((375, 500), 256, (256, 341)), ((4000, 50), 25, (2000, 25))],
)
def test_short_side(size, short_side, expected) -> None:
    jpeg = to_jpeg(encoded(gradient(*size)), short_side)
    assert (jpeg.width, jpeg.height) == expected
    assert_close(decode(jpeg.data), gradient(*size).resize(expected))


def test_shrinking_is_antialiased() -> None:
    fine = np.tile(np.array([[0, 255]], np.uint8), (512, 256))  # stripes of one pixel
    for image_format in ("JPEG", "PNG"):
        small = decode(to_jpeg(encoded(Image.fromarray(fine), image_format), 48).data)
        assert np.abs(np.asarray(small, np.float64) - 127.5).max() < 12


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "GIF", "WEBP", "BMP"])
def test_truncated_anywhere(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    data = encoded(Image.fromarray(noise), image_format)
    for keep in (2, 10, len(data) // 3, len(data) - 100, len(data) - 40):
        for function in (whole, decode, to_jpeg):
            with pytest.raises(ImageError):
                function(data[:keep])
    if image_format == "JPEG":
        with pytest.raises(ImageError) as refusal:
            whole(data[:-2])  # only the end marker is missing
        assert refusal.value.kind == "truncated"


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "iCCP"])
@pytest.mark.parametrize("position", ["before the pixels", "after them"])
def test_a_png_may_have_megabytes_of_text(kind: str, position: str) -> None:
    """Workflows of image generators; what is not read is not unpacked, however long it is."""
    body = {
        "tEXt": b"workflow\0" + bytes(20 << 20),
        "zTXt": b"workflow\0\0" + zlib.compress(bytes(20 << 20)),
        "iTXt": b"workflow\0\1\0\0\0" + zlib.compress(bytes(20 << 20)),
        "iCCP": b"profile\0\0" + zlib.compress(bytes(2 << 20)),
    }[kind]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    data = encoded(gradient(), "PNG", exif=exif)
    pixels = data.index(b"IDAT") - 4
    place = pixels if position == "before the pixels" else len(data) - 12
    text = data[:place] + png_chunk(kind.encode(), body) + data[place:]
    assert decode(text).tobytes() == decode(data).tobytes()
    assert decode(text).size == (48, 64)


def test_a_png_turned_by_its_text_is_shown_upright() -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>' + bytes(2 << 20)
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp))
    data = encoded(gradient(), "PNG")
    pixels = data.index(b"IDAT") - 4
    assert decode(data[:pixels] + text + data[pixels:]).size == (48, 64)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"<html><body>photo not found</body></html>", "not_an_image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not_an_image"),
        (png_header(9000, 11000), "too_large"),
        (png_header(60000, 60000), "too_large"),
        (png_header(100, 100), "truncated"),
        (encoded(gradient())[:30] + bytes(200), "not_an_image"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_bytes(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError) as refusal:
        whole(data)
    assert refusal.value.kind == kind
    assert "\n" not in str(refusal.value)


def test_limits() -> None:
    data = encoded(gradient())
    assert whole(data, max_pixels=64 * 48)
    with pytest.raises(ImageError, match="64 x 48"):
        probe(data, max_pixels=64 * 48 - 1)
    assert decode(encoded(Image.new("RGB", (1, 1)))).size == (1, 1)
    with pytest.raises(ImageError) as refusal:
        to_jpeg(encoded(Image.new("1", (70000, 2)), "PNG"))  # longer than a JPEG can be
    assert refusal.value.kind == "too_large"


def test_flipped_bytes_never_raise_anything_else() -> None:
    generator = np.random.default_rng(1)
    for image_format in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        data = encoded(gradient(), image_format)
        for _ in range(60):
            broken = np.frombuffer(data, np.uint8).copy()
            broken[generator.integers(0, len(data), 4)] = generator.integers(0, 256, 4)
            with suppress(ImageError):
                to_jpeg(broken.tobytes(), short_side=20)


@pytest.mark.parametrize(("reported", "size"), [(None, (20, 40)), (1, (20, 40)), (3, (40, 20))])
def test_a_rotation_counts_where_exif_turns_nothing(reported: int | None, size: tuple) -> None:
    exif, buffer = Image.Exif(), io.BytesIO()
    if reported is not None:
        exif[0x0112] = reported
    Image.new("RGB", (40, 20)).save(buffer, "JPEG", exif=exif)
    assert to_jpeg(buffer.getvalue(), rotation=90)[1:] == size
