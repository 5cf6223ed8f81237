"""Images a second of the inference scripts, from files of about a megapixel to features on disk.

    python benchmarks/inference.py [--precision float32] [--depth 101] [--images 128]
        [--rounds 5] [--contenders network files ...] [--json FILE]

Next to it: the network alone, batch 1, the network without folded batch norm, and ONNX Runtime and
PyTorch with the same weights (the network alone, batch 32). All of them live in processes of their
own and take turns, a pass each a round, so that noise slows all alike; figures are medians
over the rounds. Core milliseconds, of all threads together, tell most where other programs run.
The limit is the rate at which a convolution does as many operations. What cannot be imported says
so. Bars: files at least 0.9 of the network alone, in bfloat16 0.85 of the limit.
"""

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks import contenders
from benchmarks.measuring import multiplications, report

CLASS_NUM = 11166
IMAGE_SIZE = 224
BATCH_SIZE = 32
THREADS = 4
PHOTO_SIZE = (1184, 888)
JPEG_QUALITY = 90

Pass = Callable[[], None]


def make_images(folder: Path, count: int) -> None:
    """JPEG files of about a megapixel, cut out of real photographs."""
    from skimage import data as photographs

    sources = [photographs.astronaut(), photographs.coffee(), photographs.chelsea()]
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(count):
        image = Image.fromarray(sources[number % len(sources)])
        left, top = (int(rng.integers(side // 5)) for side in image.size)
        part = image.crop((left, top, left + image.width * 4 // 5, top + image.height * 4 // 5))
        part = part.resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
        part.save(folder / f"{number:05d}.jpg", quality=JPEG_QUALITY)


def make_checkpoint(folder: Path, depth: int) -> None:
    """A network of random weights and statistics, as a checkpoint, for ONNX and for PyTorch."""
    from models.architecture import variable_shapes
    from models.checkpoints import checkpoint
    from models.resnet import initial_value

    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in variable_shapes(depth, CLASS_NUM).items():
        tensors[name] = initial_value(name, shape, seed=0).numpy()
        if name.endswith(("beta", "moving_mean")):
            tensors[name] += rng.normal(0, 0.1, shape).astype(np.float32)
        elif name.endswith(("gamma", "moving_variance")):
            tensors[name] *= rng.uniform(0.8, 1.2, shape).astype(np.float32)
    checkpoint.save(folder / "model.ckpt-0", {**tensors, "global_step": 0}, {})
    for module, suffix, options in (
        ("models.export.onnx_file", "onnx", ["softmax"]),
        ("models.checkpoints.pytorch_weights", "safetensors", [1e-5]),
    ):
        try:
            writer = importlib.import_module(module)
        except ImportError:
            continue  # its contender will say so
        writer.write(folder / f"model.{suffix}", tensors, depth, *options)


def random_crops(count: int) -> np.ndarray:
    shape = (count, 1, IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


def network_alone(args: argparse.Namespace, fold: bool = True) -> Pass:
    from models.prediction import inference

    options = inference.NetworkOptions(precision=args.precision, fold_batch_norm=fold)
    network = inference.load(args.folder, options).network
    predict, crops = inference.Predictor(network, "pooled"), random_crops(BATCH_SIZE)
    return lambda: _repeat(lambda: predict(crops), args.images // BATCH_SIZE)


def files(args: argparse.Namespace, batch_size: int = BATCH_SIZE) -> Pass:
    """What extract_feature.py does, without the start of the process."""
    from data.common.processes import ProcessGroup
    from data.input.image_batches import Preparation
    from data.outputs import feature_files
    from data.outputs.batch_predictor import BatchPredictor
    from extract_feature import describe
    from models.prediction import inference

    options = inference.NetworkOptions(precision=args.precision)
    predict = inference.Predictor(inference.load(args.folder, options).network, "pooled")
    job = BatchPredictor(
        sources=[f"{args.folder}/images"],
        result=Path(args.folder) / f"features-{batch_size}.npz",
        format=feature_files.formats("float32")[".npz"],
        prepare=Preparation(IMAGE_SIZE),
        predict=predict,
        describe=describe,
        settings={},
        batch_size=batch_size,
        threads=THREADS,
        group=ProcessGroup(),
    )
    return lambda: _ignore(job.run())


def convolutions(args: argparse.Namespace) -> Pass:
    """The limit: as many operations as the network's, all in one of its larger convolutions."""
    import tensorflow as tf

    from benchmarks.limits import convolution

    run, operations = convolution(tf.as_dtype(args.precision))
    total = 2 * args.images * multiplications(IMAGE_SIZE, 0, args.depth)
    return lambda: _repeat(run, round(total / operations))


def onnx_runtime(args: argparse.Namespace) -> Pass:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # Threads that wait by spinning would slow the contender whose turn it is.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        f"{args.folder}/model.onnx", options, providers=["CPUExecutionProvider"]
    )
    images = np.ascontiguousarray(random_crops(BATCH_SIZE)[:, 0].transpose(0, 3, 1, 2))
    one_batch = lambda: session.run(["features"], {"images": images})  # noqa: E731
    return lambda: _repeat(one_batch, args.images // BATCH_SIZE)


def pytorch(args: argparse.Namespace) -> Pass:
    import torch

    from models.export.pytorch_network import load

    network = load(f"{args.folder}/model.safetensors").to(memory_format=torch.channels_last)
    images = torch.from_numpy(random_crops(BATCH_SIZE)[:, 0].transpose(0, 3, 1, 2))
    images = images.contiguous(memory_format=torch.channels_last)
    dtype = getattr(torch, args.precision)

    def one_batch() -> None:
        with torch.inference_mode(), torch.autocast("cpu", dtype, args.precision != "float32"):
            network.features(images)

    return lambda: _repeat(one_batch, args.images // BATCH_SIZE)


CONTENDERS: dict[str, Callable[[argparse.Namespace], Pass]] = {
    "network": network_alone,
    "files": files,
    "files, batch 1": lambda args: files(args, batch_size=1),
    "network, unfolded": lambda args: network_alone(args, fold=False),
    "limit: one convolution": convolutions,
    "onnxruntime": onnx_runtime,
    "pytorch": pytorch,
}


def _repeat(call: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        call()


def _ignore(value: Any) -> None:
    del value


def serve_one(args: argparse.Namespace) -> None:
    """One contender, in this process: a pass to warm up, then one at each word."""
    from data.common import script  # noqa: F401 - switches oneDNN on before TensorFlow is imported, as scripts do

    one_pass = CONTENDERS[args.one](args)

    def timed() -> tuple[float, float]:
        started, core_started = time.perf_counter(), time.process_time()
        one_pass()
        return time.perf_counter() - started, time.process_time() - core_started

    one_pass()
    contenders.serve("ready", {"pass": timed})


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """A row a contender; those that cannot be imported say so."""
    settings = "folder", "precision", "images", "depth"
    options = [f"--{name}={getattr(args, name)}" for name in settings]
    processes = {
        name: contenders.Contender([__file__, "--one", name, *options]) for name in args.contenders
    }
    ready = [name for name, process in processes.items() if process.facts]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in processes}
    for _ in range(args.rounds):
        for name in ready:
            seconds[name].append(processes[name].ask("pass"))
    rates = {name: [args.images / wall for wall, _ in seconds[name]] for name in ready}
    compared = {
        "of the network": rates.get("network"),
        "of the limit": next((rates[name] for name in ready if name.startswith("limit")), None),
    }
    rows = []
    for name, process in processes.items():
        row: dict[str, Any] = {"what": name, "dtype": args.precision}
        if name in rates:
            row["images/s"] = statistics.median(rates[name])
            row["least"], row["most"] = min(rates[name]), max(rates[name])
            row["core ms/image"] = 1000 * statistics.median(c for _, c in seconds[name])
            row["core ms/image"] /= args.images
            row |= {
                what: contenders.median_ratio(rates[name], others)
                for what, others in compared.items()
                if others
            }
        else:
            row["note"] = process.failure()
        process.close()
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--depth", type=int, default=101, choices=[14, 50, 101, 152])
    parser.add_argument("--images", type=int, default=4 * BATCH_SIZE, help="a pass")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS)
    parser.add_argument("--json", help="file for the rows as JSON")
    parser.add_argument("--one", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        serve_one(args)
        return 0
    with tempfile.TemporaryDirectory(prefix="inference-") as args.folder:
        make_images(Path(args.folder) / "images", args.images)
        make_checkpoint(Path(args.folder), args.depth)
        rows = measure(args)
    title = f"ResNet-{args.depth}, {args.precision}, {args.images} images of "
    report(f"{title}{PHOTO_SIZE[0]} x {PHOTO_SIZE[1]} pixels", rows, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
