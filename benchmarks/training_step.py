"""A training step of ResNet-101, compared with Keras, PyTorch and the convolution peak.

    python benchmarks/training_step.py [--batch 32] [--precision float32] [--image_size 224]
        [--class_num 11166] [--contenders ours pytorch] [--together 3] [--json FILE]

Ours is the step of train.py with the multi-label loss. Keras is `ResNet101V2` with a plain
GradientTape loop, a slightly smaller network (it pools after the stem), so its share of the peak is
computed from its own operations; once with oneDNN on, like ours, and once with TensorFlow's
default. PyTorch is the same network as ours, channels last. Each runs in its own process; ours and
as many others as fit into memory (`--together`) alternate steps, and after each step the process
measures the convolution peak. Goals (float32, batch 32): 0.85 of the peak, not slower than Keras,
1.1 x PyTorch, memory at most 1.1 x PyTorch's.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness, operations
from benchmarks.harness import Contender, median_ratio

# Faster convolutions in TensorFlow; see data/common/start_tensorflow.py.
ONEDNN = "TF_ENABLE_ONEDNN_OPTS"
# By default, TensorFlow turns oneDNN on or off by the processor.
AS_INSTALLED = "keras, as installed"
OURS = "ours"
IN_FLOAT32 = "ours, in float32"

Step = tuple[Callable[[], Any], float]  # and its floating-point operations


def our_step(args: argparse.Namespace, recompute: bool = False, dtype: str = "") -> Step:
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first

    from data.input.augment import Augmentation
    from data.input.pipeline import InputOptions, TrainingInput
    from models.distributed.base import SingleProcess
    from models.losses import ClassWeightOptions
    from models.resnet import ResNet
    from models.training.objectives import ClassWeights, Objective
    from models.training.optimizers import Optimizer, OptimizerOptions
    from models.training.trainer import Trainer

    dtype = dtype or args.precision
    network = ResNet(args.depth, args.class_num, compute_dtype=dtype, recompute=recompute)
    weights = ClassWeights(args.class_num, ClassWeightOptions(neg_select=0.1), 0)
    objective = Objective("multi_label", weights, positive_weight=12.0)
    optimizer = Optimizer(network.trainable_by_name(), OptimizerOptions())
    trainer = Trainer(network, objective, optimizer, SingleProcess())
    options = InputOptions(
        "", args.image_size, args.batch, class_num=args.class_num, synthetic=True
    )
    batch = next(TrainingInput(options, Augmentation()).batches(0))
    return lambda: float(trainer.step([batch], 0.01)), _operations_of_ours(args)


def keras_step(args: argparse.Namespace) -> Step:
    import tensorflow as tf

    if args.precision != "float32":
        tf.keras.mixed_precision.set_global_policy(f"mixed_{args.precision}")
    shape = (args.image_size, args.image_size, 3)
    network = tf.keras.applications.ResNet101V2(
        weights=None, input_shape=shape, classes=args.class_num, classifier_activation=None
    )
    optimizer = tf.keras.optimizers.SGD(0.01, momentum=0.9)
    images = tf.random.uniform((args.batch, *shape), -1, 1)
    labels = tf.cast(tf.random.uniform((args.batch, args.class_num)) < 0.001, tf.float32)

    @tf.function
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = tf.cast(network(images, training=True), tf.float32)
            loss = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(labels, logits))
        variables = network.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return lambda: float(step()), _training_operations(args, _keras_multiplications(network))


def _keras_multiplications(network: Any) -> int:
    total = 0
    for layer in network.layers:
        if layer.__class__.__name__ == "Conv2D":
            _, height, width, _ = layer.output.shape
            total += height * width * int(layer.kernel.shape.num_elements())
        elif layer.__class__.__name__ == "Dense":
            total += int(layer.kernel.shape.num_elements())
    return total


def pytorch_step(args: argparse.Namespace) -> Step:
    import torch

    from models.export.pytorch_network import MLImagesResNet

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = MLImagesResNet(args.depth, args.class_num).train().to(device)
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-4)
    shape = (args.batch, 3, args.image_size, args.image_size)
    images = torch.rand(*shape, device=device) * 2 - 1
    images = images.to(memory_format=torch.channels_last)
    labels = (torch.rand(args.batch, args.class_num, device=device) < 0.001).float()
    half = args.precision != "float32"
    scaler = torch.amp.GradScaler(device, enabled=args.precision == "float16")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, getattr(torch, args.precision), enabled=half):
            logits = network(images).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        return loss.item()  # waits for a GPU

    return step, _operations_of_ours(args)


def _operations_of_ours(args: argparse.Namespace) -> float:
    forward = operations.multiplications(args.image_size, args.class_num, args.depth)
    return _training_operations(args, forward)


def _training_operations(args: argparse.Namespace, multiplications: int) -> float:
    passes = 3  # forward, and backward to activations and to weights
    return 2.0 * passes * args.batch * multiplications


MAKERS: Mapping[str, Callable[[argparse.Namespace], Step]] = {
    OURS: our_step,
    "ours, --recompute": lambda args: our_step(args, recompute=True),
    "keras, oneDNN on": keras_step,
    AS_INSTALLED: keras_step,
    "pytorch": pytorch_step,
    IN_FLOAT32: lambda args: our_step(args, dtype="float32"),
}


def make(name: str, args: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Builds a contender in its process and runs it twice; see `Contender`."""
    start = time.perf_counter()
    step, flops = MAKERS[name](args)
    step()
    first = time.perf_counter() - start
    step()
    dtype = "float32" if name == IN_FLOAT32 else args.precision
    return {
        "first step": lambda: first,
        "operations": lambda: flops,
        "step": lambda: harness.timed(step).seconds,
        "peak": lambda: operations.peak(dtype),
        "memory": lambda: harness.memory_bytes("VmHWM"),
    }


class Stepper:
    """A contender, and the measurements of its steps so far."""

    def __init__(self, name: str, args: argparse.Namespace) -> None:
        self.name, self.batch = name, args.batch
        self.seconds: list[float] = []
        self.peaks: list[float] = []
        self.memory_bytes = 0
        environment = {ONEDNN: None if name == AS_INSTALLED else "1"}
        self.process = Contender(make, name, args, environment=environment)

    def step(self) -> None:
        self.seconds.append(self.process.ask("step"))
        # Measured before the peak loads TensorFlow into a process that has another library.
        self.memory_bytes = self.memory_bytes or self.process.ask("memory")
        if self.name != AS_INSTALLED:  # its peak would differ
            self.peaks.append(self.process.ask("peak"))

    def row(self, ours: Sequence[float]) -> dict[str, Any]:
        """The table row; `ours` are the seconds of our steps in the same rounds."""
        row: dict[str, Any] = {"what": self.name}
        if self.process.failure:
            return row | {"note": self.process.failure}
        rates = [self.process.ask("operations") / seconds for seconds in self.seconds]
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
            "first step s": self.process.ask("first step"),
        }
        return row | ({"ours, times": median_ratio(self.seconds, ours)} if ours else {})


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contender; a note if its library is missing."""
    rows: dict[str, dict[str, Any]] = {}
    for names in _groups(args.contenders, args.together):
        steppers = [Stepper(name, args) for name in names]
        ready = {s.name: s.step for s in steppers if not s.process.failure}
        harness.in_turn(ready, args.rounds)
        ours = steppers[0].seconds if names[0] == OURS else []
        for stepper in steppers:
            rows.setdefault(stepper.name, stepper.row(ours))
            stepper.process.close()
    return list(rows.values())


def _groups(names: Sequence[str], together: int) -> list[list[str]]:
    """The groups that alternate: ours with `together` - 1 others, or each contender alone."""
    ours, peers = [OURS] * (OURS in names), [name for name in names if name != OURS]
    if together == 1 or not peers:
        return [[name] for name in ours + peers]
    return [ours + peers[at : at + together - 1] for at in range(0, len(peers), together - 1)]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        batch=(32, 2),
        precision=("float32", "float32"),
        image_size=(224, 64),
        class_num=(11166, 100),
        depth=(101, 14),  # of ours and PyTorch; Keras is always 101
        contenders=(list(MAKERS)[:-1], [OURS, "pytorch"]),
        together=(3, 3),
        rounds=(5, 1),
    )
