"""Examples made and read without TensorFlow: fixed bytes, TensorFlow's bytes, damaged payloads."""

import numpy as np
import pytest
import tensorflow as tf
from plain_examples import plain

from data.common.errors import UserError
from data.tfrecords import examples
from data.tfrecords.examples import KINDS, decode_example, decode_labels, encode_example
from data.tfrecords.records import RecordError

IMAGE, NAME, WIDTH, HEIGHT, CLASS_NUM = b"\xff\xd8jpeg", "a/\udce4.jpg", 500, 375, 5
LABELS = {"sparse": ((3, 0), (0.5, -1.0)), "dense": ((3, 0), (0.5, -1.0)), "single": ((3,), None)}
BYTES = {
    "sparse": (
        b"\n\x81\x01\n\x10\n\x06height\x12\x06\x1a\x04\n\x02\xf7\x02"
        b"\n\x13\n\x05image\x12\n\n\x08\n\x06\xff\xd8jpeg"
        b"\n\x15\n\x0blabel_index\x12\x06\x1a\x04\n\x02\x03\x00"
        b"\n\x1b\n\x0blabel_value\x12\x0c\x12\n\n\x08\x00\x00\x00?\x00\x00\x80\xbf"
        b"\n\x13\n\x04name\x12\x0b\n\t\n\x07a/\xe4.jpg\n\x0f\n\x05width\x12\x06\x1a\x04\n\x02\xf4\x03"
    ),
    "dense": (
        b"\np\n\x10\n\x06height\x12\x06\x1a\x04\n\x02\xf7\x02"
        b"\n\x13\n\x05image\x12\n\n\x08\n\x06\xff\xd8jpeg"
        b"\n!\n\x05label\x12\x18\n\x16\n\x14"
        b"\x00\x00\x80\xbf\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00?\x00\x00\x00\x00"
        b"\n\x13\n\x04name\x12\x0b\n\t\n\x07a/\xe4.jpg\n\x0f\n\x05width\x12\x06\x1a\x04\n\x02\xf4\x03"
    ),
    "single": (
        b"\n]\n\x10\n\x06height\x12\x06\x1a\x04\n\x02\xf7\x02"
        b"\n\x13\n\x05image\x12\n\n\x08\n\x06\xff\xd8jpeg"
        b"\n\x0e\n\x05label\x12\x05\x1a\x03\n\x01\x03"
        b"\n\x13\n\x04name\x12\x0b\n\t\n\x07a/\xe4.jpg\n\x0f\n\x05width\x12\x06\x1a\x04\n\x02\xf4\x03"
    ),
}


def example(kind):
    return encode_example(kind, IMAGE, NAME, WIDTH, HEIGHT, *LABELS[kind], CLASS_NUM)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bytes_of_an_example_stay_as_they_are(kind):
    assert example(kind) == BYTES[kind]


def tensorflows(lists):
    """TensorFlow's bytes of an example of `lists`: name -> (list of `Feature`, its values)."""
    message = tf.train.Example()
    for name, (kind, values) in lists.items():
        getattr(message.features.feature[name], kind).value.extend(values)
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize("labels", [0, 1, 9, 1000])
def test_the_bytes_are_tensorflows(labels):
    rng = np.random.default_rng(labels)
    image, classes = rng.bytes(5000), rng.integers(0, 1 << 40, labels).tolist()
    values = rng.random(labels).tolist()
    common = {"image": ("bytes_list", [image]), "name": ("bytes_list", ["ä".encode()])}
    common |= {"width": ("int64_list", [70_000]), "height": ("int64_list", [1])}
    label = {"label_index": ("int64_list", classes), "label_value": ("float_list", values)}
    payload = encode_example("sparse", image, "ä", 70_000, 1, classes, values)
    assert payload == tensorflows(common | label)
    assert plain(payload)["label_index"] == classes
    assert plain(payload)["label_value"] == np.float32(values).tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_examples_are_read_back(kind):
    features = decode_example(example(kind))
    assert features["image"].bytes_list.value[0] == IMAGE
    assert features["name"].bytes_list.value[0] == b"a/\xe4.jpg"
    assert features["width"].int64_list.value[:] == [WIDTH]
    assert features["height"].int64_list.value[:] == [HEIGHT]
    assert not features["absent"].bytes_list.value
    classes, values = decode_labels(features)
    assert (classes.dtype, values.dtype) == (np.int64, np.float32)
    expected = {3: 1.0} if kind == "single" else {3: 0.5, 0: -1.0}
    assert dict(zip(classes, values, strict=True)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("confidence", [1.0, 0.25, 1e-50, 0.0, -1.0])
def test_positive_labels_are_those_that_are_stored(kind, confidence):
    """1e-50 is 0 in float32; a single label has no confidence, so it is positive."""
    classes = [3] if kind == "single" else [3, 0]
    confidences = [confidence, 1.0][: len(classes)]
    payload = encode_example(kind, b"", "a", 1, 1, classes, confidences, CLASS_NUM)
    found = examples.positive_classes(payload)
    assert sorted(found) == sorted(examples.positives_of(kind, classes, confidences))
    assert (3 in found) == (kind == "single" or confidence in (1.0, 0.25))
    assert (0 in found) == (kind != "single")


def test_decoding_reads_tensorflows_messages():
    message = tf.train.Example()
    message.features.feature["i"].int64_list.value[:] = [0, 1, 127, 128, 1 << 40, -1, -(1 << 63)]
    message.features.feature["f"].float_list.value[:] = [0.5, -2.0]
    message.features.feature["b"].bytes_list.value[:] = [b"", b"ab"]
    message.features.feature["empty"].SetInParent()
    assert plain(message.SerializeToString()) == {
        "i": [0, 1, 127, 128, 1 << 40, -1, -(1 << 63)],
        "f": [0.5, -2.0],
        "b": [b"", b"ab"],
        "empty": [],
    }


def test_numbers_that_are_not_packed_are_read():
    """As writers of old versions of protobuf leave them: a field for each number."""
    entry = b"\n\x01i\x12\x06\x1a\x04\x08\x05\x08\x06"
    assert plain(b"\n\x0d\n\x0b" + entry) == {"i": [5, 6]}


def test_labels_that_cannot_be_read():
    def labels(class_num=None, **lists):
        return decode_labels(decode_example(tensorflows(lists)), class_num)

    index, values = ("int64_list", [7, 9]), ("float_list", [0.5])
    assert labels(label_index=index)[1].tolist() == [1, 1]
    with pytest.raises(UserError, match="2 `label_index` but 1 `label_value`"):
        labels(label_index=index, label_value=values)
    with pytest.raises(UserError, match="neither `label` nor `label_index` in it"):
        labels(name=("bytes_list", [b"a"]))
    dense = {"label": ("bytes_list", [np.float32([0, 2, 0]).tobytes()])}
    assert labels(**dense)[0].tolist() == [1]
    with pytest.raises(UserError, match="a dense label of 3 classes; fix --class_num"):
        labels(4, **dense)


@pytest.mark.parametrize("payload", [b"\x0a\xff", b"\x0a\x05ab", b"\xff", b"\x0b\x00"])
def test_a_payload_that_is_no_example_is_an_error(payload):
    with pytest.raises(RecordError, match=r"not a tf\.train\.Example"):
        decode_example(payload)


@pytest.mark.parametrize(
    ("kind", "classes", "confidences", "class_num", "message"),
    [
        ("single", [1, 2], None, None, "2 classes, a single-label record takes one"),
        ("dense", [1], None, None, "give class_num"),
        ("dense", [5], None, 5, r"label 5 is out of range \[0, 5\)"),
        ("sparse", [1], [1.0, 0.5], None, "1 classes but 2 confidences"),
        ("desne", [1], None, None, "not one of sparse, dense, single"),
    ],
)
def test_labels_that_do_not_fit_the_kind(kind, classes, confidences, class_num, message):
    with pytest.raises(RecordError, match=message):
        encode_example(kind, b"", "a", 1, 1, classes, confidences, class_num)
