"""The inference preprocessing against an independent computation in NumPy."""

import io

import numpy as np
import numpy_preprocessing
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.input import preprocess

CHINA = sklearn.datasets.load_sample_image("china.jpg")


@pytest.mark.parametrize("ten", [False, True])
@pytest.mark.parametrize(
    ("shape", "size"), [((427, 640), 224), ((300, 201), 64), ((20, 31), 64), ((90, 90), 299)]
)
def test_crops_are_those_of_numpy(tmp_path, shape, size, ten):
    image = CHINA[: shape[0], : shape[1]]
    Image.fromarray(image).save(tmp_path / "image.png")
    expected = numpy_preprocessing.crops(tmp_path / "image.png", size, ten)
    ours = preprocess.inference_crops(image, size, 10 if ten else 1)
    assert ours.shape == (10 if ten else 1, size, size, 3)
    assert ours.dtype == tf.float32
    np.testing.assert_allclose(ours, expected, atol=5e-5)


@pytest.mark.parametrize(
    ("size", "height", "width", "resized"),
    [(224, 427, 640, (256, 383)), (224, 640, 427, (383, 256)), (299, 500, 333, (512, 341))],
)
def test_the_short_side_is_256_of_224_and_the_long_one_truncated(size, height, width, resized):
    # A ramp shows how far the crop begins from the edge of the resized image.
    rows = np.broadcast_to(np.linspace(0, 255, height)[:, None, None], (height, width, 3))
    top = preprocess.inference_crops(rows.astype(np.uint8), size)[0, 0, 0, 0]
    offset = (resized[0] - size) // 2
    expected = ((offset + 0.5) * height / resized[0] - 0.5) / (height - 1) * 2 - 1
    assert abs(float(top) - expected) < 0.01


def test_ten_crops_are_corners_centre_and_their_mirrors():
    crops = preprocess.inference_crops(CHINA, 224, 10).numpy()
    np.testing.assert_array_equal(crops[5:], crops[:5, :, ::-1])
    np.testing.assert_array_equal(crops[4:5], preprocess.inference_crops(CHINA, 224))
    left, right = crops[0], crops[1]
    assert np.abs(left - right).mean() > 0.1


def test_other_numbers_of_crops_are_refused():
    with pytest.raises(UserError, match="5 crops: use 1 or 10"):
        preprocess.inference_crops(CHINA, 224, 5)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("GIF", "P")],
)
def test_decoding_gives_rgb(kind, mode):
    data = io.BytesIO()
    Image.fromarray(CHINA[:60, :80]).convert(mode).save(data, kind)
    decoded = preprocess.decode(tf.constant(data.getvalue()))
    assert decoded.dtype == tf.uint8
    expected = np.asarray(Image.open(data).convert("RGB"), int)
    assert np.abs(decoded.numpy() - expected).mean() < 2
