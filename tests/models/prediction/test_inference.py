"""The network of a checkpoint: parity with NumPy on photographs, folding, what is read from it."""

import numpy as np
import numpy_network
import numpy_preprocessing
import pytest
from PIL import Image
from skimage import data as photographs

from data.input.image_batches import Preparation
from models import resnet
from models.architecture import variable_shapes
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError
from models.prediction import inference
from models.prediction.inference import NetworkOptions, Predictor

CLASSES = 40


def save(folder, depth, width=8, class_num=CLASSES, **meta):
    weights = numpy_network.random_weights(variable_shapes(depth, class_num, width))
    checkpoint.save(folder / "model.ckpt-7", {**weights, "global_step": 7}, meta)
    return weights


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Real photographs as files: color and gray, landscape and portrait, one on its side."""
    folder = tmp_path_factory.mktemp("photos")
    cat, coffee = photographs.chelsea(), photographs.coffee()
    Image.fromarray(cat).save(folder / "cat.jpg", quality=92)
    Image.fromarray(coffee.transpose(1, 0, 2)).save(folder / "tall.png")
    Image.fromarray(photographs.camera()).save(folder / "gray.jpg")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned by 90 degrees
    Image.fromarray(coffee).save(folder / "turned.jpg", exif=turned)
    return sorted(folder.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "width", "ten"), [(50, 16, False), (14, 8, True)])
def test_photographs_give_the_features_of_an_independent_numpy_computation(
    tmp_path, photos, depth, width, ten
):
    weights = save(tmp_path, depth, width)
    loaded = inference.load(str(tmp_path), NetworkOptions())
    prepare = Preparation(loaded.image_size, ten_crop=ten)
    crops = np.stack([prepare(path.read_bytes()) for path in photos])
    pooled = Predictor(loaded.network, "pooled")(crops)
    probabilities = Predictor(loaded.network, "softmax")(crops)

    for path, ours, ranked in zip(photos, pooled, probabilities, strict=True):
        theirs = numpy_network.features(weights, numpy_preprocessing.crops(path, ten=ten), depth)
        theirs = theirs.mean(axis=0)
        scores = theirs @ weights["logits/dense/kernel"] + weights["logits/dense/bias"]
        assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs)
        assert np.dot(ours, theirs) / np.linalg.norm(ours) / np.linalg.norm(theirs) >= 0.9999
        np.testing.assert_array_equal(np.argsort(-ranked)[:5], np.argsort(-scores)[:5])


@pytest.mark.parametrize(
    ("depth", "output"),
    [(14, "stage1"), (14, "logits"), pytest.param(50, "pooled", marks=pytest.mark.slow)],
)
def test_folding_changes_nothing(tmp_path, depth, output):
    save(tmp_path, depth)
    images = np.random.default_rng(1).uniform(-1, 1, (2, 1, 64, 64, 3)).astype(np.float32)
    plain, folded = (
        Predictor(
            inference.load(str(tmp_path), NetworkOptions(fold_batch_norm=fold)).network, output
        )(images)
        for fold in (False, True)
    )
    assert np.abs(plain - folded).max() < 1e-4 * np.abs(plain).max()
    assert not np.array_equal(plain, folded)  # it was folded


def test_folding_takes_two_of_three_batch_norms_of_a_block(tmp_path):
    """The network no longer reads their variables: changing one does not change the features."""
    save(tmp_path, 14)
    network = inference.load(str(tmp_path), NetworkOptions()).network
    images = np.random.default_rng(4).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
    features, read = network.features(images).numpy(), set()
    for name, variable in network.variables_by_name().items():
        if name.endswith("/beta"):
            before = variable.numpy()
            variable.assign(before + 1)
            if not np.array_equal(network.features(images), features):
                read.add(name.removesuffix("/batch_normalization/beta"))
            variable.assign(before)
    # A block's first batch norm, its shortcut's, and the network's last one.
    firsts = {f"stages_{stage}_block_0/conv1_b{i}_bn" for stage in range(4) for i in (1, 2)}
    assert read == firsts | {"global_pool/bn"}


@pytest.mark.slow
def test_scores_and_features_of_the_same_crops_belong_together(tmp_path):
    weights = save(tmp_path, 14)
    network = inference.load(str(tmp_path), NetworkOptions()).network
    crops = np.random.default_rng(2).uniform(-1, 1, (3, 10, 32, 32, 3)).astype(np.float32)
    by_name = {name: Predictor(network, name)(crops) for name in inference.OUTPUTS}
    logits = by_name["pooled"] @ weights["logits/dense/kernel"] + weights["logits/dense/bias"]
    np.testing.assert_allclose(by_name["logits"], logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(by_name["sigmoid"], 1 / (1 + np.exp(-logits)), rtol=1e-4)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        by_name["softmax"], powers / powers.sum(axis=1, keepdims=True), rtol=1e-3
    )
    assert [by_name[f"stage{i}"].shape for i in range(4)] == [(3, 32), (3, 64), (3, 128), (3, 256)]
    unit = Predictor(network, "pooled", l2_normalize=True)(crops)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(
        unit, by_name["pooled"] / np.linalg.norm(by_name["pooled"], axis=1)[:, None], rtol=1e-5
    )


def test_a_batch_of_another_size_gives_the_same_numbers(tmp_path):
    save(tmp_path, 14)
    predict = Predictor(inference.load(str(tmp_path), NetworkOptions()).network, "pooled")
    crops = np.random.default_rng(3).uniform(-1, 1, (5, 1, 32, 32, 3)).astype(np.float32)
    alone = np.concatenate([predict(crops[i : i + 1]) for i in range(5)])
    np.testing.assert_allclose(predict(crops), alone, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_the_checkpoint_tells_depth_classes_and_image_size(tmp_path):
    save(tmp_path, 50, class_num=11, flags={"image_size": 96})
    loaded = inference.load(str(tmp_path), NetworkOptions())
    assert (loaded.network.resnet_size, loaded.network.class_num) == (50, 11)
    assert loaded.image_size == 96
    assert inference.load(str(tmp_path), NetworkOptions(image_size=64)).image_size == 64


def test_a_checkpoint_without_a_side_file_takes_224(tmp_path):
    save(tmp_path, 14)
    (tmp_path / "model.ckpt-7.json").unlink()
    assert inference.load(str(tmp_path), NetworkOptions()).image_size == 224


@pytest.mark.parametrize(("options", "epsilon"), [({}, 0.25), ({"batch_norm_epsilon": 1e-5}, 1e-5)])
@pytest.mark.parametrize("fold", [True, False])
def test_the_checkpoint_tells_the_epsilon_it_was_trained_with(
    tmp_path, monkeypatch, options, epsilon, fold
):
    weights = save(tmp_path, 14, flags={"batch_norm_epsilon": 0.25})
    loaded = inference.load(str(tmp_path), NetworkOptions(fold_batch_norm=fold, **options))
    images = np.random.default_rng(5).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    monkeypatch.setattr(numpy_network, "EPSILON", epsilon)
    expected = numpy_network.features(weights, images, 14)
    found = Predictor(loaded.network, "pooled")(images[:, None])
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("options", "numbers"),
    [
        (NetworkOptions(class_num=1000), ("40 classes", "1000")),
        (NetworkOptions(resnet_size=101), ("depth 14", "101")),
    ],
)
def test_flags_that_disagree_with_the_checkpoint_are_named(tmp_path, options, numbers):
    save(tmp_path, 14)
    with pytest.raises(CheckpointError) as refused:
        inference.load(str(tmp_path), options)
    assert all(number in str(refused.value) for number in numbers)


def test_the_moving_average_of_the_weights_is_taken_on_request(tmp_path):
    weights = numpy_network.random_weights(variable_shapes(14, CLASSES, 8))
    averages = numpy_network.random_weights(variable_shapes(14, CLASSES, 8), seed=9)
    shadow = {
        f"{name}/ExponentialMovingAverage": value
        for name, value in averages.items()
        if "moving_" not in name
    }
    checkpoint.save(tmp_path / "model.ckpt-7", {**weights, **shadow, "global_step": 7}, {})
    for use_ema, expected in ((False, weights), (True, averages)):
        network = inference.load(str(tmp_path), NetworkOptions(use_ema=use_ema)).network
        np.testing.assert_array_equal(
            network.variables_by_name()["logits/dense/kernel"], expected["logits/dense/kernel"]
        )


@pytest.mark.slow
def test_bfloat16_gives_nearly_the_same_features(tmp_path, monkeypatch):
    monkeypatch.setattr(resnet, "fast_dtype", lambda dtype: dtype)  # as a processor that is
    save(tmp_path, 14)
    crops = np.random.default_rng(4).uniform(-1, 1, (2, 1, 64, 64, 3)).astype(np.float32)
    exact, rough = (
        Predictor(
            inference.load(str(tmp_path), NetworkOptions(precision=precision)).network, "pooled"
        )(crops)
        for precision in ("float32", "bfloat16")
    )
    assert rough.dtype == np.float32
    cosine = (exact * rough).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(rough, axis=1)
    assert (cosine > 0.999).all()
    assert (exact != rough).any()
