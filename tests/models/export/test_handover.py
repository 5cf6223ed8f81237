"""docs/transfer.md, "In torchvision": its code on an exported folder, against our network."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy_network
import pytest
import tensorflow as tf

from models.architecture import FINAL_NORM, variable_shapes
from models.checkpoints import checkpoint
from models.detection.faster_rcnn import MAP_NORM
from models.resnet import ResNet

ROOT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```python\n# (?P<file>handover\.py):\n(?P<lines>.*?)^```$", re.M | re.S)
DEPTH, WIDTH, CLASSES = 50, 8, 6
PROGRAM = """
import numpy
import torch
from handover import Trunk, detector, dilate, Segmenter
from pytorch_network import load
from torch.nn.functional import cross_entropy

torch.manual_seed(0)
images = torch.from_numpy(numpy.load("images.npy"))
found, path = {}, "model.safetensors"


def gradients_are_finite(model, loss, frozen):
    loss.backward()
    learns = [p for p in model.parameters() if p.requires_grad]
    assert len(learns) < len(list(model.parameters())) or not frozen
    for parameter in learns:
        assert parameter.grad is not None and parameter.grad.isfinite().all()
        assert parameter.grad.any()


def watch(module, name):
    # Keeps what a module is called with.
    module.register_forward_pre_hook(lambda _, inputs: found.update({name: inputs[0]}))


for first, stride in ((2, 8), (3, 16), (4, 32)):
    network = load(path)
    dilate(network.stages[first:])
    with torch.no_grad():
        found[f"map{stride}"] = Trunk(network, 4)(images)

model = detector(path, 3, min_size=96, max_size=160)
boxes = torch.tensor([[5.0, 6, 60, 70], [30, 2, 90, 44]])
target = {"boxes": boxes, "labels": torch.tensor([1, 3])}
losses = model.train()([images[0] / 2 + 0.5], [target])
gradients_are_finite(model, sum(losses.values()), frozen=True)
model.eval()
with torch.no_grad():
    objects = model([images[0] / 2 + 0.5])[0]
    features = model.backbone(images)
    found["map"] = features
    watch(model.rpn.head.head.conv, "read")
    model.rpn.head([features])
    found["regions"] = model.roi_heads.box_head(features[:, :, :5, :5])
assert len(objects["boxes"]) and objects["boxes"].isfinite().all()
assert objects["labels"].min() >= 1 and objects["labels"].max() <= 3

model = Segmenter(path, 4).eval()
with torch.no_grad():
    watch(model.head[0], "segmented")
    logits = model(images)
assert logits.shape == (2, 4, *images.shape[2:]) and logits.isfinite().all()
numpy.savez("found.npz", **found)
model.train()
masks = torch.randint(4, (2, *images.shape[2:]))
gradients_are_finite(model, cross_entropy(model(images), masks), frozen=False)
"""


@pytest.fixture(scope="module")
def weights():
    return numpy_network.random_weights(variable_shapes(DEPTH, CLASSES, WIDTH))


@pytest.fixture(scope="module")
def images():
    """Two images [2, 97, 129, 3] in [-1, 1]."""
    return np.random.default_rng(0).uniform(-1, 1, (2, 97, 129, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def found(weights, images, tmp_path_factory):
    """What torchvision gives: the program's arrays, NHWC."""
    folder = tmp_path_factory.mktemp("handover")
    prefix = checkpoint.save(folder / "model.ckpt-7", {**weights, "global_step": 7}, {"flags": {}})
    made = folder / "made"
    command = [sys.executable, ROOT / "export.py", f"--model_dir={prefix}"]
    command += [f"--export_dir={made}", "--export_format=pytorch"]
    subprocess.run(command, check=True, capture_output=True)
    (block,) = BLOCK.finditer((ROOT / "docs" / "transfer.md").read_text(encoding="utf-8"))
    (made / block["file"]).write_text(block["lines"], encoding="utf-8")
    np.save(made / "images.npy", images.transpose(0, 3, 1, 2).copy())
    done = subprocess.run([sys.executable, "-c", PROGRAM], cwd=made, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    arrays = np.load(made / "found.npz")
    return {name: np.moveaxis(array, 1, -1) for name, array in arrays.items()}


def network(weights, output_stride=32):
    made = ResNet(DEPTH, CLASSES, width=WIDTH, output_stride=output_stride)
    for name, variable in made.variables_by_name().items():
        variable.assign(weights[name])
    return made


def assert_near(got, expected):
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("torchvision") is None,
        reason="EXTRAS=pytorch ./tests/run.sh installs it",
    ),
]


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_dilated_maps_are_ours(found, weights, images, stride):
    expected = network(weights, stride).stage_maps(tf.constant(images))[-1]
    assert_near(found[f"map{stride}"], expected.numpy())


def test_the_head_of_segmentation_reads_our_features(found, weights, images):
    ours = network(weights, 16)
    image_map = ours.stage_maps(tf.constant(images))[-1]
    assert_near(found["segmented"], ours.norm_relu(image_map, FINAL_NORM).numpy())


def test_the_detector_reads_our_maps(found, weights, images):
    """The program also takes a step of training with both models, and looks at what they find."""
    ours = network(weights)
    image_map = ours.stage_maps(tf.constant(images), stages=3)[-1]
    assert_near(found["map"], image_map.numpy())
    assert_near(found["read"], ours.norm_relu(image_map, MAP_NORM).numpy())
    regions = ours.run_stage(image_map[:, :5, :5], 3, stride=1)
    features = tf.reduce_mean(ours.norm_relu(regions, FINAL_NORM), [1, 2])
    assert_near(found["regions"], features.numpy())
