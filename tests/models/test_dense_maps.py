"""Maps for dense prediction: output strides 16 and 8 of the same variables, and stages by parts."""

import numpy as np
import pytest
import tensorflow as tf

from data.common.errors import UserError
from models.architecture import FINAL_NORM, blocks
from models.layers import convolve
from models.resnet import ResNet


def network(output_stride: int = 32, **options) -> ResNet:
    made = ResNet(14, 5, width=16, output_stride=output_stride, **options)
    rng = np.random.default_rng(3)  # statistics that are not 0 and 1
    for name, variable in made.variables_by_name().items():
        if "/moving_" in name or name.endswith(("/gamma", "/beta")):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return made


def images(size: int) -> np.ndarray:
    return np.random.default_rng(7).uniform(-1, 1, (2, size, size + 32, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [64, 97])
@pytest.mark.parametrize(("output_stride", "every"), [(16, 2), (8, 4)])
def test_a_dilated_map_has_the_undilated_one_in_it(output_stride, every, size):
    strided = network().stage_maps(images(size))
    dilated = network(output_stride).stage_maps(images(size))
    assert dilated[-1].shape[1] == -(-size // output_stride)
    shown = dilated[-1][:, ::every, ::every]
    scale = np.abs(strided[-1]).max()
    np.testing.assert_allclose(shown, strided[-1], atol=1e-5 * scale)
    for ours, theirs in zip(dilated[:2], strided[:2], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_every_second_position_of_stride_16_is_exact():
    shown = network(16).stage_maps(images(64))[-1][:, ::2, ::2]
    strided = network().stage_maps(images(64))[-1]
    np.testing.assert_allclose(shown, strided, rtol=0, atol=2e-6 * np.abs(strided).max())


def test_dilation_begins_after_the_kernel_that_lost_its_stride():
    kernels = [block.branch[1] for block in blocks(50, output_stride=8)]
    by_stage = {}
    for unit in kernels:
        by_stage.setdefault(unit.name[7], []).append((unit.stride, unit.dilation))
    assert by_stage["1"] == [(2, 1)] + [(1, 1)] * 3
    assert by_stage["2"] == [(1, 1)] + [(1, 2)] * 5
    assert by_stage["3"] == [(1, 2)] + [(1, 4)] * 2
    with pytest.raises(UserError, match="output_stride is 4: use one of"):
        blocks(50, output_stride=4)


def test_the_parts_make_the_whole():
    """Maps, stage 3 on them, the last batch norm and the mean are the features."""
    net = network()
    maps = net.stage_maps(images(64), stages=3)
    assert [m.shape[-1] for m in maps] == [64, 128, 256]
    last = net.run_stage(maps[-1], 3, stride=2)
    features = tf.reduce_mean(net.norm_relu(last, FINAL_NORM), [1, 2])
    np.testing.assert_allclose(features, net.features(images(64)), rtol=1e-5)
    assert net.run_stage(maps[-1], 3).shape[1:3] == maps[-1].shape[1:3]


def test_training_moves_the_statistics_of_the_parts_that_run():
    net = network()
    before = {name: v.numpy() for name, v in net.variables_by_name().items()}
    net.run_stage(net.stage_maps(images(64), training=True, stages=1)[0], 1, training=True)
    moved = {
        name.split("_block")[0]
        for name, v in net.variables_by_name().items()
        if not np.array_equal(before[name], v)
    }
    assert moved == {"stages_0", "stages_1"}


@pytest.mark.parametrize("dilation", [2, 4])
def test_dilated_convolution_and_its_gradients(dilation):
    """Against the same kernel with zeros between its taps."""
    rng = np.random.default_rng(1)
    x = tf.constant(rng.normal(size=(2, 13, 17, 5)), tf.float32)
    kernel = tf.constant(rng.normal(size=(3, 3, 5, 7)), tf.float32)

    def spread(kernel):
        size = 2 * dilation + 1
        where = [[dilation * i, dilation * j] for i in range(3) for j in range(3)]
        return tf.scatter_nd(where, tf.reshape(kernel, [9, 5, 7]), [size, size, 5, 7])

    results = []
    for run in (lambda k: convolve(x, k, dilation=dilation), lambda k: convolve(x, spread(k))):
        with tf.GradientTape() as tape:
            tape.watch([x, kernel])
            y = run(kernel)
            loss = tf.reduce_sum(tf.sin(y))
        results.append([y, *tape.gradient(loss, [x, kernel])])
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
