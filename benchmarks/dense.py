"""A training step of detection and of segmentation, compared with torchvision's.

    python benchmarks/dense.py [--depth 101] [--short_side 600] [--long_side 1000] [--crop 513]
        [--batch 2] [--recompute 1] [--rounds 5] [--json FILE]

Ours are the steps of detect.py (one image, frozen batch norm) and segment.py (`--batch` crops);
torchvision's are those of handover.py in docs/transfer.md, on the same network, with equal numbers
of anchors, proposals, regions and channels. Each runs in its own process; the two of a task
alternate. Memory is the process's peak. Goals: 1.1 x torchvision's time, 1.15 x its memory.
"""

import argparse
import importlib
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness
from benchmarks.harness import Contender, median_ratio

TASKS, CONTENDERS = ("detection", "segmentation"), ("ours", "torchvision")
PAGE = harness.ROOT / "docs" / "transfer.md"
CLASSES, MASK_CLASSES = 20, 21
RPN_CHANNELS = 512
RATE = 1e-5  # the network is not pretrained
# (y1, x1, y2, x2) as fractions of the image.
OBJECTS = np.array([[0.1, 0.1, 0.5, 0.4], [0.3, 0.5, 0.9, 0.9], [0.6, 0.1, 0.8, 0.2]], np.float32)
_HANDOVER = re.compile(r"^```python\n# handover\.py:\n(.*?)^```$", re.MULTILINE | re.DOTALL)

Step = Callable[[], Any]


def our_detection(args: argparse.Namespace) -> Step:
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first

    import tensorflow as tf

    from data.input.dense import DetectionBatch
    from data.input.dense_images import padded
    from models.detection.faster_rcnn import FasterRCNN, is_frozen
    from models.detection.objective import DetectionObjective
    from models.resnet import ResNet

    kept = {"freeze_batch_norm": True, "recompute": bool(args.recompute)}
    backbone = ResNet(args.depth, 1, width=args.width, **kept)
    network = FasterRCNN(backbone, CLASSES)
    images, sizes = padded([255 * _image(args)])
    boxes = OBJECTS * np.tile([args.short_side, args.long_side], 2)
    objects = (boxes[None], np.arange(len(boxes))[None])
    batch = DetectionBatch(
        *(images, sizes, tf.constant(objects[0], tf.float32)),
        *(tf.constant(objects[1], tf.int32), tf.constant([0], tf.int64)),
    )
    return _our_step(network, DetectionObjective(CLASSES), batch, is_frozen)


def our_segmentation(args: argparse.Namespace) -> Step:
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first

    import tensorflow as tf

    from data.input.dense import SegmentationBatch
    from models.resnet import ResNet
    from models.segmentation.deeplab import DeepLab
    from models.segmentation.objective import SegmentationObjective

    network = DeepLab(ResNet(args.depth, 1, width=args.width, output_stride=16), MASK_CLASSES)
    images, masks = (tf.constant(values) for values in _crops(args))
    batch = SegmentationBatch(images, masks, tf.range(args.batch, dtype=tf.int64))
    return _our_step(network, SegmentationObjective(MASK_CLASSES), batch, lambda name: False)


def _our_step(network: Any, objective: Any, batch: Any, is_frozen: Callable[[str], bool]) -> Step:
    from models.distributed.base import SingleProcess
    from models.training.optimizers import Optimizer, OptimizerOptions
    from models.training.trainer import Trainer

    trained = {name: v for name, v in network.trainable_by_name().items() if not is_frozen(name)}
    optimizer = Optimizer(trained, OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, SingleProcess())
    return lambda: float(trainer.step([batch], RATE))


def torchvision_detection(args: argparse.Namespace) -> Step:
    import torch

    handover, weights = _handover(args)
    sides = {"min_size": args.short_side, "max_size": args.long_side}
    network = handover.detector(weights, CLASSES, rpn_pre_nms_top_n_train=12_000, **sides)
    proposals = network.rpn.head
    proposals.head = handover.RPNHead(RPN_CHANNELS, 9)
    inputs = network.backbone.out_channels
    proposals.head.conv[0][0] = torch.nn.Conv2d(inputs, RPN_CHANNELS, 3, padding=1)
    boxes = OBJECTS[:, [1, 0, 3, 2]] * np.tile([args.long_side, args.short_side], 2)
    objects = {"boxes": torch.from_numpy(boxes).float(), "labels": torch.arange(len(boxes)) + 1}
    images = [torch.from_numpy(_image(args).transpose(2, 0, 1).copy())]
    return _pytorch_step(network, lambda model: sum(model(images, [objects]).values()))


def torchvision_segmentation(args: argparse.Namespace) -> Step:
    import torch

    handover, weights = _handover(args)
    network = handover.Segmenter(weights, MASK_CLASSES)
    images, masks = map(torch.from_numpy, _crops(args))
    images, masks = images.permute(0, 3, 1, 2), masks.long()  # channels last
    entropy = torch.nn.functional.cross_entropy
    return _pytorch_step(network, lambda model: entropy(model(images), masks, ignore_index=255))


def _handover(args: argparse.Namespace) -> tuple[ModuleType, str]:
    """The module from docs/transfer.md, and the file of an exported, untrained network."""
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp(dir=args.folder))
    (code,) = _HANDOVER.findall(PAGE.read_text(encoding="utf-8"))
    (folder / "handover.py").write_text(code, encoding="utf-8")
    sys.path[:0] = [str(folder), str(harness.ROOT / "models" / "export")]
    pytorch_network = importlib.import_module("pytorch_network")
    network = pytorch_network.MLImagesResNet(args.depth, 1, args.width)
    sizes = {"resnet_size": args.depth, "class_num": 1, "width": args.width}
    metadata = {name: str(value) for name, value in sizes.items()}
    weights = str(folder / "model.safetensors")
    save_file(network.state_dict(), weights, metadata | {"batch_norm_epsilon": "1e-5"})
    return importlib.import_module("handover"), weights


def _pytorch_step(network: Any, loss_of: Callable[[Any], Any]) -> Step:
    import torch

    network = network.train().to(memory_format=torch.channels_last)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, RATE, momentum=0.9, weight_decay=1e-4)

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(network)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _image(args: argparse.Namespace) -> np.ndarray:
    """float32 [H, W, 3] in [0, 1]."""
    rng = np.random.default_rng(1)
    return rng.random((args.short_side, args.long_side, 3), np.float32)


def _crops(args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """float32 [B, S, S, 3] in [-1, 1], and classes int32 [B, S, S]."""
    rng, shape = np.random.default_rng(1), (args.batch, args.crop, args.crop)
    images = 2 * rng.random((*shape, 3), np.float32) - 1
    return images, rng.integers(MASK_CLASSES, size=shape, dtype=np.int32)


MAKERS: Mapping[str, Callable[[argparse.Namespace], Step]] = {
    "detection, ours": our_detection,
    "detection, torchvision": torchvision_detection,
    "segmentation, ours": our_segmentation,
    "segmentation, torchvision": torchvision_segmentation,
}


def make(name: str, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Builds a contender in its process and runs it twice; see `Contender`."""
    start = time.perf_counter()
    step = MAKERS[name](args)
    step()
    first = time.perf_counter() - start
    loss = step()
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss}")
    return {
        "first step": lambda: first,
        "step": lambda: harness.timed(step).seconds,
        "memory": lambda: harness.memory_bytes("VmHWM") / 2**30,
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each task and contender; a note if a library is missing."""
    with tempfile.TemporaryDirectory() as args.folder:
        return [row for task in args.tasks for row in _rows(task, args)]


def _rows(task: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    names = [f"{task}, {contender}" for contender in CONTENDERS]
    processes = {name: Contender(make, name, args) for name in names}
    ready = {name: process for name, process in processes.items() if not process.failure}
    seconds = harness.in_turn(
        {name: lambda p=process: p.ask("step") for name, process in ready.items()}, args.rounds
    )
    memory = {name: process.ask("memory") for name, process in ready.items()}
    rows: list[dict[str, Any]] = []
    for name, process in processes.items():
        if process.failure:
            rows.append({"what": name, "note": process.failure})
            continue
        row = {
            "what": name,
            "s/step": statistics.median(seconds[name]),
            "memory GiB": memory[name],
            "first step s": process.ask("first step"),
        }
        if names[0] in ready:
            row["ours, times"] = median_ratio(seconds[name], seconds[names[0]])
            row["memory, times"] = memory[name] / memory[names[0]]
        rows.append(row)
        process.close()
    return rows


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        tasks=(list(TASKS), list(TASKS)),
        depth=(101, 14),
        width=(64, 8),
        short_side=(600, 96),
        long_side=(1000, 160),
        crop=(513, 65),
        batch=(2, 2),
        recompute=(0, 0),
        rounds=(5, 1),
    )
