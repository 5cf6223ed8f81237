"""`tf.train.Example` messages of labeled images, in protobuf's wire format, without TensorFlow.

An example holds `width`, `height`, `image`, `name` and the label in one of three kinds (spec
section 1):

* sparse: `label_index` (int64 list) and `label_value` (float list), our default;
* dense: `label`, the raw bytes of a float32 vector of all classes, as released;
* single: `label`, one int64, as released for single-label data.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from data.common.errors import UserError

KINDS = ("sparse", "dense", "single")
# tf.train.Feature: the number of each list in the `oneof`, and the wire types of protobuf.
_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3
_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5


class RecordError(UserError):
    """A file or a record that is not what its format says; the message is one line."""


def encode_example(
    kind: str,
    image: bytes,
    name: str,
    width: int,
    height: int,
    classes: Sequence[int],
    confidences: Sequence[float] | None = None,
    class_num: int | None = None,
) -> bytes:
    """The serialized `tf.train.Example` of one image.

    Args:
        kind: "sparse", "dense" or "single".
        image: an encoded image, normally JPEG.
        name: what the image is called in predictions and in messages.
        width, height: in pixels.
        classes: class indices from 0; "single" takes exactly one.
        confidences: of each class, 1.0 where None; -1 means unknown. Not kept by "single".
        class_num: length of the vector; needed by "dense" alone.

    Raises:
        RecordError: labels that `kind` cannot hold.
    """
    if confidences is None:
        confidences = [1.0] * len(classes)
    if len(classes) != len(confidences):
        raise RecordError(f"{name}: {len(classes)} classes but {len(confidences)} confidences")
    features = {
        "height": _int64_feature([height]),
        "image": _bytes_feature(image),
        **_label_features(kind, name, classes, confidences, class_num),
        "name": _bytes_feature(name.encode("utf-8", "surrogateescape")),
        "width": _int64_feature([width]),
    }
    entries = (
        _field(1, _field(1, key.encode()) + _field(2, value)) for key, value in features.items()
    )
    return _field(1, b"".join(entries))


def _label_features(
    kind: str,
    name: str,
    classes: Sequence[int],
    confidences: Sequence[float],
    class_num: int | None,
) -> dict[str, bytes]:
    if kind == "sparse":
        values = struct.pack(f"<{len(confidences)}f", *confidences)
        return {
            "label_index": _int64_feature(classes),
            "label_value": _field(_FLOAT_LIST, _field(1, values)),
        }
    if kind == "dense":
        if class_num is None:
            raise RecordError("dense labels need the number of classes: give class_num")
        outside = [c for c in classes if not 0 <= c < class_num]
        if outside:
            raise RecordError(f"{name}: label {outside[0]} is out of range [0, {class_num})")
        vector = np.zeros(class_num, "<f4")
        vector[list(classes)] = confidences
        return {"label": _bytes_feature(vector.tobytes())}
    if kind == "single":
        if len(classes) != 1:
            raise RecordError(f"{name}: {len(classes)} classes, a single-label record takes one")
        return {"label": _int64_feature(classes)}
    raise RecordError(f"record kind {kind!r} is not one of {', '.join(KINDS)}")


def _varint(value: int) -> bytes:
    value &= 0xFFFFFFFFFFFFFFFF  # negative int64: two's complement, ten bytes
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return bytes([number << 3 | _DELIMITED]) + _varint(len(payload)) + payload


def _bytes_feature(value: bytes) -> bytes:
    return _field(_BYTES_LIST, _field(1, value))


def _int64_feature(values: Sequence[int]) -> bytes:
    return _field(_INT64_LIST, _field(1, b"".join(_varint(int(v)) for v in values)))


def decode_example(payload: bytes) -> dict[str, list[Any]]:
    """The features of a serialized `tf.train.Example`: name -> list of bytes, floats or ints.

    Raises:
        RecordError: the payload is not an Example.
    """
    features: dict[str, list[Any]] = {}
    try:
        for _, message in _fields(payload):
            for _, entry in _fields(message):
                key, value = b"", b""
                for number, part in _fields(entry):
                    key, value = (part, value) if number == 1 else (key, part)
                features[key.decode()] = _decode_feature(value)
    except (IndexError, TypeError, ValueError, struct.error) as error:
        raise RecordError(f"not a tf.train.Example ({error})") from error
    return features


def positives_of(kind: str, classes: Sequence[int], confidences: Sequence[float]) -> list[int]:
    """What `positive_classes` finds in the example that `encode_example` makes of these labels."""
    if kind == "single":
        return list(classes)
    # As they are stored: the least of confidences are 0 in float32.
    values = np.asarray(confidences, np.float32)
    return [label for label, value in zip(classes, values, strict=True) if value > 0]


def positive_classes(payload: bytes) -> list[int]:
    """The classes with a label above 0 of a serialized example, whichever its kind of label.

    Raises:
        RecordError: the payload is not an Example.
    """
    example = decode_example(payload)
    if "label_index" in example:
        classes = example["label_index"]
        values = example.get("label_value") or [1.0] * len(classes)
        return [label for label, value in zip(classes, values, strict=False) if value > 0]
    label = example.get("label", [])
    if label and isinstance(label[0], bytes):
        return np.flatnonzero(np.frombuffer(label[0], "<f4") > 0).tolist()
    return label


def _decode_feature(feature: bytes) -> list[Any]:
    values: list[Any] = []
    for kind, message in _fields(feature):
        for _, item in _fields(message):
            if kind == _BYTES_LIST:
                values.append(item)
            elif kind == _FLOAT_LIST:
                values.extend(struct.unpack(f"<{len(item) // 4}f", item))
            elif isinstance(item, int):
                values.append(_signed(item))
            else:
                values.extend(_packed_varints(item))
    return values


def _packed_varints(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _read_varint(data, at)
        yield _signed(value)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, bytes or varint) of a message, unpacked scalars included."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(wire)
        if wire == _DELIMITED:
            size, at = _read_varint(data, at)
        if size is None or at + size > len(data):
            raise ValueError("a field is cut short or of an unknown wire type")
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
