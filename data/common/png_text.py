"""Strips text and color profiles from PNG files before they are decoded."""

from __future__ import annotations

import struct

from PIL import PngImagePlugin

_PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_FRAME = 12  # bytes of a chunk's length, kind and checksum
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_PNG_ORIENTATION = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_MOST_TEXT = 1 << 20  # bytes of a chunk, packed, that may hold the orientation
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 16 << 20  # unpacked


def without_text(data: bytes) -> bytes:
    """A PNG without the text and color profile that nobody looks at: Pillow unpacks them at once.

    It refuses those above 1 MiB, such as the workflows in generated images. Orientation stays.
    """
    if not data.startswith(_PNG_START):
        return data
    parts, kept, position = [], 0, len(_PNG_START)
    while position + _PNG_FRAME <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + _PNG_FRAME + length
        if kind in _PNG_TEXT and (
            length > _MOST_TEXT or not data.startswith(_PNG_ORIENTATION, position + 8)
        ):
            parts.append(data[kept:position])
            kept = end
        position = end
    return b"".join([*parts, data[kept:]]) if parts else data
