"""Images per second of the inference scripts, from one-megapixel files to features on disk.

    python benchmarks/inference.py [--precision float32] [--images 96] [--rounds 5]
        [--contenders "the network alone" "from files"] [--json FILE]

Compared with the network alone, batch 1, the network without folded batch norm, and ONNX Runtime
and PyTorch with the same weights (the network alone, batch 32). Each runs in its own process, and
they alternate passes. Core milliseconds, over all threads, are most reliable if other programs run.
The limit does the same number of operations, all in one 3 x 3 convolution of the network. A
contender whose library is missing has a note. Goals: from files at least 0.9 of the network alone,
in bfloat16 0.85 of the limit.
"""

import argparse
import contextlib
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from benchmarks import harness, operations
from benchmarks.photographs import jpegs

THREADS = 4
NETWORK, LIMIT = "the network alone", "limit: one convolution"

Pass = Callable[[], Any]


def make_checkpoint(folder: Path, depth: int, class_num: int) -> dict[str, np.ndarray]:
    """Writes a checkpoint of random weights and statistics; returns its tensors by name."""
    from models.architecture import variable_shapes
    from models.checkpoints import checkpoint
    from models.resnet import initial_value

    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in variable_shapes(depth, class_num).items():
        tensors[name] = initial_value(name, shape, seed=0).numpy()
        if name.endswith(("beta", "moving_mean")):
            tensors[name] += rng.normal(0, 0.1, shape).astype(np.float32)
        elif name.endswith(("gamma", "moving_variance")):
            tensors[name] *= rng.uniform(0.8, 1.2, shape).astype(np.float32)
    checkpoint.save(folder / "model.ckpt-0", {**tensors, "global_step": 0}, {})
    return tensors


def write_peers(folder: Path, args: argparse.Namespace) -> None:
    """Writes the checkpoint, and the same network for ONNX Runtime and PyTorch."""
    from models.checkpoints import weight_files

    tensors = make_checkpoint(folder, args.depth, args.class_num)
    with contextlib.suppress(ImportError):  # its contender will report it
        from models.calibration import Calibration
        from models.export import onnx_file

        onnx_file.write(folder / "model.onnx", tensors, args.depth, Calibration("softmax"))
    with contextlib.suppress(ImportError):
        weight_files.write_safetensors(folder / "model.safetensors", tensors, args.depth, 1e-5)


def random_crops(args: argparse.Namespace) -> np.ndarray:
    shape = (args.batch, 1, args.image_size, args.image_size, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def network_alone(args: argparse.Namespace, folder: str, fold: bool = True) -> Pass:
    from models.prediction import inference

    options = inference.NetworkOptions(precision=args.precision, fold_batch_norm=fold)
    network = inference.load(folder, options).network
    predict, crops = inference.Predictor(network, "pooled"), random_crops(args)
    return lambda: _repeat(lambda: predict(crops), args.images // args.batch)


def from_files(args: argparse.Namespace, folder: str, batch_size: int = 0) -> Pass:
    """Does the work of extract_feature.py, without process start-up."""
    from data.common.processes import ProcessGroup
    from data.input.image_batches import Preparation
    from data.outputs import feature_files
    from data.outputs.batch_predictor import BatchPredictor
    from extract_feature import describe
    from models.prediction import inference

    options = inference.NetworkOptions(precision=args.precision)
    predict = inference.Predictor(inference.load(folder, options).network, "pooled")
    job = BatchPredictor(
        sources=[f"{folder}/images"],
        result=Path(folder) / f"features-{batch_size}.npz",
        format=feature_files.formats("float32")[".npz"],
        prepare=Preparation(args.image_size),
        predict=predict,
        describe=describe,
        settings={},
        batch_size=batch_size or args.batch,
        threads=THREADS,
        group=ProcessGroup(),
    )
    return job.run


def convolutions(args: argparse.Namespace, folder: str) -> Pass:
    del folder
    run, flops = operations.convolution(args.precision)
    total = 2 * args.images * operations.multiplications(args.image_size, 0, args.depth)
    return lambda: _repeat(run, round(total / flops) or 1)


def onnx_runtime(args: argparse.Namespace, folder: str) -> Pass:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that spin while waiting would slow the running contender.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        f"{folder}/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    images = np.ascontiguousarray(random_crops(args)[:, 0].transpose(0, 3, 1, 2))
    one_batch = lambda: session.run(["features"], {"images": images})  # noqa: E731
    return lambda: _repeat(one_batch, args.images // args.batch)


def pytorch(args: argparse.Namespace, folder: str) -> Pass:
    import torch

    from models.export.pytorch_network import load

    network = load(f"{folder}/model.safetensors").to(memory_format=torch.channels_last)
    images = torch.from_numpy(random_crops(args)[:, 0].transpose(0, 3, 1, 2))
    images = images.contiguous(memory_format=torch.channels_last)
    dtype = getattr(torch, args.precision)

    def one_batch() -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, args.precision != "float32"):
            network.features(images)

    return lambda: _repeat(one_batch, args.images // args.batch)


def _repeat(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


MAKERS: Mapping[str, Callable[[argparse.Namespace, str], Pass]] = {
    NETWORK: network_alone,
    "from files": from_files,
    "from files, batch 1": lambda args, folder: from_files(args, folder, batch_size=1),
    "the network, unfolded": lambda args, folder: network_alone(args, folder, fold=False),
    LIMIT: convolutions,
    "onnxruntime": onnx_runtime,
    "pytorch": pytorch,
}


def make(name: str, args: argparse.Namespace, folder: str) -> dict[str, Callable[[], Any]]:
    """Builds a contender in its process and runs one pass; see `harness.Contender`."""
    from data.common import start_tensorflow  # noqa: F401 - as the scripts do

    one_pass = MAKERS[name](args, folder)
    one_pass()
    return {"pass": lambda: harness.timed(one_pass)}


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each contender; a note if its library is missing."""
    with tempfile.TemporaryDirectory(prefix="inference-") as folder:
        (Path(folder) / "images").mkdir()
        for number, jpeg in enumerate(jpegs(args.images, tuple(args.photo_size))):
            (Path(folder) / "images" / f"{number:05d}.jpg").write_bytes(jpeg)
        write_peers(Path(folder), args)
        processes = {name: harness.Contender(make, name, args, folder) for name in args.contenders}
        ready = {
            name: lambda process=process: process.ask("pass")
            for name, process in processes.items()
            if not process.failure
        }
        costs = harness.in_turn(ready, args.rounds)
        for process in processes.values():
            process.close()
    rates = {name: [args.images / cost.seconds for cost in costs[name]] for name in costs}
    rows = []
    for name, process in processes.items():
        row: dict[str, Any] = {"what": name, "precision": args.precision}
        if process.failure:
            rows.append(row | {"note": process.failure})
            continue
        row["images/s"] = statistics.median(rates[name])
        row["core ms/image"] = 1000 * statistics.median(c.cpu for c in costs[name]) / args.images
        for column, other in (("of the network", NETWORK), ("of the limit", LIMIT)):
            if other in rates:
                row[column] = harness.median_ratio(rates[name], rates[other])
        rows.append(row)
    return rows


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        precision=("float32", "float32"),
        depth=(101, 14),
        class_num=(11166, 20),
        batch=(32, 2),
        image_size=(224, 32),
        images=(96, 4),
        photo_size=([1184, 888], [300, 200]),
        contenders=(list(MAKERS), [NETWORK, "from files", "onnxruntime"]),
        rounds=(5, 1),
    )
