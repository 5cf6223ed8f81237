"""Checks a GPU's results and speed: everything to test on a new card, in one command.

    python benchmarks/gpu_check.py [--checks gradients speed resume prediction] [--batches 64 128]
        [--image_size 224] [--class_num 11166] [--depth 101] [--steps 30] [--json FILE]

gradients: loss and gradients of one batch, in each precision and layout, compared with float32 on
the CPU. speed: images/s of train.py --synthetic, in each precision and layout, with and without
--xla, compared with PyTorch (channels last, autocast) on the same card. resume: a --deterministic
run in two parts, compared bit for bit with an uninterrupted one. prediction: features of
photographs, compared with the CPU's. Without a GPU it runs what it can on the CPU.
benchmarks/input.py shows whether the CPU cores can feed the card.
"""

import argparse
import itertools
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness, photographs, training_step
from benchmarks.harness import Contender, from_root, run

ON_CPU = {"CUDA_VISIBLE_DEVICES": "-1"}
PRECISIONS = ("float32", "bfloat16", "float16")
LOSS_SCALE = {"float16": 128.0}
TINY = ("--resnet_size=14", "--width=8", "--image_size=64", "--class_num=20", "--batch_size=8")

Row = dict[str, Any]


def devices() -> list[str]:
    """Name and compute capability of each GPU that TensorFlow sees; runs in another process."""
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first
    import tensorflow as tf

    details = tf.config.experimental.get_device_details
    found = (details(gpu) for gpu in tf.config.list_physical_devices("GPU"))
    return [f"{d.get('device_name')}, {d.get('compute_capability')}" for d in found]


def gradients_of(args: argparse.Namespace, precision: str, layout: str, tf32: bool) -> np.ndarray:
    """The loss of a batch, followed by its gradients, float32."""
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first
    import tensorflow as tf

    from models.losses import bce_loss
    from models.resnet import ResNet

    tf.config.experimental.enable_tensor_float_32_execution(tf32)
    network = ResNet(args.depth, args.class_num, data_format=layout, compute_dtype=precision)
    rng, count = np.random.default_rng(1), min(args.batches)
    shape = (count, args.image_size, args.image_size, 3)
    images = tf.constant(rng.uniform(-1, 1, shape), tf.float32)
    classes = tf.constant(rng.integers(args.class_num, size=(count, 1)), tf.int32)
    variables = list(network.trainable_by_name().values())
    scale = LOSS_SCALE.get(precision, 1.0)

    @tf.function
    def compute() -> tuple[tf.Tensor, list[tf.Tensor]]:
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = bce_loss(logits, classes, tf.ones(tf.shape(classes)), positive_weight=12.0)
            scaled = loss * scale
        return loss, [g / scale for g in tape.gradient(scaled, variables)]

    loss, found = compute()
    return np.concatenate([[loss.numpy()], *(g.numpy().ravel() for g in found)])


def in_process(job: Callable[..., Any], *values: Any, environment: Any = None) -> Any:
    """The result of a job run in its own process. Raises RuntimeError with its error message."""
    process = Contender(_only, job, values, environment=environment)
    if process.failure:
        raise RuntimeError(process.failure)
    try:
        return process.ask("value")
    finally:
        process.close()


def _only(job: Callable[..., Any], values: tuple[Any, ...]) -> dict[str, Callable[[], Any]]:
    value = job(*values)
    return {"value": lambda: value}


def check_gradients(args: argparse.Namespace, gpu: bool) -> Iterator[Row]:
    """Relative differences from float32 on the CPU, for the loss and for all gradients combined."""
    plain = (args, "float32", "NHWC", False)
    expected = in_process(gradients_of, *plain, environment=ON_CPU)
    layouts = ("NHWC", "NCHW") if gpu else ("NHWC",)
    for precision, layout in itertools.product(PRECISIONS, layouts):
        for tf32 in (False, True) if gpu and precision == "float32" else (False,):
            what = f"gradients, {precision}{', TF32' * tf32}, {layout}"
            try:
                found = in_process(gradients_of, args, precision, layout, tf32)
            except RuntimeError as error:
                yield {"what": what, "result": str(error)}
                continue
            difference = np.linalg.norm(found[1:] - expected[1:]) / np.linalg.norm(expected[1:])
            loss = abs(found[0] / expected[0] - 1)
            yield {
                "what": what,
                "loss differs by": float(loss),
                "gradients differ by": float(difference),
            }


def check_speed(args: argparse.Namespace, gpu: bool) -> Iterator[Row]:
    """images/s of each setting, and of PyTorch."""
    settings = itertools.product(
        PRECISIONS if gpu else ("float32",),
        ("NHWC", "NCHW") if gpu else ("NHWC",),
        (False, True) if gpu else (False,),
    )
    for precision, layout, xla in settings:
        for batch in args.batches:
            what = f"{precision}, {layout}, batch {batch}" + ", --xla" * xla
            flags = f"--precision={precision}", f"--data_format={layout}", f"--batch_size={batch}"
            yield {"what": f"train.py, {what}"} | _train_speed(args, *flags, f"--xla={xla}")
    for precision, batch in itertools.product(PRECISIONS if gpu else ("float32",), args.batches):
        try:
            speed = in_process(pytorch_speed, args, precision, batch)
            row: Row = {"images/s": speed}
        except RuntimeError as error:
            row = {"result": str(error)}
        yield {"what": f"PyTorch, {precision}, channels last, batch {batch}"} | row


def _train_speed(args: argparse.Namespace, *flags: str) -> Row:
    sizes = f"--resnet_size={args.depth}", f"--image_size={args.image_size}"
    steps = args.steps
    length = f"--max_iter={steps}", f"--log_interval={steps}", f"--prof_interval={steps // 2 or 1}"
    with tempfile.TemporaryDirectory() as folder:
        places = f"--model_dir={folder}/run", f"--log_dir={folder}/log"
        more = "--synthetic", f"--class_num={args.class_num}"
        try:
            printed = run(from_root("train.py", *sizes, *length, *places, *more, *flags))
        except RuntimeError as error:
            return {"result": str(error).splitlines()[-1][:100]}
        rows = Path(folder, "log", "training.jsonl").read_text().splitlines()
    memory = re.search(r"peak memory ([\d.]+) GiB", printed)
    return {
        "images/s": json.loads(rows[-1])["images_per_second"],
        "host memory GiB": float(memory[1]) if memory else "",
    }


def pytorch_speed(args: argparse.Namespace, precision: str, batch: int) -> float:
    """images/s of the same network in PyTorch, on the GPU if PyTorch finds one."""
    sizes = argparse.Namespace(**vars(args) | {"precision": precision, "batch": batch})
    step, _ = training_step.pytorch_step(sizes)
    return batch / harness.median_seconds(step, max(3, args.steps // 2), warm_ups=3)


def check_resume(args: argparse.Namespace, gpu: bool) -> Iterator[Row]:
    """Compares a resumed and an uninterrupted --deterministic run, every variable bit for bit."""
    del args, gpu
    with tempfile.TemporaryDirectory() as folder:
        for name, ends in (("straight", (6,)), ("parted", (3, 6))):
            for end in ends:
                places = f"--model_dir={folder}/{name}", f"--log_dir={folder}/{name}/log"
                flags = "--synthetic", "--deterministic", f"--max_iter={end}", "--lr=0.01"
                run(from_root("train.py", *TINY, *places, *flags))
        prefixes = [f"{folder}/{name}/model.ckpt-6" for name in ("straight", "parted")]
        differing = in_process(differing_tensors, *prefixes, environment=ON_CPU)
    result = f"{len(differing)} tensors differ: {differing[:3]}" if differing else "equal"
    yield {"what": "a deterministic run in two parts", "result": result}


def differing_tensors(one: str, other: str) -> list[str]:
    """Names of the tensors of two checkpoints that are not bit-identical."""
    from data.common import start_tensorflow  # noqa: F401, I001 - as our scripts do, first

    from models.checkpoints import checkpoint

    first, second = checkpoint.read(one), checkpoint.read(other)
    return [n for n in first.shapes if first.tensor(n).tobytes() != second.tensor(n).tobytes()]


def check_prediction(args: argparse.Namespace, gpu: bool) -> Iterator[Row]:
    """Compares features of photographs with the CPU's; the time includes start-up."""
    del gpu
    with tempfile.TemporaryDirectory() as folder:
        network = f"--resnet_size={args.depth}", f"--class_num={args.class_num}"
        places = f"--model_dir={folder}/run", f"--log_dir={folder}/log"
        size = f"--image_size={args.image_size}", "--batch_size=2"
        run(from_root("train.py", "--synthetic", "--max_iter=1", *network, *size, *places))
        images = Path(folder, "images")
        images.mkdir()
        for number, jpeg in enumerate(photographs.jpegs(16)):
            (images / f"{number}.jpg").write_bytes(jpeg)
        found, seconds = {}, {}
        for name, environment in (("here", {}), ("CPU", ON_CPU)):
            result = f"{folder}/{name}.npy"
            flags = f"--pretrain_ckpt={folder}/run", f"--result={result}", str(images)
            start = time.perf_counter()
            run(from_root("extract_feature.py", *flags), env=os.environ | environment)
            seconds[name] = time.perf_counter() - start
            found[name] = np.load(result)
    difference = np.linalg.norm(found["here"] - found["CPU"]) / np.linalg.norm(found["CPU"])
    row = {"what": f"features of {len(found['CPU'])} photographs", "result": ""}
    yield row | {"features differ by": float(difference), "s, with start": seconds["here"]}


CHECKS: Mapping[str, Callable[[argparse.Namespace, bool], Iterator[Row]]] = {
    "gradients": check_gradients,
    "speed": check_speed,
    "resume": check_resume,
    "prediction": check_prediction,
}


def measure(args: argparse.Namespace) -> list[Row]:
    """A row for each check and setting; a note if a check fails."""
    gpus = in_process(devices)
    rows: list[Row] = [{"what": "device", "result": "; ".join(gpus) or "no GPU"}]
    for name in args.checks:
        try:
            rows += CHECKS[name](args, bool(gpus))
        except RuntimeError as error:
            rows.append({"what": name, "result": str(error)[-200:]})
    return rows


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        checks=(list(CHECKS), list(CHECKS)),
        batches=([64, 128, 256], [2]),
        image_size=(224, 64),
        class_num=(11166, 20),
        depth=(101, 14),
        steps=(30, 4),
    )
