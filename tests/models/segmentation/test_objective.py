"""The loss of segmentation against NumPy and by hand."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from data.common.errors import UserError
from data.dense.annotation import IGNORED
from data.outputs.dense_files import OVERLAY, palette
from models.distributed.base import SingleProcess
from models.segmentation.objective import SegmentationObjective, pixel_cross_entropy


class Batch(NamedTuple):
    images: tf.Tensor
    masks: tf.Tensor


def test_the_loss_is_numpys():
    draw = np.random.default_rng(2)
    logits = draw.normal(0, 3, (3, 5, 7, 4)).astype(np.float32)
    masks = draw.integers(0, 4, (3, 5, 7))
    masks[0, :4], masks[1, :, 2] = IGNORED, IGNORED
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    means = []
    for own, mask in zip(probabilities, masks, strict=True):
        pixels = [-np.log(own[y, x, mask[y, x]]) for y, x in np.argwhere(mask != IGNORED)]
        means.append(np.mean(pixels))
    found = pixel_cross_entropy(tf.constant(logits), tf.constant(masks, tf.int32))
    assert float(found) == pytest.approx(np.mean(means), rel=1e-5)


def test_ignored_pixels_add_neither_loss_nor_gradient():
    masks = tf.constant([[[0, IGNORED]]])
    logits = tf.Variable(tf.math.log([[[[1.0, 3.0], [5.0, 1.0]]]]))
    with tf.GradientTape() as tape:
        loss = pixel_cross_entropy(logits, masks)
    assert float(loss) == pytest.approx(np.log(4), rel=1e-6)
    np.testing.assert_allclose(
        tape.gradient(loss, logits)[0, 0], [[-0.75, 0.75], [0, 0]], atol=1e-6
    )


def test_an_image_without_a_labeled_pixel_adds_zero():
    masks = tf.constant([[[IGNORED, IGNORED]], [[0, IGNORED]]])
    logits = tf.Variable(tf.zeros([2, 1, 2, 2]))
    with tf.GradientTape() as tape:
        loss = pixel_cross_entropy(logits, masks)
    assert float(loss) == pytest.approx(np.log(2) / 2)
    gradient = tape.gradient(loss, logits).numpy()
    assert np.isfinite(gradient).all() and not gradient[0].any()
    assert float(pixel_cross_entropy(logits[:1], masks[:1])) == 0


def test_the_loss_is_in_float32():
    logits = tf.constant([[[[600.0, -600.0]]]], tf.float16)
    loss = pixel_cross_entropy(logits, tf.constant([[[1]]]))
    assert (loss.dtype, float(loss)) == (tf.float32, 1200)


@pytest.mark.parametrize("wrong", [-1, 3, 254, 256])
def test_masks_with_unknown_classes(wrong):
    objective = SegmentationObjective(3)
    images = tf.zeros([1, 1, 2, 3])
    objective.check(Batch(images, tf.constant([[[2, IGNORED]]])))
    with pytest.raises(UserError, match=f"class {wrong}, but classes are 0 to 2, and 255 where"):
        objective.check(Batch(images, tf.constant([[[0, wrong]]])))


def test_the_trainers_protocol():
    objective, images = SegmentationObjective(3), tf.zeros([2, 4, 4, 3])
    batch = Batch(images, tf.zeros([2, 4, 4], tf.int32))
    seen = []

    def network(images, training):
        seen.append(training)
        return images

    assert objective.begin_step(batch, tf.constant(0), SingleProcess()) is None
    loss, parts = objective.loss(network, batch)
    assert float(loss) == pytest.approx(np.log(3)) and parts == {} and objective.state == {}
    assert seen == [True]


def test_a_preview_shows_the_masks():
    masks = np.array([[[0, 1], [2, IGNORED]]])
    drawn = SegmentationObjective(3).preview(Batch(tf.zeros([1, 2, 2, 3]), tf.constant(masks)))
    colors = palette()[masks] / 127.5 - 1
    np.testing.assert_allclose(drawn[0, 0, 0], 0, atol=2 / 255)
    np.testing.assert_allclose(drawn[masks > 0], OVERLAY * colors[masks > 0], atol=2 / 255)
