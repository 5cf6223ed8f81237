"""models/prediction/explain.py: heat maps by hand, and on digits whose place is known."""

import numpy as np
import numpy_network
import pytest
import tensorflow as tf
from PIL import Image
from sklearn.datasets import load_digits

from data.common.errors import UserError
from models.architecture import variable_shapes
from models.checkpoints import checkpoint
from models.prediction import inference
from models.prediction.explain import Explainer
from models.prediction.inference import NetworkOptions
from models.resnet import ResNet

SIDE, CLASSES = 96, 5


def random_image(side=SIDE):
    return np.random.default_rng(1).uniform(-1, 1, (side, side, 3)).astype("f4")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A network with random weights, plain and folded."""
    folder = tmp_path_factory.mktemp("explained")
    weights = numpy_network.random_weights(variable_shapes(14, CLASSES, 8))
    checkpoint.save(folder / "model.ckpt-1", weights, {})
    options = (NetworkOptions(fold_batch_norm=folds) for folds in (False, True))
    return [inference.load(str(folder), o).network for o in options]


def test_the_heat_of_a_linear_classifier_is_its_class_activation_map(loaded):
    """Zhou et al. 2016, in NumPy: cell (i, j) is centered on the pixel (32 i, 32 j)."""
    plain, _ = loaded
    cells = plain.feature_map(random_image()[np.newaxis])[0].numpy()
    evidence = cells @ plain.variables_by_name()["logits/dense/kernel"].numpy()
    classes = np.flatnonzero(evidence.max(axis=(0, 1)) > 0)[:2].tolist()
    heat = Explainer(plain, SIDE)(random_image(), classes)
    assert heat.shape == (2, SIDE, SIDE)
    for own, c in zip(heat, classes, strict=True):
        expected = np.maximum(evidence[..., c], 0)
        np.testing.assert_allclose(own[::32, ::32], expected / expected.max(), atol=1e-5)
        np.testing.assert_allclose(own[16, 0], own[[0, 32], 0].mean(), atol=1e-6)
        assert (own[64:, 64:] == own[64, 64]).all()  # beyond the last cell


@pytest.mark.slow
def test_folded_batch_norm_gives_the_same_heat(loaded):
    plain, folded = (Explainer(network, SIDE)(random_image(), range(CLASSES)) for network in loaded)
    assert plain.max() == 1
    np.testing.assert_allclose(plain, folded, atol=1e-3)


class SquareNet:
    """A backbone whose classifier is not linear: logit c = feature c squared."""

    output_stride = 48

    def feature_map(self, images):
        return tf.constant([[[[1.0, -3], [2, 1]], [[0, 0], [1, 4]]]]) + 0 * tf.reduce_sum(images)

    def logits(self, features):
        return features**2


def test_channels_are_weighted_by_the_gradient():
    heat = Explainer(SquareNet(), SIDE)(random_image(), [0, 1])
    corners = heat[:, ::48, ::48]
    np.testing.assert_allclose(corners[0], [[0.5, 1], [0, 0.5]], atol=1e-6)  # weight 2 x 1
    np.testing.assert_allclose(corners[1], [[0, 0.25], [0, 1]], atol=1e-6)  # weight 2 x 0.5


def test_a_class_without_evidence_is_cold():
    class Against(SquareNet):
        def logits(self, features):
            return -tf.nn.relu(features)

    heat = Explainer(Against(), SIDE)(random_image(), [0])
    assert heat.max() == 0


def test_what_cannot_be_explained_is_refused(loaded):
    with pytest.raises(UserError, match="32 x 32 pixels is a single cell"):
        Explainer(loaded[0], 32)
    with pytest.raises(UserError, match="no feature map"):
        Explainer(object(), SIDE)


def colored_digits(random, numbers, side=128, size=64):
    """Digits, red, green or blue, each somewhere on gray: images, colors, corners (y, x)."""
    digits = load_digits().images
    images = np.zeros((len(numbers), side, side, 3), np.float32)
    colors = random.integers(3, size=len(numbers))
    corners = random.integers(side - size + 1, size=(len(numbers), 2))
    for image, number, color, (y, x) in zip(images, numbers, colors, corners, strict=True):
        ink = Image.fromarray(np.uint8(digits[number] * 15)).resize((size, size))
        image[y : y + size, x : x + size, color] = np.asarray(ink) / 255
    return images, colors, corners


@pytest.mark.slow
def test_the_heat_is_in_the_digit_that_was_asked_for():
    """A few steps teach the network the color of the ink; the place nobody has said to it."""
    network = ResNet(14, 3, width=8, batch_norm_decay=0.8)
    optimizer = tf.keras.optimizers.SGD(0.01, momentum=0.9)
    random = np.random.default_rng(0)

    @tf.function(autograph=False)
    def step(images, colors):
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(colors, logits)
        variables = [*network.trainable_by_name().values()]
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    for _ in range(80):
        images, colors, _ = colored_digits(random, random.integers(1400, size=16))
        step(tf.constant(images), tf.constant(colors))
    images, colors, corners = colored_digits(random, np.arange(1400, 1440))
    predicted = network(tf.constant(images)).numpy().argmax(axis=1)
    assert (predicted == colors).mean() >= 0.9
    explain = Explainer(network, 128)
    inside = 0
    for image, c, corner in zip(images, predicted, corners, strict=True):
        (heat,) = explain(image, [c])
        peak = np.unravel_index(heat.argmax(), heat.shape)
        inside += (corner <= peak).all() and (peak < corner + 64).all()
    assert inside >= 0.9 * len(images)
