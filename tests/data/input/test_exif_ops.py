"""EXIF orientation in TensorFlow ops: as Pillow turns images, and no trouble with nonsense."""

import io
import random

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from data.input import exif_ops

PIXELS = np.random.default_rng(3).integers(0, 256, (4, 6, 3), np.uint8).repeat(8, 0).repeat(8, 1)


def jpeg(orientation: int | None = None, intel: bool = False, **options) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x010F] = "a maker"
        exif[0x0112] = orientation
    exif.endian = "<" if intel else ">"
    out = io.BytesIO()
    Image.fromarray(PIXELS).save(out, "JPEG", exif=exif, quality=95, **options)
    return out.getvalue()


orientation_of = tf.function(exif_ops.orientation, input_signature=[tf.TensorSpec([], tf.string)])


@pytest.mark.parametrize("intel", [False, True])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_as_pillow_turns_it(orientation, intel):
    data = jpeg(orientation, intel, dpi=(72, 72), comment=b"before the EXIF segment or after")
    assert exif_ops.orientation(data) == orientation_of(data) == orientation
    decoded = np.asarray(Image.open(io.BytesIO(data)))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(exif_ops.upright(tf.constant(decoded), data), expected)


@pytest.mark.parametrize("data", [jpeg(), jpeg(0), jpeg(9), b"", b"\xff\xd8", b"\xff\xd8\xff\xe1"])
def test_without_a_sensible_orientation_it_is_upright(data):
    assert exif_ops.orientation(data) == 1


def test_damaged_files_are_read_to_an_end():
    chance = random.Random(5)
    for _ in range(100):
        data = bytearray(jpeg(6, intel=chance.random() < 0.5))
        for _ in range(4):
            data[chance.randrange(100)] = chance.randrange(256)
        assert 1 <= orientation_of(bytes(data[: chance.randrange(len(data))])) <= 8


def test_nothing_is_transposed_in_8_bits():
    """oneDNN prints an error line for it at every start on processors without AVX-512."""
    arguments = tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.string)
    graph = tf.function(exif_ops.upright).get_concrete_function(*arguments).graph.as_graph_def()
    nodes = [*graph.node, *(node for f in graph.library.function for node in f.node_def)]
    assert "GatherV2" in {node.op for node in nodes}
    assert "Transpose" not in {node.op for node in nodes}
