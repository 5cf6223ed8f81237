"""The network: spec section 2, to the number, against an independent NumPy evaluation."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_network
import pytest
import tensorflow as tf

from data.common.errors import UserError
from models import resnet
from models.architecture import is_batch_norm, variable_shapes
from models.checkpoints import checkpoint
from models.resnet import ResNet, initial_value

PROJECT = Path(__file__).resolve().parents[2]


def images(count: int = 2, size: int = 33) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def thin(**options) -> ResNet:
    return ResNet(14, 5, **{"width": 8, **options})


def values(network: ResNet) -> dict[str, np.ndarray]:
    return {name: v.numpy() for name, v in network.variables_by_name().items()}


def step(network: ResNet, batch: np.ndarray) -> dict[str, np.ndarray]:
    """The logits of a training step in a graph, and the gradients of their summed squares."""

    @tf.function
    def run(x):
        with tf.GradientTape() as tape:
            logits = network(x, training=True)
            loss = tf.reduce_sum(tf.square(logits))
        return {"logits": logits, **tape.gradient(loss, network.trainable_by_name())}

    return {name: value.numpy() for name, value in run(batch).items()}


def assert_all_close(left: dict, right: dict, tolerance: float) -> None:
    assert left.keys() == right.keys()
    for name in left:
        scale = max(1.0, np.abs(left[name]).max())
        np.testing.assert_allclose(left[name], right[name], atol=tolerance * scale, err_msg=name)


@pytest.mark.parametrize(
    ("depth", "count", "parameters_1000", "parameters_11166"),
    [
        (50, 267, 25_553_064, 46_383_198),
        (101, 522, 44_545_192, 65_375_326),
        (152, 777, 60_188_840, 81_018_974),
    ],
)
def test_variables_and_parameters_of_the_specification(
    depth, count, parameters_1000, parameters_11166
):
    for class_num, parameters in ((1000, parameters_1000), (11166, parameters_11166)):
        shapes = variable_shapes(depth, class_num)
        trainable = [s for n, s in shapes.items() if "/moving_" not in n]
        assert (len(shapes), sum(map(math.prod, trainable))) == (count, parameters)


def test_names_and_shapes_of_the_released_checkpoint():
    shapes = variable_shapes(101, 11166)
    assert shapes["init/init_conv/conv2d/kernel"] == (7, 7, 3, 64)
    assert shapes["stages_0_block_0/conv1_b1_bn/batch_normalization/gamma"] == (64,)
    assert shapes["stages_0_block_0/conv1_b1/conv2d/kernel"] == (1, 1, 64, 256)
    assert shapes["stages_2_block_22/conv1_b2/conv2d/kernel"] == (1, 1, 1024, 256)
    assert shapes["stages_2_block_22/conv2_b2/conv2d/kernel"] == (3, 3, 256, 256)
    assert shapes["stages_2_block_22/conv3_b2_bn/batch_normalization/moving_mean"] == (256,)
    assert shapes["stages_3_block_0/conv1_b1/conv2d/kernel"] == (1, 1, 1024, 2048)
    assert shapes["global_pool/bn/batch_normalization/moving_variance"] == (2048,)
    assert shapes["logits/dense/kernel"] == (2048, 11166)
    assert shapes["logits/dense/bias"] == (11166,)
    assert "stages_2_block_1/conv1_b1/conv2d/kernel" not in shapes


def test_the_network_has_these_variables_and_their_types():
    network = thin(compute_dtype="bfloat16")
    variables = network.variables_by_name()
    assert {n: tuple(v.shape) for n, v in variables.items()} == variable_shapes(14, 5, width=8)
    assert {v.dtype for v in variables.values()} == {tf.float32}
    assert network.trainable_by_name().keys() == {n for n in variables if "/moving_" not in n}
    assert len(network.trainable_variables) == len(network.trainable_by_name())
    norms = {n for n in variables if n.split("/")[-1] in ("gamma", "beta", "moving_mean")}
    assert norms < {n for n in variables if is_batch_norm(n)}
    assert not any(map(is_batch_norm, (n for n in variables if n.endswith(("kernel", "bias")))))


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 101])
def test_a_released_checkpoint_gives_the_logits_of_numpy(tmp_path, depth):
    """Hand-made weights, written by a TF1 graph and Saver, loaded here, evaluated twice."""
    weights = numpy_network.random_weights(variable_shapes(depth, 10))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        placed = {n: tf.compat.v1.placeholder(tf.float32, v.shape) for n, v in weights.items()}
        made = {n: tf.compat.v1.Variable(p, name=n, use_resource=False) for n, p in placed.items()}
        feed = {placed[n]: v for n, v in weights.items()}
        session.run([variable.initializer for variable in made.values()], feed)
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "released"))
    network = ResNet(depth, 10)
    checkpoint.restore(tmp_path / "released", network.variables_by_name())
    expected = numpy_network.logits(weights, images(size=32), depth)
    found = network(images(size=32)).numpy()
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.std(expected, axis=0).min() > 1e-3  # the images differ


@pytest.mark.parametrize("size", [32, 33, 65, 299])
def test_padding_is_numpys_at_any_size(size):
    network = thin()
    batch = images(1, size)
    expected = numpy_network.features(values(network), batch, 14)
    np.testing.assert_allclose(network.features(batch), expected, atol=1e-5)


def test_features_logits_and_stages_are_separate():
    network, batch = thin(), images()
    features = network.features(batch)
    assert features.shape == (2, 256)
    np.testing.assert_array_equal(network.logits(features), network(batch))
    assert [network.stage_features(batch, s).shape[1] for s in range(4)] == [32, 64, 128, 256]
    means = tf.reduce_mean(network.feature_map(batch), [1, 2])
    np.testing.assert_allclose(means, network.features(batch), rtol=1e-5, atol=1e-6)
    with pytest.raises(UserError, match="stage is 4"):
        network.stage_features(batch, 4)


def test_moving_statistics_are_numpys():
    """decay * old + (1 - decay) * batch; the variance is unbiased, as TF1's fused batch norm's."""
    network = thin(batch_norm_decay=0.9)
    kernel = network.variables_by_name()["init/init_conv/conv2d/kernel"].numpy()
    network(images(), training=True)
    stem = numpy_network.convolve(images().astype(np.float64), kernel, 2).reshape(-1, 8)
    after = values(network)
    for conv in ("conv1_b1", "conv1_b2"):  # both norms that see the stem's output
        base = f"stages_0_block_0/{conv}_bn/batch_normalization"
        np.testing.assert_allclose(after[f"{base}/moving_mean"], 0.1 * stem.mean(0), atol=1e-5)
        expected = 0.9 + 0.1 * stem.var(axis=0, ddof=1)
        np.testing.assert_allclose(after[f"{base}/moving_variance"], expected, rtol=1e-5)


@pytest.mark.slow
def test_inference_and_frozen_training_leave_the_statistics_alone():
    network, frozen = thin(), thin(freeze_batch_norm=True)
    before = values(network)
    inference = network(images()).numpy()
    found = step(frozen, images())
    np.testing.assert_allclose(found["logits"], inference, atol=1e-6)
    assert_all_close(values(frozen), before, 0)
    assert_all_close(values(network), before, 0)
    assert np.abs(found["stages_0_block_0/conv1_b2_bn/batch_normalization/gamma"]).max() > 0


@pytest.fixture(params=["units", "no units"])
def sixteen_bit_units(request, monkeypatch):
    """A processor that computes in 16 bits, and one that is slower in them than in float32."""
    has_units = request.param == "units"
    monkeypatch.setattr(resnet, "fast_dtype", lambda dtype: dtype if has_units else tf.float32)
    return has_units


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("recompute", [False, True])
def test_every_parameter_has_a_float32_gradient(sixteen_bit_units, dtype, recompute):
    found = step(thin(compute_dtype=dtype, recompute=recompute), images(4))
    assert found.keys() == {"logits", *thin().trainable_by_name()}
    for name, gradient in found.items():
        assert gradient.dtype == np.float32, name
        assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0, name


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.06), ("float16", 0.01)])
def test_lower_precision_is_near_float32(sixteen_bit_units, dtype, tolerance):
    for training in (False, True):
        exact = thin()(images(4), training).numpy()
        near = thin(compute_dtype=dtype)(images(4), training)
        assert near.dtype == tf.float32
        error = np.abs(near - exact).max()
        assert error < tolerance * np.abs(exact).max()
        assert sixteen_bit_units == (error > 0)


@pytest.mark.slow
def test_synchronized_batch_norm_alone_is_the_fused_one():
    fused, synchronized = thin(), thin(reduce_moments=lambda moments: moments)
    found, expected = step(synchronized, images(4)), step(fused, images(4))
    assert_all_close(found, expected, 1e-4)  # gradients carry the rounding of 20 layers
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-5)
    assert_all_close(values(fused), values(synchronized), 1e-5)


def test_synchronized_batch_norm_counts_all_workers():
    """Two workers with the same batch are one worker with that batch twice."""
    one = thin()
    worker = thin(reduce_moments=lambda moments: moments, moment_workers=2)
    twice = one(np.concatenate([images(), images()]), training=True).numpy()
    np.testing.assert_allclose(worker(images(), training=True), twice[:2], atol=1e-5)
    assert_all_close(values(one), values(worker), 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("jit", [False, "autoclustering"])
def test_recomputation_changes_neither_gradients_nor_statistics(jit):
    tf.config.optimizer.set_jit(jit)
    try:
        plain, again = thin(), thin(recompute=True)
        assert_all_close(step(plain, images(4)), step(again, images(4)), 1e-5)
        assert_all_close(values(plain), values(again), 1e-6)
    finally:
        tf.config.optimizer.set_jit(False)


def test_initial_values_depend_on_the_name_and_the_seed_alone():
    shape = (3, 3, 128, 128)
    name = "stages_1_block_1/conv2_b2/conv2d/kernel"
    kernel = initial_value(name, shape, seed=1).numpy()
    np.testing.assert_array_equal(kernel, initial_value(name, shape, seed=1))
    assert np.abs(kernel - initial_value(name, shape, seed=2)).max() > 0
    assert np.abs(kernel - initial_value(name.replace("b2/", "b3/"), shape, seed=1)).max() > 0
    stddev = math.sqrt(1 / (9 * 128))
    assert kernel.std() == pytest.approx(stddev, rel=0.01)
    assert np.abs(kernel).max() < 2 * stddev / 0.8796
    dense = initial_value("logits/dense/kernel", (2048, 100), seed=1).numpy()
    limit = math.sqrt(6 / 2148)
    assert limit * 0.99 < dense.max() <= limit and dense.min() > -limit
    assert dense.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)


def test_initial_norms_are_neutral_and_the_bias_is_zero():
    expected = {"gamma": 1, "beta": 0, "moving_mean": 0, "moving_variance": 1, "bias": 0}
    for name, value in values(thin()).items():
        if (part := name.split("/")[-1]) in expected:
            np.testing.assert_array_equal(value, np.full(value.shape, expected[part]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resnet_size": 34}, r"resnet_size is 34: use one of \[14, 50, 101, 152\]"),
        ({"data_format": "NCWH"}, "data_format is 'NCWH': use NHWC or NCHW"),
        ({"data_format": "NCHW"}, "needs a GPU, but none is visible: use NHWC"),
        ({"compute_dtype": "float64"}, "compute_dtype is float64: use one of float32, bfloat16"),
        ({"class_num": 0}, "class_num is 0"),
    ],
)
def test_what_cannot_be_built_is_refused_before_anything_is(monkeypatch, options, message):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    monkeypatch.setattr(tf, "Variable", lambda *_, **__: pytest.fail("something was built"))
    with pytest.raises(UserError, match=message):
        ResNet(**{"resnet_size": 14, "class_num": 5, **options})


CHANNELS_FIRST = """
import tensorflow as tf
from test_resnet import assert_all_close, images, step, thin
tf.config.list_physical_devices = lambda kind: ["a GPU"]
assert_all_close(step(thin(), images()), step(thin(data_format="NCHW"), images()), 1e-4)
"""

# The allocator gives nothing back: what spares memory must come first.
PEAKS = """
from benchmarks.harness import memory_bytes
from test_resnet import images, step, thin
for options in {"recompute": True}, {}:
    step(thin(**options), images(96, 224))
    print(memory_bytes("VmHWM"))
"""


def printed_by(program: str) -> str:
    """What a Python program prints that has oneDNN, as the scripts do, and may import tests."""
    environment = {
        **os.environ,
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "PYTHONPATH": f"{PROJECT}:{PROJECT}/tests:{Path(__file__).parent}",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=PROJECT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_channels_first_equals_channels_last():
    """Without a GPU, too: oneDNN, switched on, has the operations in both formats."""
    printed_by(CHANNELS_FIRST)


@pytest.mark.slow
def test_recomputation_spares_memory():
    """Batch norm's outputs, 290 MiB here, are not kept; at the peak other tensors live, too."""
    recomputed, plain = map(int, printed_by(PEAKS).split())
    assert plain - recomputed > 80 << 20
