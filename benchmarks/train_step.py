"""Times a training step of ResNet-101 next to Keras, PyTorch, and the convolution peak.

    python benchmarks/train_step.py [--batch 8 32] [--dtype float32] [--image_size 224]
        [--class_num 11166] [--contenders ours keras pytorch] [--json FILE]

Ours is the step of train.py with the multi-label loss. Keras is `ResNet101V2` with a plain
GradientTape loop: a somewhat smaller network (it pools after the stem), so its share of the peak
is computed from its own operations; once with oneDNN on, as ours, and once as TensorFlow is
installed. PyTorch is the same network as ours, channels last. Each has a process of its own; ours
and as many of the others as memory holds (`--together`) do a step in turn, so that a noisy machine
slows all of them; after each step the process measures the convolution peak. Ratios are medians
over the rounds; with `--together 1` rounds are at different times. Bars (float32, batch 32): 0.80
of the peak, 1.25 x Keras, 1.1 x PyTorch, memory at most 1.1 x PyTorch's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import contenders
from benchmarks.contenders import median_ratio
from benchmarks.measuring import memory_bytes, multiplications, report

PASSES = 3  # forward, and backward to activations and to weights
LABELS_PER_IMAGE = 9
# Fast convolutions for all that use TensorFlow, see flags.py.
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# TensorFlow as installed turns oneDNN on or off by the processor.
AS_INSTALLED = "keras, as installed"
OURS = "ours"
IN_FLOAT32 = "ours, in float32"
CONTENDERS = (OURS, "ours, recomputing", "keras", AS_INSTALLED, "pytorch", IN_FLOAT32)


def our_step(args: argparse.Namespace, recompute: bool = False) -> Callable[[], Any]:
    from data.input.augment import Augmentation
    from data.input.pipeline import InputOptions, TrainingInput
    from models.distributed.base import SingleProcess
    from models.losses import ClassWeightOptions
    from models.resnet import ResNet
    from models.training.objectives import ClassWeights, Objective
    from models.training.optimizers import Optimizer, OptimizerOptions
    from models.training.trainer import Trainer

    network = ResNet(101, args.class_num, compute_dtype=args.dtype, recompute=recompute)
    weights = ClassWeights(args.class_num, ClassWeightOptions(neg_select=0.1), 0)
    objective = Objective("multi_label", weights, positive_weight=12.0)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, SingleProcess())
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

    from models.export.pytorch_network import MLImagesResNet

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


def serve_one(args: argparse.Namespace) -> None:
    """One contender, in this process: built, run twice, then a step at each word."""
    makers = {
        OURS: our_step,
        "ours, recomputing": lambda args: our_step(args, recompute=True),
        IN_FLOAT32: our_step,
        "keras": keras_step,
        AS_INSTALLED: keras_step,
        "pytorch": pytorch_step,
    }
    start = time.perf_counter()
    step = makers[args.one](args)
    step()
    first = time.perf_counter() - start
    step()
    answers = {
        "step": lambda: _seconds(step),
        "peak": lambda: _peak(args),
        "memory": lambda: memory_bytes("VmHWM"),
    }
    contenders.serve({"flops": args.flops, "first": first}, answers)


def _seconds(step: Callable[[], Any]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _peak(args: argparse.Namespace) -> float:
    import tensorflow as tf

    from benchmarks.limits import convolution_flops

    return convolution_flops(tf.as_dtype(args.dtype))


class Stepper:
    """A contender, and what it needed for its steps so far."""

    def __init__(self, one: str, batch: int, args: argparse.Namespace) -> None:
        self.one, self.batch = one, batch
        self.seconds: list[float] = []
        self.peaks: list[float] = []
        self.memory_bytes = 0.0
        command = [__file__, "--one", one, "--batch_size", str(batch)]
        settings = "dtype", "image_size", "class_num"
        self._settings = {name: getattr(args, name) for name in settings}
        if one == IN_FLOAT32:
            self._settings["dtype"] = "float32"  # of the peak, too
        command += [f"--{name}={value}" for name, value in self._settings.items()]
        self.process = contenders.Contender(command, {ONEDNN: None if one == AS_INSTALLED else "1"})

    def step(self) -> None:
        self.seconds.append(self.process.ask("step"))
        # Before TensorFlow is loaded for the peak into a process that has another library.
        self.memory_bytes = self.memory_bytes or self.process.ask("memory")
        if self.one != AS_INSTALLED:  # there the peak would be another one
            self.peaks.append(self.process.ask("peak"))

    def row(self, ours: Sequence[float]) -> dict[str, Any]:
        """`ours`: the seconds of our steps in the same rounds."""
        row = {"what": self.one, "batch": self.batch, **self._settings}
        if self.process.facts is None:
            return row | {"note": self.process.failure()}
        rates = [self.batch * self.process.facts["flops"] / seconds for seconds in self.seconds]
        row |= {
            "images/s": self.batch / statistics.median(self.seconds),
            "GFLOP/s": statistics.median(rates) / 1e9,
        }
        if self.peaks:
            row |= {
                "peak GFLOP/s": statistics.median(self.peaks) / 1e9,
                "of the peak": median_ratio(rates, self.peaks),
            }
        row |= {
            "memory GiB": self.memory_bytes / 2**30,
            "first step s": self.process.facts["first"],
        }
        return row | ({"ours, times": median_ratio(self.seconds, ours)} if ours else {})


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row per batch and contender; those that cannot be imported say so."""
    rows = []
    for batch in args.batch:
        found: dict[str, dict[str, Any]] = {}
        ours: list[float] = []
        for names in _groups(args.contenders, args.together):
            steppers = [Stepper(one, batch, args) for one in names]
            running = [stepper for stepper in steppers if stepper.process.facts]
            for _ in range(args.repeats):
                for stepper in running:
                    stepper.step()
            ours = steppers[0].seconds if names[0] == OURS else ours
            for stepper in steppers:
                found.setdefault(stepper.one, stepper.row(ours))
                stepper.process.close()
        rows += found.values()
    return rows


def _groups(names: Sequence[str], together: int) -> list[list[str]]:
    """Who take turns: ours and `together` - 1 of the others at a time, or everyone alone."""
    ours, peers = [OURS] * (OURS in names), [one for one in names if one != OURS]
    if together == 1 or not peers:
        return [[one] for one in ours + peers]
    return [ours + peers[at : at + together - 1] for at in range(0, len(peers), together - 1)]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--class_num", type=int, default=11166)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--together", type=int, default=3, help="processes at once")
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS[:-1], choices=CONTENDERS)
    parser.add_argument("--json", help="file for the rows as JSON")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        serve_one(args)
        return 0
    report("Training step of ResNet-101", measure(args), args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
