"""The detector: losses, gradients, independence of batches and padding, detections, learning."""

import numpy as np
import pytest
import tensorflow as tf
from plain_boxes import Batch, plain_ious, plain_nms

from data.common.errors import UserError
from data.outputs.dense_files import palette
from models.detection import boxes
from models.detection.boxes import REGION_WEIGHTS
from models.detection.faster_rcnn import FasterRCNN, is_frozen
from models.detection.objective import (
    PARTS,
    DetectionObjective,
    region_losses,
    rpn_losses,
    smooth_l1,
)
from models.detection.options import DetectionOptions
from models.detection.targets import AnchorTargets, RegionTargets
from models.resnet import ResNet

SMALL = DetectionOptions(
    anchor_scales=(1.0, 2.0, 4.0),
    rpn_channels=16,
    rpn_samples=64,
    proposals_before_nms=200,
    proposals=50,
    test_proposals_before_nms=200,
    test_proposals=30,
    regions=32,
    max_detections=10,
)
OBJECTS = np.float32([[[10, 10, 60, 70], [0, 0, 0, 0]], [[20, 30, 70, 80], [5, 5, 30, 40]]])


def detector(class_num: int = 3, freeze: bool = True, **options) -> FasterRCNN:
    return FasterRCNN(
        ResNet(14, 5, width=8, freeze_batch_norm=freeze, **options), class_num, SMALL, seed=7
    )


def batch_of_two() -> Batch:
    images = np.random.default_rng(1).uniform(-1, 1, (2, 96, 128, 3)).astype(np.float32)
    images[1, 80:], images[1, :, 100:] = 0, 0
    return Batch(
        tf.constant(images),
        tf.constant([[96, 128], [80, 100]]),
        tf.constant(OBJECTS),
        tf.constant([[1, -1], [0, 2]]),
        tf.constant([5, 2**40], tf.int64),
    )


def part(batch: Batch, i: int) -> Batch:
    return Batch(*(values[i : i + 1] for values in batch))


def gradients(network: FasterRCNN, batch: Batch) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradients of what the protocol trains."""
    names = {name: v for name, v in network.trainable_by_name().items() if not is_frozen(name)}
    with tf.GradientTape() as tape:
        loss, _ = DetectionObjective(network.class_num).loss(network, batch)
    found = tape.gradient(loss, names)
    return float(loss), {name: value.numpy() for name, value in found.items()}


def test_smooth_l1():
    difference = tf.constant([0.0, 0.05, -0.2, 2.0])
    with_3 = [0, 9 * 0.05**2 / 2, 0.2 - 1 / 18, 2 - 1 / 18]
    np.testing.assert_allclose(smooth_l1(difference, 3.0), with_3, atol=1e-7)
    np.testing.assert_allclose(smooth_l1(difference, 1.0), [0, 0.00125, 0.02, 1.5], atol=1e-7)


def test_losses_of_anchors():
    wanted = np.zeros((4, 4), np.float32)
    targets = AnchorTargets(
        tf.constant([3, 0, 1, 2]), tf.constant([1.0, 0, 0, 0]), tf.constant([1.0, 1, 1, 0]), wanted
    )
    scores = tf.constant([0.0, -1.0, 5.0, 2.0])
    offsets = np.zeros((4, 4), np.float32)
    offsets[3], offsets[0] = [1, 0, 0, 0.1], 7
    objectness, distance = rpn_losses(scores, tf.constant(offsets), targets)
    entropies = np.log1p(np.exp(-2.0)) + np.log(2) + np.log1p(np.exp(-1.0))
    np.testing.assert_allclose(objectness, entropies / 3, rtol=1e-6)
    np.testing.assert_allclose(distance, (1 - 1 / 18 + 9 * 0.1**2 / 2) / 3, rtol=1e-6)


def test_losses_of_regions():
    logits = tf.constant([[[1.0, 2.0, 0.0], [3.0, 0.0, 0.0], [9.0, 9.0, 9.0]]])
    offsets = np.zeros((1, 3, 2, 4), np.float32)
    offsets[0, 0, 0], offsets[0, 0, 1], offsets[0, 1] = 5, [0.5, 2, 0, 0], 3
    targets = RegionTargets(
        np.zeros((1, 3, 4)),
        tf.constant([[2, 0, 0]]),
        tf.constant([[1.0, 1.0, 0.0]]),
        np.zeros((1, 3, 4), np.float32),
    )
    classes, distance = region_losses(logits, tf.constant(offsets), targets)
    first = np.log(np.exp([1.0, 2.0, 0.0]).sum())
    second = np.log(np.exp([3.0, 0.0, 0.0]).sum()) - 3
    np.testing.assert_allclose(classes, [(first + second) / 2], rtol=1e-6)
    np.testing.assert_allclose(distance, [(0.125 + 1.5) / 2], rtol=1e-6)


def test_variables():
    network = detector()
    names = network.variables_by_name()
    assert not any(name.startswith("logits/") for name in names)
    heads = {n: tuple(v.shape) for n, v in names.items() if n.startswith("detection/")}
    assert heads == {
        "detection/rpn/conv/kernel": (3, 3, 128, 16),
        "detection/rpn/conv/bias": (16,),
        "detection/rpn/scores/kernel": (1, 1, 16, 9),
        "detection/rpn/scores/bias": (9,),
        "detection/rpn/boxes/kernel": (1, 1, 16, 36),
        "detection/rpn/boxes/bias": (36,),
        "detection/classes/kernel": (256, 4),
        "detection/classes/bias": (4,),
        "detection/boxes/kernel": (256, 12),
        "detection/boxes/bias": (12,),
    }
    spread = {n: float(np.std(names[n])) for n in heads if n.endswith("kernel")}
    assert spread.pop("detection/boxes/kernel") == pytest.approx(0.001, rel=0.1)
    assert list(spread.values()) == pytest.approx([0.01] * 4, rel=0.2)
    again = detector().variables_by_name()
    assert all((names[n].numpy() == again[n].numpy()).all() for n in heads)


def test_what_the_protocol_freezes():
    frozen = {name for name in detector().trainable_by_name() if is_frozen(name)}
    assert "init/init_conv/conv2d/kernel" in frozen
    assert "stages_0_block_0/conv2_b2/conv2d/kernel" in frozen
    assert "stages_3_block_0/conv1_b2_bn/batch_normalization/gamma" in frozen
    assert "stages_1_block_0/conv1_b1/conv2d/kernel" not in frozen
    assert not any(name.startswith("detection/") for name in frozen)


@pytest.mark.slow
def test_gradients_reach_all_that_learns():
    network = detector()
    before = {name: v.numpy() for name, v in network.variables_by_name().items()}
    _, found = gradients(network, batch_of_two())
    assert len(found) == 3 * 4 + 10  # kernels of stages 1 to 3, and the heads
    assert [name for name, value in found.items() if not np.abs(value).max() > 0] == []
    for name, value in network.variables_by_name().items():  # frozen statistics do not move
        np.testing.assert_array_equal(value.numpy(), before[name])


@pytest.mark.slow
def test_two_images_are_the_mean_of_one_and_one():
    """So one worker with both is two workers with one each."""
    network, batch = detector(), batch_of_two()
    loss, found = gradients(network, batch)
    halves = [gradients(network, part(batch, i)) for i in range(2)]
    assert loss == pytest.approx(np.mean([half[0] for half in halves]), rel=1e-5)
    for name, value in found.items():
        mean = np.mean([half[1][name] for half in halves], axis=0)
        np.testing.assert_allclose(value, mean, atol=1e-5 * np.abs(mean).max(), err_msg=name)


def test_padding_has_no_influence():
    """That of the second image, and of the list of its objects, whatever is in it."""
    network, batch = detector(), part(batch_of_two(), 1)
    images = batch.images.numpy()
    images[:, 80:], images[:, :, 100:] = 9, 9
    padded = batch._replace(
        images=tf.constant(images),
        boxes=tf.pad(batch.boxes, [[0, 0], [0, 6], [0, 0]]),
        classes=tf.pad(batch.classes, [[0, 0], [0, 6]], constant_values=-1),
    )
    cut = batch._replace(images=batch.images[:, :80, :100])
    wanted, found = network.losses(cut), network.losses(padded)
    assert list(found) == list(PARTS)
    for name in PARTS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-6, err_msg=name)
    wanted = network.detect(cut.images, cut.sizes)
    for got, want in zip(network.detect(padded.images, padded.sizes), wanted, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.mark.slow
def test_one_graph_for_all_sizes():
    network, traces = detector(), []

    @tf.function(
        autograph=False,
        input_signature=[
            Batch(
                tf.TensorSpec([1, None, None, 3]),
                tf.TensorSpec([1, 2], tf.int32),
                tf.TensorSpec([1, None, 4]),
                tf.TensorSpec([1, None], tf.int32),
                tf.TensorSpec([1], tf.int64),
            )
        ],
    )
    def losses(batch):
        traces.append(1)
        found = network.detect(batch.images, batch.sizes)
        return network.losses(batch), found

    whole = part(batch_of_two(), 0)
    for height, width, count in ((96, 128, 2), (75, 90, 1), (33, 47, 0)):
        batch = Batch(
            whole.images[:, :height, :width],
            tf.constant([[height, width]]),
            whole.boxes[:, :count],
            whole.classes[:, :count],
            whole.sample_index,
        )
        parts, found = losses(batch)
        assert np.isfinite(list(parts.values())).all()
        assert found.boxes.shape == (1, 10, 4)
        assert (found.boxes.numpy() <= [height, width, height, width]).all()
    assert len(traces) == 1


def test_in_bfloat16_the_losses_are_nearly_the_same(monkeypatch):
    exact = detector().losses(batch_of_two())
    monkeypatch.setattr("models.resnet.fast_dtype", lambda dtype: dtype)
    found = detector(compute_dtype="bfloat16").losses(batch_of_two())
    assert all(value.dtype == tf.float32 for value in found.values())
    for name in ("rpn_objectness", "region_classes"):
        np.testing.assert_allclose(found[name], exact[name], rtol=0.05)


class Given(FasterRCNN):
    """A detector whose regions and outputs are given."""

    def __init__(self, regions, logits, offsets):
        super().__init__(ResNet(14, 5, width=8), 3, SMALL)
        self.given = regions, logits, offsets

    def _propose(self, outputs, size, training):
        regions = self.given[0]
        return tf.constant(regions), tf.range(len(regions)) < len(regions) - 2

    def _classify(self, maps, regions, training=False):
        return tuple(tf.constant(values[None]) for values in self.given[1:])


def test_detections_are_those_of_plain_numpy():
    draw = np.random.RandomState(2)
    first = draw.uniform(0, 60, (30, 2))
    regions = np.concatenate([first, first + draw.uniform(10, 40, (30, 2))], 1).astype(np.float32)
    logits = draw.normal(0, 2, (30, 4)).astype(np.float32)
    offsets = draw.normal(0, 1, (30, 3, 4)).astype(np.float32)
    images, sizes = np.zeros((1, 96, 96, 3), np.float32), np.int32([[90, 80]])
    found = Given(regions, logits, offsets).detect(tf.constant(images), tf.constant(sizes))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = []
    for cls in range(3):
        decoded = boxes.decode(offsets[:, cls], regions, REGION_WEIGHTS).numpy()
        clipped = np.clip(decoded, 0, [90, 80, 90, 80])[:28]  # the last two are fillers
        scores = probabilities[:28, cls + 1]
        wanted += [(scores[i], cls, clipped[i]) for i in plain_nms(clipped, scores, 0.3)]
    wanted = sorted(wanted, key=lambda one: -one[0])[:10]
    np.testing.assert_allclose(found.scores[0], [score for score, _, _ in wanted], rtol=1e-5)
    assert found.classes[0].numpy().tolist() == [cls for _, cls, _ in wanted]
    np.testing.assert_allclose(found.boxes[0], [box for _, _, box in wanted], atol=1e-3)


def test_detections_are_padded():
    network = Given(*(np.zeros(shape, np.float32) for shape in ((2, 4), (2, 4), (2, 3, 4))))
    found = network.detect(tf.zeros([1, 32, 32, 3]), tf.constant([[32, 32]]))
    assert found.classes.numpy().tolist() == [[-1] * 10]
    assert not found.scores.numpy().any()


def test_objects_that_cannot_be_learned():
    objective, batch = DetectionObjective(3), batch_of_two()
    objective.check(batch)
    with pytest.raises(UserError, match="class 3, but classes are 0 to 2"):
        objective.check(batch._replace(classes=tf.constant([[1, -1], [3, 2]])))
    with pytest.raises(UserError, match="empty"):
        objective.check(batch._replace(classes=tf.constant([[1, 0], [0, 2]])))


def test_a_preview_shows_the_boxes_alone():
    batch = batch_of_two()
    drawn = DetectionObjective(3).preview(batch)
    assert drawn.shape == (2, 96, 128, 3) and np.abs(drawn).max() <= 1
    for i, number in ((0, 0), (1, 1)):
        _, left, bottom, _ = OBJECTS[i][number].astype(int)
        color = palette()[batch.classes[i, number] + 1] / 127.5 - 1
        edge = drawn[i, bottom, left + 1 : left + 21]  # what no other box covers
        np.testing.assert_allclose(edge, np.tile(color, (20, 1)), atol=1e-6)
    none = DetectionObjective(3).preview(batch._replace(classes=tf.fill([2, 2], -1)))
    np.testing.assert_allclose(none, batch.images, atol=1 / 255 + 1e-6)


def test_backbones_that_do_not_fit():
    backbone = ResNet(14, 5, width=8)
    backbone.data_format = "NCHW"
    with pytest.raises(UserError, match="NHWC"):
        FasterRCNN(backbone, 3)


@pytest.mark.slow
def test_learns_one_scene():
    """Two colored squares: the losses fall, and what is detected is them."""
    network = detector(2, freeze=False, batch_norm_decay=0.9)
    image = np.random.default_rng(0).uniform(-0.2, 0.2, (1, 96, 96, 3)).astype(np.float32)
    image[0, 16:48, 16:48, 0], image[0, 40:88, 56:88, 1] = 1, -1
    squares = np.float32([[16, 16, 48, 48], [40, 56, 88, 88]])
    batch = Batch(
        tf.constant(image),
        tf.constant([[96, 96]]),
        tf.constant(squares[None]),
        tf.constant([[0, 1]]),
        tf.constant([0], tf.int64),
    )
    variables = list(network.trainable_by_name().values())
    momenta = [tf.Variable(tf.zeros_like(v)) for v in variables]

    @tf.function(autograph=False)
    def step(batch):
        with tf.GradientTape() as tape:
            parts = network.losses(batch)
            loss = tf.add_n(list(parts.values()))
        for v, m, g in zip(variables, momenta, tape.gradient(loss, variables), strict=True):
            m.assign(0.9 * m + g)
            v.assign_sub(0.01 * m)
        return loss

    history = [
        float(step(batch._replace(sample_index=tf.constant([number], tf.int64))))
        for number in range(200)
    ]
    assert np.mean(history[-5:]) < 0.2 * np.mean(history[:5])
    found = network.detect(batch.images, batch.sizes)
    best = [int(np.argmax(found.classes[0] == cls)) for cls in range(2)]
    ious = np.diag(plain_ious(found.boxes.numpy()[0][best], squares))
    assert ious.min() > 0.6 and found.scores.numpy()[0][best].min() > 0.5
