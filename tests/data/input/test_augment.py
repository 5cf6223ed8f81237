"""The augmentation of training images against the plain `tf.image` operations it stands for."""

import dataclasses
import io
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.input import augment as augmentation
from data.input import kernels
from data.input.augment import PARAMS, Augmentation

SIZE = 64
FLOWER = sklearn.datasets.load_sample_image("flower.jpg")[100:330, 150:470].copy()
NAMES = ("angle", "brightness", "saturation", "hue", "contrast")
# The corners of the ranges, and in between. Not quite 45 degrees: at that the sources of a diagonal
# lie midway between two pixels.
CHANGES = [
    (0.0, 0.0, 1.0, 0.0, 1.0),
    (0.78, 32 / 255, 1.5, 0.2, 1.5),
    (-0.78, -32 / 255, 0.5, -0.2, 0.5),
    (0.3, -32 / 255, 1.5, -0.2, 1.5),
    (-0.1, 32 / 255, 0.5, 0.2, 1.5),
    (0.2, 0.05, 1.1, 0.07, 0.8),
]


# Of seed 1234 and sample 5: the numbers drawn, and of seed 7, samples 0 and 1: the images' means.
UNIFORMS = [0.5810990, 0.2354776, 0.4520943, 0.9877543, 0.5635445, 0.1277689, 0.0863062]
MEANS = [0.0848926, 0.0340866]


def encoded(kind="JPEG"):
    data = io.BytesIO()
    Image.fromarray(FLOWER).save(data, kind, quality=95)
    return tf.constant(data.getvalue())


def augment(image, colors, change, mirror=False):
    params = np.zeros(1, PARAMS)
    params["mirror"], params["colors"] = mirror, colors
    for name, value in zip(NAMES, change, strict=True):
        params[name] = value
    out = np.empty((SIZE, SIZE, 3), np.float32)
    augmentation.augment(image, params[0], out)
    return out


def resized(image=FLOWER):
    return tf.image.resize(image, [SIZE, SIZE]) / 255.0


def turned(image, radians):
    """`tf.contrib.image.rotate` as released: nearest pixel, black outside."""
    middle, cos, sin = (SIZE - 1) / 2, math.cos(radians), math.sin(radians)
    x, y = middle - (cos - sin) * middle, middle - (sin + cos) * middle
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=[[cos, -sin, x, sin, cos, y, 0.0, 0.0]],
        output_shape=[SIZE, SIZE],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )[0]


def order_a(image, angle, brightness, saturation, hue, contrast):
    image = tf.image.adjust_saturation(turned(image, angle) + brightness, saturation)
    return tf.image.adjust_contrast(tf.image.adjust_hue(image, hue), contrast)


def order_b(image, _, brightness, saturation, hue, contrast):
    image = tf.image.adjust_contrast(image + brightness, contrast)
    return tf.image.adjust_hue(tf.image.adjust_saturation(image, saturation), hue)


def as_input(image):
    return tf.clip_by_value(image, 0.0, 1.0).numpy() * 2 - 1


def assert_close(ours, theirs, except_fraction=0.0):
    difference = np.abs(ours - theirs).max(-1)
    close = difference < 5e-4  # float32 in another order; hue divides by small numbers
    assert 1 - close.mean() <= except_fraction
    assert difference[close].mean() < 5e-5  # another pixel moves the mean that contrast keeps


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(230, 320), (64, 64), (33, 50), (200, 7), (1, 1)])
def test_resizing_is_that_of_tf_image(shape):
    image = np.ascontiguousarray(FLOWER[: shape[0], : shape[1]])
    assert_close(augment(image, kernels.KEEP, CHANGES[0]), as_input(resized(image)))


@pytest.mark.parametrize("change", CHANGES)
def test_order_b_is_contrast_before_saturation_and_hue(change):
    ours = augment(FLOWER, kernels.ORDER_B, change)
    # tf.image.adjust_hue makes a pixel gray whose hue rounds to a whole turn.
    assert_close(ours, as_input(order_b(resized(), *change)), except_fraction=1e-3)


@pytest.mark.parametrize("change", CHANGES)
def test_order_a_is_rotation_saturation_hue_contrast(change):
    ours = augment(FLOWER, kernels.ORDER_A, change)
    assert_close(ours, as_input(order_a(resized(), *change)), except_fraction=1e-3)


def test_the_orders_differ_in_colors_alone_without_an_angle():
    change = (0.0, *CHANGES[1][1:])
    a, b = (augment(FLOWER, kind, change) for kind in (kernels.ORDER_A, kernels.ORDER_B))
    assert np.abs(a - b).max() > 0.05
    neutral = [augment(FLOWER, kind, CHANGES[0]) for kind in range(3)]
    np.testing.assert_allclose(neutral[1], neutral[0], atol=1e-5)
    np.testing.assert_allclose(neutral[2], neutral[0], atol=1e-5)


def test_gray_and_black_pixels_have_no_hue_to_turn():
    image = np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, 2)
    change = (0.0, -0.1, 1.5, 0.2, 1.0)
    expected = as_input(order_b(resized(image), *change))
    assert_close(augment(image, kernels.ORDER_B, change), expected)
    np.testing.assert_allclose(expected[..., 0], expected[..., 1], atol=1e-5)


def test_mirroring_swaps_left_and_right_before_all_else():
    for kind in range(3):
        mirrored = augment(FLOWER, kind, CHANGES[5], mirror=True)
        flipped = augment(np.ascontiguousarray(FLOWER[:, ::-1]), kind, CHANGES[5])
        np.testing.assert_allclose(mirrored, flipped, atol=2e-4)


def images(options, count=8):
    made = np.empty((count, 8, 8, 3), np.float32)
    seeds = np.array([[7, sample_index] for sample_index in range(count)])
    augmentation.make_images([encoded().numpy()] * count, seeds, options, made)
    return made


@pytest.mark.slow
def test_an_image_is_a_function_of_its_seed_pair():
    first, again = images(Augmentation()), images(Augmentation())
    np.testing.assert_array_equal(first, again)
    assert len({image.tobytes() for image in first}) == 8


def drawn(options, count):
    """Parameters of images from uniform numbers."""
    uniforms = np.random.default_rng(0).uniform(size=(count, 20)).astype(np.float32)
    return augmentation.draw_params(uniforms, np.zeros((count, 2), np.int64), options)


def test_the_released_draw_is_from_three_kinds_and_two_sides():
    params = drawn(Augmentation(), 3000)
    assert np.abs(np.bincount(params["colors"]) / 3000 - 1 / 3).max() < 0.03
    assert abs(params["mirror"].mean() - 0.5) < 0.03


def test_parameters_fill_the_ranges_of_the_specification():
    params = drawn(Augmentation(), 1000)
    ranges = {"angle": (-math.pi / 4, math.pi / 4), "brightness": (-32 / 255, 32 / 255)}
    ranges |= {"saturation": (0.5, 1.5), "hue": (-0.2, 0.2), "contrast": (0.5, 1.5)}
    for name, (low, high) in ranges.items():
        edge = 0.05 * (high - low)
        assert np.float32(low) <= params[name].min() < low + edge
        assert high - edge < params[name].max() <= np.float32(high)


@pytest.mark.slow
def test_pixels_are_pinned():
    """Exact resumes and released recipes rely on them, whatever is added."""
    contents, seeds = tf.fill([1], encoded()), np.array([[1234, 5]])
    uniforms, _ = augmentation.crop_function(Augmentation(), 1)(contents, seeds)
    np.testing.assert_allclose(uniforms[0, : len(UNIFORMS)], UNIFORMS, atol=1e-7)
    means = images(Augmentation(), 2).mean((1, 2, 3))
    np.testing.assert_allclose(means, MEANS, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("area_min", "least_aspect"), [(0.7, 0.97), (0.05, 0.75)])
def test_crops_keep_to_area_and_aspect(area_min, least_aspect):
    contents, options = encoded(), Augmentation(area_min=area_min)
    crop = tf.function(lambda seed: tf.shape(augmentation.random_crop(contents, seed, options)))
    shapes = np.array([crop(tf.constant([3, n], tf.int64)) for n in range(300)])
    height, width = shapes[:, 0], shapes[:, 1]
    area = height * width / (FLOWER.shape[0] * FLOWER.shape[1])
    assert area_min - 0.01 < area.min() < area_min + 0.1
    assert 0.9 < area.max() <= 1
    aspect = width / height
    # No part of 320 x 230 pixels is narrower than 0.97 and keeps 0.7 of the area.
    assert least_aspect - 0.02 < aspect.min() < least_aspect + 0.1
    assert 1.2 < aspect.max() < 1.33 + 0.02


def test_a_crop_that_cannot_be_is_the_whole_image():
    options = Augmentation(aspect_min=8, aspect_max=9)
    crop = augmentation.random_crop(encoded(), tf.constant([3, 4], tf.int64), options)
    assert crop.shape == FLOWER.shape


def test_crops_of_other_formats_are_those_of_jpeg():
    seed = tf.constant([3, 5], tf.int64)
    jpeg, png = (
        augmentation.random_crop(encoded(k), seed, Augmentation()) for k in ("JPEG", "PNG")
    )
    assert jpeg.shape == png.shape
    assert np.abs(jpeg.numpy().astype(int) - png.numpy()).mean() < 5


@pytest.mark.slow
def test_probabilities_of_nought_leave_crop_and_size_alone():
    options = Augmentation(area_min=1, aspect_max=9, flip_probability=0, rotate_probability=0)
    options = dataclasses.replace(options, color_probability=0)
    decoded = tf.io.decode_jpeg(encoded(), dct_method="INTEGER_FAST")
    expected = tf.image.resize(decoded, [8, 8]) / 127.5 - 1
    for image in images(options):
        np.testing.assert_allclose(image, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"area_min": 0.9, "area_max": 0.5}, "--area_min=0.9 to --area_max=0.5 is not a valid"),
        ({"aspect_min": 0}, "--aspect_min=0"),
        ({"contrast_min": 2.0}, "--contrast_min=2.0"),
        ({"rotate_probability": 0.7, "color_probability": 0.5}, "together at most 1"),
    ],
)
def test_contradictions_are_refused(values, message):
    with pytest.raises(UserError, match=message):
        Augmentation(**values)


@pytest.mark.slow
def test_augments_where_no_folder_can_be_written(tmp_path):
    # Files where folders would be: that refuses root, too, as a read-only container does.
    root = Path(__file__).parents[3]
    for name in ("data/__init__.py", "data/common", "data/input"):
        target = tmp_path / name
        target.parent.mkdir(exist_ok=True)
        if (root / name).is_dir():
            shutil.copytree(root / name, target, ignore=shutil.ignore_patterns("__pycache__"))
            (target / "__pycache__").write_text("")
        elif (root / name).exists():
            shutil.copy(root / name, target)
    program = (
        "import numpy as np; from data.input import kernels; out = np.empty((4, 4, 3), np.float32);"
        "names = 'angle', 'brightness', 'saturation', 'hue', 'contrast', 'mirror', 'colors';"
        "params = np.zeros(1, [(name, np.float32) for name in names])[0];"
        "kernels.augment(np.full((8, 8, 3), 255, np.uint8), params, out);"
        "print(out.min(), kernels.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"} | {"HOME": "/dev/null"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"1.0 {tmp_path}/data/input/kernels.py\n"), done
