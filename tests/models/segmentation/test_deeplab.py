"""DeepLabv3's head and its inference, on a tiny backbone."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from data.common.errors import UserError
from data.dense.annotation import IGNORED
from models.architecture import kernel_name, norm_names
from models.distributed.base import SingleProcess
from models.resnet import ResNet
from models.segmentation import deeplab
from models.segmentation.deeplab import DeepLab, DeepLabOptions
from models.segmentation.objective import SegmentationObjective
from models.training.optimizers import Optimizer, OptimizerOptions
from models.training.trainer import Trainer

CLASSES = 4
SMALL = DeepLabOptions(filters=8, rates=(1, 2))


class Scenes(NamedTuple):
    images: tf.Tensor
    masks: tf.Tensor


def network_of(output_stride: int = 16, options: DeepLabOptions = SMALL, **backbone) -> DeepLab:
    backbone = {"width": 8, "seed": 5, "output_stride": output_stride, **backbone}
    return DeepLab(ResNet(14, 7, **backbone), CLASSES, options, seed=6)


def images(count: int = 2, height: int = 49, width: int = 65) -> np.ndarray:
    return np.random.default_rng(3).uniform(-1, 1, (count, height, width, 3)).astype(np.float32)


def scenes(count: int = 2, side: int = 33) -> Scenes:
    """Random masks, of which the first is ignored for the most part."""
    draw = np.random.default_rng(4)
    masks = draw.integers(0, CLASSES, (count, side, side))
    masks[0, :25] = IGNORED
    return Scenes(tf.constant(images(count, side, side)), tf.constant(masks, tf.int32))


def gradients(network: DeepLab, batch: Scenes) -> dict[str, np.ndarray]:
    """The loss and the gradients of all variables of the network, None where there is none."""
    every = network.variables_by_name() | network.backbone.variables_by_name()

    @tf.function
    def run(batch):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(list(every.values()))
            loss, _ = SegmentationObjective(CLASSES).loss(network, batch)
        return {"loss": loss, **tape.gradient(loss, every)}

    return {name: v if v is None else v.numpy() for name, v in run(batch).items()}


def roughen(network: DeepLab) -> None:
    """Gives the batch norms and the logits other values than their first ones."""
    draw = np.random.default_rng(8)
    for name, variable in network.variables_by_name().items():
        if "/batch_normalization/" in name or name == deeplab.LOGITS_BIAS:
            low, high = (0.5, 1.5) if name.endswith(("gamma", "variance")) else (-0.3, 0.3)
            variable.assign(draw.uniform(low, high, variable.shape))
        elif name == deeplab.LOGITS_KERNEL:
            variable.assign(variable * 300)


@pytest.mark.parametrize(("height", "width"), [(49, 65), (50, 47), (16, 17), (1, 3)])
def test_logits_have_the_size_of_the_image(height, width):
    logits = network_of()(images(2, height, width))
    assert (logits.shape, logits.dtype) == ((2, height, width, CLASSES), tf.float32)


def test_variables_are_the_backbones_without_logits_and_the_heads():
    network = DeepLab(ResNet(14, 7, width=8, output_stride=16), 21)
    shapes = {name: tuple(v.shape) for name, v in network.variables_by_name().items()}
    head = {name: shape for name, shape in shapes.items() if name.startswith("segmentation/")}
    backbone = network.backbone.variables_by_name().keys()
    assert shapes.keys() - head.keys() == {n for n in backbone if not n.startswith("logits/")}
    kernels = {name: shape for name, shape in head.items() if name.endswith("kernel")}
    aspp = "segmentation/aspp"
    assert kernels == {
        f"{aspp}/pointwise/conv2d/kernel": (1, 1, 256, 256),
        f"{aspp}/atrous1/conv2d/kernel": (3, 3, 256, 256),
        f"{aspp}/atrous2/conv2d/kernel": (3, 3, 256, 256),
        f"{aspp}/atrous3/conv2d/kernel": (3, 3, 256, 256),
        f"{aspp}/image/conv2d/kernel": (1, 1, 256, 256),
        f"{aspp}/projection/conv2d/kernel": (1, 1, 1280, 256),
        "segmentation/logits/kernel": (1, 1, 256, 21),
    }
    assert head["segmentation/logits/bias"] == (21,)
    assert len(head) == 7 + 1 + 6 * 4
    trained = network.trainable_by_name().keys()
    assert trained == {name for name in shapes if "/moving_" not in name}


def test_initial_values_are_functions_of_name_and_seed():
    one, other = network_of(), network_of(output_stride=8)
    for name, value in one.variables_by_name().items():
        np.testing.assert_array_equal(value, other.variables_by_name()[name], err_msg=name)
    kernel = DeepLab(one.backbone, 100).variables_by_name()[deeplab.LOGITS_KERNEL].numpy()
    assert abs(kernel.std() - 0.01) < 2e-4 and abs(kernel.mean()) < 2e-4
    kernel = one.variables_by_name()[kernel_name(deeplab.PROJECTION)].numpy()
    assert abs(kernel.std() * np.sqrt(4 * 8) - 1) < 0.2


def test_interpolation_is_numpys_with_clamped_edges():
    """Map pixel i is the image's pixel 16 i: also where that is not corners on corners."""
    draw = np.random.default_rng(1)
    for height, width in ((513, 33), (40, 49), (1, 15), (64, 31)):
        maps = draw.normal(0, 1, (2, -(-height // 16), -(-width // 16), 3)).astype(np.float32)
        positions = (np.arange(n, dtype=np.float32) / 16 for n in (height, width))
        found = deeplab.interpolate(tf.constant(maps), *positions)
        rows, columns = (weights_of(n, 16) for n in (height, width))
        expected = np.einsum("yi,xj,bijc->byxc", rows, columns, maps)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    maps = tf.constant(draw.normal(0, 1, (1, 33, 33, 2)), tf.float32)
    corners = tf.compat.v1.image.resize_bilinear(maps, [513, 513], align_corners=True)
    positions = np.arange(513, dtype=np.float32) / 16
    np.testing.assert_allclose(deeplab.interpolate(maps, positions, positions), corners, atol=1e-5)


def weights_of(size: int, stride: int) -> np.ndarray:
    """[size, ceil(size / stride)]: how much of each map pixel there is in each pixel."""
    maps = -(-size // stride)
    weights = np.zeros((size, maps))
    for y in range(size):
        low, part = y // stride, y % stride / stride
        weights[y, low] += 1 - part
        weights[y, min(low + 1, maps - 1)] += part
    return weights


def test_the_head_is_numpys():
    """The pyramid of a map, pixel by pixel, in float64."""
    network = network_of(options=DeepLabOptions(filters=8, rates=(1, 3)))
    roughen(network)
    batch = images(2, 49, 65)
    found = network(batch)[:, ::16, ::16]
    x = network.backbone.stage_maps(tf.constant(batch))[-1]
    x = network.backbone.norm_relu(x, "global_pool/bn").numpy().astype(np.float64)
    head = {name: v.numpy().astype(np.float64) for name, v in network.variables_by_name().items()}

    def unit(x, name, rate=1):
        kernel = head[kernel_name(name)]
        side = rate * (kernel.shape[0] // 2)
        padded = np.pad(x, ((0, 0), (side, side), (side, side), (0, 0)))
        y = 0
        for i, j in np.ndindex(kernel.shape[:2]):
            part = padded[:, i * rate : i * rate + x.shape[1], j * rate : j * rate + x.shape[2]]
            y = y + part @ kernel[i, j]
        gamma, beta, mean, variance = (head[n] for n in norm_names(f"{name}_bn"))
        return np.maximum((y - mean) / np.sqrt(variance + 1e-5) * gamma + beta, 0)

    aspp = "segmentation/aspp"
    branches = [unit(x, f"{aspp}/pointwise")]
    branches += [unit(x, f"{aspp}/atrous1", 1), unit(x, f"{aspp}/atrous2", 3)]
    pooled = unit(x.mean((1, 2), keepdims=True), f"{aspp}/image")
    branches.append(np.broadcast_to(pooled, branches[0].shape))
    y = unit(np.concatenate(branches, 3), f"{aspp}/projection")
    expected = y @ head[deeplab.LOGITS_KERNEL][0, 0] + head[deeplab.LOGITS_BIAS]
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert np.std(expected, (0, 1, 2)).min() > 0.1


def test_output_stride_8_refines_output_stride_16():
    """Every second pixel of its map is the map's of 16: the rates are doubled."""
    coarse, fine = network_of(16), network_of(8)
    for network in (coarse, fine):
        roughen(network)
        for name in norm_names(f"{deeplab.IMAGE}_bn")[:2]:  # its mean is over other pixels
            variable = network.variables_by_name()[name]
            variable.assign(tf.zeros_like(variable))
    batch = images(2, 65, 81)
    left, right = coarse(batch), fine(batch)
    np.testing.assert_allclose(left[:, ::16, ::16], right[:, ::16, ::16], atol=1e-4)
    assert np.abs(left - right).max() > 0.01


@pytest.mark.slow
def test_every_variable_learns_and_no_other_one():
    found = gradients(network_of(), scenes(3))
    trained = network_of().trainable_by_name().keys()
    assert {name for name, value in found.items() if value is not None} - {"loss"} == trained
    assert [name for name in trained if not np.abs(found[name]).max() > 0] == []


@pytest.mark.slow
def test_two_images_are_the_mean_of_one_and_one():
    """Frozen batch norms: so workers and micro-batches add up, whatever is ignored where."""
    network, both = network_of(freeze_batch_norm=True), scenes(2)
    roughen(network)
    together = gradients(network, both)
    one, other = (gradients(network, Scenes(*(t[i : i + 1] for t in both))) for i in range(2))
    for name in ("loss", *network.trainable_by_name()):
        mean = (one[name] + other[name]) / 2
        scale = np.abs(mean).max()
        assert scale > 0
        np.testing.assert_allclose(together[name], mean, atol=1e-5 * scale, err_msg=name)


@pytest.mark.parametrize("frozen", [False, True])
def test_training_moves_the_heads_statistics(frozen):
    network = network_of(batch_norm_decay=0.9, freeze_batch_norm=frozen)
    batch = tf.constant(images(3))
    x = network.backbone.stage_maps(batch, training=not frozen)[-1]
    x = network.backbone.norm_relu(x, "global_pool/bn", training=not frozen)
    y = tf.reshape(x, [-1, 256]) @ network.variables_by_name()[kernel_name(deeplab.POINTWISE)][0, 0]
    network(batch, training=True)
    decay = 1.0 if frozen else 0.9
    mean, variance = (
        network.variables_by_name()[n] for n in norm_names(f"{deeplab.POINTWISE}_bn")[2:]
    )
    np.testing.assert_allclose(mean, (1 - decay) * np.mean(y, 0), atol=1e-5)
    expected = decay + (1 - decay) * np.var(y, 0, ddof=1)
    np.testing.assert_allclose(variance, expected, rtol=1e-4)
    names = [f"{norm}_bn" for norm in (deeplab.IMAGE, deeplab.PROJECTION)]
    statistics = [network.variables_by_name()[n] for norm in names for n in norm_names(norm)[2:]]
    fresh = [1.0 if "variance" in v.name else 0.0 for v in statistics]
    moved = [bool(np.any(v != f)) for v, f in zip(statistics, fresh, strict=True)]
    assert moved == [not frozen] * 4


@pytest.mark.slow
def test_inference_in_one_scale_is_the_softmax_of_the_logits():
    network = network_of()
    roughen(network)
    batch = images(2, 50, 47)
    found = network.probabilities(batch)
    np.testing.assert_allclose(found, tf.nn.softmax(network(batch)), atol=1e-5)


@pytest.mark.slow
def test_inference_averages_scales_and_flips():
    """Logits are read where an image's pixel is in the scaled image: corners on corners."""
    network = network_of()
    roughen(network)
    batch = tf.constant(images(1, 33, 49))
    found = network.probabilities(batch, scales=(0.5, 1.5), flip=True).numpy()
    parts = []
    for height, width in ((17, 25), (49, 73)):
        scaled = tf.compat.v1.image.resize_bilinear(batch, [height, width], align_corners=True)
        for turn in (lambda x: x, lambda x: tf.reverse(x, [2])):
            logits = network(turn(scaled))[:, ::16, ::16]
            rows, columns = (
                np.linspace(0, (n - 1) / 16, full, dtype=np.float32)
                for n, full in ((height, 33), (width, 49))
            )
            parts.append(tf.nn.softmax(turn(deeplab.interpolate(logits, rows, columns))))
    np.testing.assert_allclose(found, np.mean(parts, 0), atol=1e-5)
    np.testing.assert_allclose(found.sum(-1), np.ones((1, 33, 49)), atol=1e-5)
    one = network.probabilities(batch, scales=(0.5,)).numpy()
    np.testing.assert_allclose(one, parts[0], atol=1e-5)


@pytest.mark.slow
def test_the_mirror_image_has_the_mirrored_probabilities():
    network = network_of()
    roughen(network)
    batch = tf.constant(images(1, 30, 39))
    found, mirrored = (
        network.probabilities(x, deeplab.VOC_SCALES, flip=True)
        for x in (batch, tf.reverse(batch, [2]))
    )
    np.testing.assert_allclose(found, tf.reverse(mirrored, [2]), atol=1e-5)


@pytest.mark.parametrize("output_stride", [16, 8])
def test_a_symmetric_network_sees_a_symmetric_image(output_stride):
    """Of a width of 16 k + 1; shows that no layer shifts the map."""
    network = network_of(output_stride)
    roughen(network)
    for name, variable in network.variables_by_name().items():
        if name.endswith("conv2d/kernel"):
            variable.assign((variable + tf.reverse(variable, [1])) / 2)
    half = images(1, 33, 25)
    symmetric = np.concatenate([half, half[:, :, -2::-1]], axis=2)
    logits = network(symmetric).numpy()
    assert logits.std() > 0.1
    np.testing.assert_allclose(logits, logits[:, :, ::-1], atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: network_of(32), "output_stride is 32: DeepLab needs 16 or 8"),
        (lambda: DeepLabOptions(filters=0), "filters is 0"),
        (lambda: DeepLabOptions(rates=(6, 0)), r"rates are \(6, 0\)"),
        (lambda: network_of().probabilities(images(), scales=(1.0, 0.0)), r"scales are \[1.0, 0"),
        (lambda: network_of().probabilities(images(), scales=()), r"scales are \[\]"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


def test_bfloat16_is_near_float32():
    exact, near = network_of(), network_of(compute_dtype="bfloat16")
    assert near.compute_dtype == tf.bfloat16
    for network in (exact, near):
        roughen(network)
    batch = images(1)
    full, rough = exact(batch), near(batch)
    assert rough.dtype == tf.float32
    assert np.abs(full - rough).max() < 0.1 * np.abs(full).max()


@pytest.mark.slow
def test_it_learns_a_scene():
    """Disks and a bar in three classes on noise, in 65 x 65 pixels."""
    draw = np.random.default_rng(0)
    y, x = np.mgrid[:65, :65]
    masks = np.zeros((2, 65, 65), np.int32)
    masks[0][(y - 20) ** 2 + (x - 25) ** 2 < 200] = 1
    masks[0][45:60] = 2
    masks[1][:, 40:55] = 2
    masks[1][(y - 40) ** 2 + (x - 15) ** 2 < 150] = 3
    masks[:, :3] = IGNORED
    colors = np.array([[0, 0, 0], [0.9, -0.5, 0], [-0.5, 0.8, 0], [0, 0, -0.9]])
    pixels = colors[np.where(masks == IGNORED, 0, masks)] + draw.normal(0, 0.1, (2, 65, 65, 3))
    batch = Scenes(tf.constant(pixels, tf.float32), tf.constant(masks))
    network = network_of(8, DeepLabOptions(filters=16, rates=(1, 2, 3)), batch_norm_decay=0.9)
    trainer = Trainer(
        network,
        SegmentationObjective(CLASSES),
        Optimizer(network.trainable_by_name(), OptimizerOptions()),
        SingleProcess(),
    )
    losses = [float(trainer.step([batch], 0.05)) for _ in range(150)]
    assert losses[0] == pytest.approx(np.log(CLASSES), abs=0.1) and losses[-1] < 0.2
    predicted = np.argmax(network.probabilities(batch.images), -1)
    labeled = masks != IGNORED
    assert (predicted == masks)[labeled].mean() > 0.95
