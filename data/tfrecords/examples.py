"""`tf.train.Example` messages of labeled images, made and read without TensorFlow.

An example holds `width`, `height`, `image`, `name` and the label in one of three kinds (spec
section 1):

* sparse: `label_index` (int64 list) and `label_value` (float list), our default;
* dense: `label`, the raw bytes of a float32 vector of all classes, as released;
* single: `label`, one int64, as released for single-label data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from google.protobuf.message import DecodeError, Message

from data.common.errors import UserError
from data.tfrecords.records import RecordError

KINDS = ("sparse", "dense", "single")
Features: TypeAlias = Mapping[str, Message]
"""Name -> `tf.train.Feature`; a missing one is empty."""


# As in TensorFlow's example.proto.
_DEFINITION = """
name: "example.proto" package: "tensorflow" syntax: "proto3"
message_type {
  name: "BytesList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES }
}
message_type {
  name: "FloatList"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT }
}
message_type {
  name: "Int64List"
  field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 }
}
message_type {
  name: "Feature"
  field { name: "bytes_list" number: 1 oneof_index: 0 type: TYPE_MESSAGE type_name: "BytesList" }
  field { name: "float_list" number: 2 oneof_index: 0 type: TYPE_MESSAGE type_name: "FloatList" }
  field { name: "int64_list" number: 3 oneof_index: 0 type: TYPE_MESSAGE type_name: "Int64List" }
  oneof_decl { name: "kind" }
}
message_type {
  name: "Features"
  field {
    name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE type_name: "FeatureEntry"
  }
  nested_type {
    name: "FeatureEntry"
    field { name: "key" number: 1 type: TYPE_STRING }
    field { name: "value" number: 2 type: TYPE_MESSAGE type_name: "Feature" }
    options { map_entry: true }
  }
}
message_type {
  name: "Example"
  field { name: "features" number: 1 type: TYPE_MESSAGE type_name: "Features" }
}
"""


def _example_class() -> type[Message]:
    pool = descriptor_pool.DescriptorPool()  # a separate one: TensorFlow's has another Example
    pool.Add(text_format.Parse(_DEFINITION, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()


def encode_example(
    kind: str,
    image: bytes,
    name: str,
    width: int,
    height: int,
    classes: Sequence[int],
    confidences: Sequence[float] | None = None,
    class_num: int | None = None,
    others: Mapping[str, bytes | np.ndarray] | None = None,
) -> bytes:
    """The serialized `tf.train.Example` of one image; the same bytes for the same arguments.

    Args:
        kind: "sparse", "dense" or "single".
        image: an encoded image, normally JPEG.
        name: the name of the image in predictions and messages.
        width, height: in pixels.
        classes: class indices from 0; "single" requires exactly one.
        confidences: one per class; None: 1.0 each; -1 means unknown. Not stored by "single".
        class_num: length of the vector; needed only by "dense".
        others: additional features: bytes, or arrays of integers or floats.

    Raises:
        RecordError: labels that `kind` cannot hold.
    """
    if confidences is None:
        confidences = [1.0] * len(classes)
    if len(classes) != len(confidences):
        raise RecordError(f"{name}: {len(classes)} classes but {len(confidences)} confidences")
    example = _Example()
    features = example.features.feature
    features["image"].bytes_list.value.append(image)
    features["name"].bytes_list.value.append(name.encode("utf-8", "surrogateescape"))
    features["width"].int64_list.value.append(width)
    features["height"].int64_list.value.append(height)
    if kind == "sparse":
        features["label_index"].int64_list.value.extend(classes)
        features["label_value"].float_list.value.extend(confidences)
    elif kind == "dense":
        vector = _dense_label(name, classes, confidences, class_num)
        features["label"].bytes_list.value.append(vector.tobytes())
    elif kind == "single":
        if len(classes) != 1:
            raise RecordError(f"{name}: {len(classes)} classes, a single-label record takes one")
        features["label"].int64_list.value.extend(classes)
    else:
        raise RecordError(f"record kind {kind!r} is not one of {', '.join(KINDS)}")
    for key, value in (others or {}).items():
        if isinstance(value, bytes):
            features[key].bytes_list.value.append(value)
        elif value.dtype.kind == "f":
            features[key].float_list.value.extend(value.ravel().tolist())
        else:
            features[key].int64_list.value.extend(value.ravel().tolist())
    return example.SerializeToString(deterministic=True)


def _dense_label(
    name: str, classes: Sequence[int], confidences: Sequence[float], class_num: int | None
) -> np.ndarray:
    if class_num is None:
        raise RecordError("dense labels need the number of classes: give class_num")
    outside = [c for c in classes if not 0 <= c < class_num]
    if outside:
        raise RecordError(f"{name}: label {outside[0]} is out of range [0, {class_num})")
    vector = np.zeros(class_num, "<f4")
    vector[list(classes)] = confidences
    return vector


def decode_example(payload: bytes) -> Features:
    """The features of a serialized example.

    Raises:
        RecordError: the payload is not an example.
    """
    try:
        return _Example.FromString(payload).features.feature
    except DecodeError as error:
        raise RecordError(f"not a tf.train.Example ({error})") from error


def decode_labels(
    features: Features, class_num: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Classes, int64 [labels], and values, float32 [labels], for any kind of label.

    Args:
        class_num: how many values a dense label has; None: any number.

    Raises:
        UserError: there is no label, or the number of values is wrong.
    """
    # A slice of a repeated field becomes an array three times faster than the field itself.
    if "label_index" in features:
        classes = np.array(features["label_index"].int64_list.value[:], np.int64)
        values = np.array(features["label_value"].float_list.value[:], np.float32)
        if not values.size:
            values = np.ones(len(classes), np.float32)
        if len(values) != len(classes):
            raise UserError(f"{len(classes)} `label_index` but {len(values)} `label_value`")
        return classes, values
    single, dense = features["label"].int64_list.value, features["label"].bytes_list.value
    if single:
        return np.array(single[:], np.int64), np.ones(len(single), np.float32)
    if not dense:
        raise UserError("neither `label` nor `label_index` in it")
    values_num = len(dense[0]) // 4
    if class_num is not None and len(dense[0]) != 4 * class_num:
        raise UserError(f"a dense label of {values_num} classes; fix --class_num")
    vector = np.frombuffer(dense[0], "<f4", values_num)
    classes = np.flatnonzero(vector)
    return classes, vector[classes]


def positives_of(kind: str, classes: Sequence[int], confidences: Sequence[float]) -> list[int]:
    """What `positive_classes` returns for the example that `encode_example` makes of these labels.

    Decoding the example copies the image, which would take a tenth of a conversion's time.
    """
    if kind == "single":
        return list(classes)
    # In float32, as stored, where the smallest confidences become 0.
    values = np.asarray(confidences, np.float32)
    return [label for label, value in zip(classes, values, strict=True) if value > 0]


def positive_classes(payload: bytes) -> list[int]:
    """The classes of a serialized example that have a label above 0.

    Raises:
        UserError: the payload is not an example, or has no label.
    """
    classes, values = decode_labels(decode_example(payload))
    return classes[values > 0].tolist()
