"""RandAugment against Pillow's operations, and as a function of its seed."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from data.input import randaugment


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    rows = np.linspace(30, 220, 24)[:, None, None]
    noise = np.random.default_rng(0).integers(-25, 25, (24, 32, 3))
    return np.clip(rows + noise, 0, 255).astype(np.uint8)


LEVEL = 0.5
FACTOR = 1.0 + LEVEL * randaugment.MAX_ENHANCE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("autocontrast", ImageOps.autocontrast),
        ("equalize", ImageOps.equalize),
        ("color", lambda p: ImageEnhance.Color(p).enhance(FACTOR)),
        ("brightness", lambda p: ImageEnhance.Brightness(p).enhance(FACTOR)),
        ("contrast", lambda p: ImageEnhance.Contrast(p).enhance(FACTOR)),
        ("sharpness", lambda p: ImageEnhance.Sharpness(p).enhance(FACTOR)),
        ("solarize", lambda p: ImageOps.solarize(p, 127.5)),
        ("shift_x", lambda p: _shifted(p, randaugment.MAX_SHIFT * LEVEL * 32)),
    ],
)
def test_operation_equals_pillow(image, name, expected) -> None:
    operation, _ = randaugment.OPERATIONS[name]
    ours = operation(tf.constant(image / 255.0, tf.float32), tf.constant(LEVEL))
    ours = np.clip(ours.numpy(), 0, 1) * 255
    theirs = np.asarray(expected(Image.fromarray(image)), np.float32)
    # Pillow rounds to whole values on the way.
    assert np.abs(ours - theirs).max() <= 2.0


def _shifted(image: Image.Image, pixels: float) -> Image.Image:
    gray = (127.5,) * 3
    values = np.asarray(image, np.float32)
    shifted = np.empty_like(values)
    for x in range(values.shape[1]):
        left = x + pixels
        low, fraction = int(np.floor(left)), left - np.floor(left)
        at = [values[:, i] if 0 <= i < values.shape[1] else np.array(gray) for i in (low, low + 1)]
        shifted[:, x] = (1 - fraction) * at[0] + fraction * at[1]
    return shifted


def test_posterize_leaves_six_bits(image) -> None:
    tensor = tf.constant(image / 255.0, tf.float32)
    posterize, _ = randaugment.OPERATIONS["posterize"]
    values = np.unique(posterize(tensor, tf.constant(0.5)).numpy())
    assert len(values) <= 2**6 and values.max() <= 1.0


@pytest.mark.slow
def test_every_operation_keeps_shape_and_range(image) -> None:
    tensor = tf.constant(image / 255.0, tf.float32)
    run = tf.function(lambda seed: randaugment.rand_augment(tensor, seed))
    drawn = [run(tf.constant([7, i], tf.int64)).numpy() for i in range(60)]
    assert all(x.shape == image.shape and x.min() >= 0 and x.max() <= 1 for x in drawn)
    assert len({x.tobytes() for x in drawn}) > 30
    again = run(tf.constant([7, 0], tf.int64)).numpy()
    np.testing.assert_array_equal(again, drawn[0])
