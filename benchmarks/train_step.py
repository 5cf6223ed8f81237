"""Times a training step of ResNet-101 beside Keras, PyTorch, and the convolution peak.

    python benchmarks/train_step.py [--batch 8 32] [--dtype float32] [--image_size 224]
        [--class_num 11166] [--contenders ours keras pytorch] [--json FILE]

Ours is the step of train.py with the multi-label loss. Keras is `ResNet101V2` with a plain
GradientTape loop: a somewhat smaller network (it pools after the stem), so its share of the peak
is computed from its own operations; once with oneDNN on, as ours, and once as TensorFlow is
installed. PyTorch is the same network as ours, channels last. Each runs in a process of its own,
and the convolution peak is measured in that process right after, so that a noisy machine slows
both. Bars (float32, batch 32): 0.80 of the peak, 1.25 x Keras, 1.1 x PyTorch, memory at most
1.1 x PyTorch's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks.measuring import memory_bytes, report
from models.layout import blocks

PASSES = 3  # forward, and backward to activations and to weights
LABELS_PER_IMAGE = 9
# Fast convolutions for all that use TensorFlow, see flags.py.
ENVIRONMENT = os.environ | {"TF_ENABLE_ONEDNN_OPTS": "1"}
# TensorFlow as installed turns oneDNN on or off by the processor.
AS_INSTALLED = "keras, as installed"
CONTENDERS = ("ours", "ours, recomputing", "keras", AS_INSTALLED, "pytorch")


def multiplications(image_size: int, class_num: int, resnet_size: int = 101) -> int:
    """Multiply-adds of our network's forward pass for one image."""
    side = -(-image_size // 2)
    total = side**2 * 7 * 7 * 3 * 64
    for block in blocks(resnet_size):
        before = side
        side = -(-side // block.branch[1].stride)
        for unit, at in zip(block.branch, (before, side, side), strict=True):
            total += at**2 * unit.size**2 * unit.inputs * unit.outputs
        if block.shortcut:
            total += side**2 * block.shortcut.inputs * block.shortcut.outputs
    return total + 2048 * class_num


def our_step(args: argparse.Namespace, recompute: bool = False) -> Callable[[], Any]:
    from data.augmentation import Augmentation
    from data.pipeline import InputOptions, TrainingInput
    from models.losses import MultiLabelOptions
    from models.objectives import MultiLabelObjective
    from models.optimizers import Optimizer, OptimizerOptions
    from models.resnet import ResNet
    from models.trainer import Trainer
    from models.workers import OneWorker

    network = ResNet(101, args.class_num, compute_dtype=args.dtype, recompute=recompute)
    objective = MultiLabelObjective(args.class_num, MultiLabelOptions(neg_select=0.1), 0)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, OneWorker())
    options = InputOptions(
        "", args.image_size, args.batch_size, class_num=args.class_num, synthetic=True
    )
    batch = next(TrainingInput(options, Augmentation()).batches(0))
    args.flops = 2 * PASSES * multiplications(args.image_size, args.class_num)
    return lambda: float(trainer.step([batch], 0.01))


def keras_step(args: argparse.Namespace) -> Callable[[], Any]:
    import tensorflow as tf

    if args.dtype != "float32":
        tf.keras.mixed_precision.set_global_policy(f"mixed_{args.dtype}")
    shape = (args.image_size, args.image_size, 3)
    network = tf.keras.applications.ResNet101V2(
        weights=None, input_shape=shape, classes=args.class_num, classifier_activation=None
    )
    optimizer = tf.keras.optimizers.SGD(0.01, momentum=0.9)
    images = tf.random.uniform((args.batch_size, *shape), -1, 1)
    labels = tf.cast(tf.random.uniform((args.batch_size, args.class_num)) < 0.001, tf.float32)
    args.flops = 2 * PASSES * _keras_multiplications(network)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = tf.cast(network(images, training=True), tf.float32)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda: float(step())


def _keras_multiplications(network: Any) -> int:
    total = 0
    for layer in network.layers:
        if layer.__class__.__name__ == "Conv2D":
            _, height, width, _ = layer.output.shape
            total += height * width * int(layer.kernel.shape.num_elements())
        elif layer.__class__.__name__ == "Dense":
            total += int(layer.kernel.shape.num_elements())
    return total


def pytorch_step(args: argparse.Namespace) -> Callable[[], Any]:
    import torch

    from models.pytorch_network import MLImagesResNet

    network = MLImagesResNet(101, args.class_num).train().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    images = torch.rand(args.batch_size, 3, args.image_size, args.image_size) * 2 - 1
    images = images.to(memory_format=torch.channels_last)
    labels = (torch.rand(args.batch_size, args.class_num) < 0.001).float()
    args.flops = 2 * PASSES * multiplications(args.image_size, args.class_num)
    half = args.dtype != "float32"

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", getattr(torch, args.dtype), enabled=half):
            logits = network(images).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        loss.backward()
        optimizer.step()
        return float(loss)

    return step


def measure_one(args: argparse.Namespace) -> dict[str, Any]:
    """Runs one contender in this process."""
    makers = {
        "ours": our_step,
        "ours, recomputing": lambda a: our_step(a, recompute=True),
        "keras": keras_step,
        AS_INSTALLED: keras_step,
        "pytorch": pytorch_step,
    }
    start = time.perf_counter()
    step = makers[args.one](args)
    step()
    first = time.perf_counter() - start
    step()
    seconds = []
    for _ in range(args.repeats):
        start = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - start)
    memory = memory_bytes("VmHWM")
    rate = args.batch_size / statistics.median(seconds)
    row = {
        "what": args.one,
        "batch": args.batch_size,
        "images/s": rate,
        "GFLOP/s": rate * args.flops / 1e9,
        "memory GiB": memory / 2**30,
        "first step s": first,
    }
    if args.one != AS_INSTALLED:  # there the peak would be another one
        peak = _peak(args)
        row |= {"peak GFLOP/s": peak / 1e9, "of the peak": rate * args.flops / peak}
    return row


def _peak(args: argparse.Namespace) -> float:
    import tensorflow as tf

    from benchmarks.limits import convolution_flops

    return convolution_flops(tf.as_dtype(args.dtype))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a batch and contender, in turn; contenders that cannot be imported say so."""
    rows = []
    for batch in args.batch:
        for one in args.contenders:
            command = [sys.executable, __file__, "--one", one, "--batch_size", str(batch)]
            for name in ("dtype", "image_size", "class_num", "repeats"):
                command += [f"--{name}", str(getattr(args, name))]
            environment = os.environ if one == AS_INSTALLED else ENVIRONMENT
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            lines = done.stdout.strip().splitlines()
            if done.returncode or not lines:
                reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
                rows.append({"what": one, "batch": batch, "note": reason[:80]})
            else:
                rows.append(json.loads(lines[-1]))
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--class_num", type=int, default=11166)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--json", help="file for the rows as JSON")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        print(json.dumps(measure_one(args)))
        return 0
    report("Training step of ResNet-101", measure(args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
