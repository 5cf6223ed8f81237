"""The EXIF orientation of a JPEG in TensorFlow operations, for training and for the SavedModel.

Elsewhere Pillow turns images upright (`data/common/images.py`); it supports more formats.
"""

import tensorflow as tf

# EXIF is near the start of the file, after any JFIF header or color profile; it has up to 64 KiB.
_BEFORE_EXIF_BYTES, _SEARCHED_BYTES = 1 << 12, 1 << 17
_APP1, _START_OF_SCAN = 0xE1, 0xDA
_EXIF = tuple(b"Exif")
_LITTLE_ENDIAN = ord("I")  # "II" for Intel; "MM", for Motorola, is big-endian
_ORIENTATION_TAG = 0x0112
_ENTRY_BYTES = 12
_MAX_ENTRIES = 512
# Matches every file that is not upright: the tag with a value of 2 to 8, in either byte order.
_TURNED = r"\C*Exif\C*(\x01\x12\C{6}\x00[\x02-\x08]|\x12\x01\C{6}[\x02-\x08]\x00)\C*"


def upright(image: tf.Tensor, contents: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors a decoded image [H, W, 3] as the EXIF data of its file say.

    Args:
        contents: string scalar, the file.
    """
    turn = orientation(contents)
    image = tf.cond(turn >= 5, lambda: _transposed(image), lambda: image)
    for axis, turns in ((0, (3, 4, 7, 8)), (1, (2, 3, 6, 7))):
        flips = tf.reduce_any(turn == tf.constant(turns))
        image = tf.cond(flips, lambda a=axis, i=image: tf.reverse(i, [a]), lambda i=image: i)
    return image


def _transposed(image: tf.Tensor) -> tf.Tensor:
    """The image with its axes swapped; `tf.transpose` makes oneDNN warn about 8-bit types."""
    height, width = tf.unstack(tf.shape(image)[:2])
    places = tf.range(height)[tf.newaxis] * width + tf.range(width)[:, tf.newaxis]
    return tf.gather(tf.reshape(image, [-1, tf.shape(image)[2]]), places)


def orientation(contents: tf.Tensor) -> tf.Tensor:
    """The EXIF orientation, int32 scalar, 1 to 8; 1 (upright) if it is missing or invalid.

    Args:
        contents: string scalar, an encoded image.
    """
    # In three steps: searching 128 KiB costs half as much as decoding an image, and reading the
    # directory as much as decoding a small one. Most files need neither.
    start = tf.strings.substr(contents, 0, _BEFORE_EXIF_BYTES)
    has_exif = tf.strings.regex_full_match(start, r"\C*Exif\C*")
    return tf.cond(has_exif, lambda: _orientation_of_exif(contents), lambda: tf.constant(1))


@tf.function(autograph=False, experimental_attributes={"_noinline": True})
def _orientation_of_exif(contents: tf.Tensor) -> tf.Tensor:
    start = tf.strings.substr(contents, 0, _SEARCHED_BYTES)
    is_turned = tf.strings.regex_full_match(start, _TURNED)
    return tf.cond(is_turned, lambda: _read(start), lambda: tf.constant(1))


def _read(start: tf.Tensor) -> tf.Tensor:
    bytes_ = _Bytes(tf.cast(tf.io.decode_raw(start, tf.uint8), tf.int32))
    position = _exif_segment(bytes_)  # two bytes of marker, two of length, "Exif", two zeros
    found = tf.reduce_all(bytes_.at(position + 4 + tf.range(4)) == tf.constant(_EXIF))
    tiff = position + 10
    bytes_.is_little_endian = bytes_.at(tiff) == _LITTLE_ENDIAN
    directory = tiff + bytes_.number(tiff + 4, 4)
    count = tf.clip_by_value(bytes_.number(directory, 2), 0, _MAX_ENTRIES)
    entries = directory + 2 + tf.range(count) * _ENTRY_BYTES
    is_turn = bytes_.number(entries, 2) == _ORIENTATION_TAG
    turn = tf.reduce_max(tf.where(is_turn, bytes_.number(entries + 8, 2), 0))
    return tf.where(found & (turn >= 1) & (turn <= 8), turn, 1)


def _exif_segment(bytes_: "_Bytes") -> tf.Tensor:
    """Where the first APP1 segment begins, or where the search for one ends."""

    def continues(position: tf.Tensor) -> tf.Tensor:
        marker = bytes_.at(position + 1)
        is_segment = bytes_.at(position) == 0xFF
        return is_segment & (marker != _APP1) & (marker != _START_OF_SCAN)

    def next_segment(position: tf.Tensor) -> list[tf.Tensor]:
        return [position + 2 + tf.maximum(bytes_.number(position + 2, 2), 2)]

    # In eager mode `while_loop` returns the list, in a graph its only element.
    return tf.nest.flatten(tf.while_loop(continues, next_segment, [tf.constant(2)]))[0]


class _Bytes:
    """Bytes as int32 [N]; positions outside read as zero."""

    def __init__(self, values: tf.Tensor) -> None:
        self._values = tf.concat([values, [0]], 0)
        self._end = tf.size(values)
        self.is_little_endian = tf.constant(False)

    def at(self, position: tf.Tensor) -> tf.Tensor:
        inside = (position >= 0) & (position < self._end)
        return tf.gather(self._values, tf.where(inside, position, self._end))

    def number(self, position: tf.Tensor, size: int) -> tf.Tensor:
        """The unsigned number of `size` bytes, in the file's byte order."""
        digits = [self.at(position + place) for place in range(size)]
        big = sum(digit * 256**place for place, digit in enumerate(reversed(digits)))
        little = sum(digit * 256**place for place, digit in enumerate(digits))
        return tf.where(self.is_little_endian, little, big)
