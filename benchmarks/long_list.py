"""A long list through extract_feature.py: constant memory, and a kill -9 that changes no byte.

    python benchmarks/long_list.py [--images 100000] [--plot memory.png] [--json FILE]

The list names a few hundred small images over and over; the network is tiny, so that the run is
about lists, decoding and files. One run goes straight through, the other is killed in the middle
and started again; their results must be the same bytes. Memory is sampled from outside, twice a
second. It fails when the bytes differ, or the second half of the run needs 5 % more than the first.
"""

import argparse
import filecmp
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks.measuring import report

DIFFERENT_IMAGES = 300
SAMPLE_SECONDS = 0.5
MOST_GROWTH = 1.05
KINDS = ("jpg", "png", "webp", "gif", "bmp")
IMAGE_SIZE, WIDTH, CLASS_NUM = 32, 8, 20


class Run(NamedTuple):
    """Memory samples of a process in bytes, and how long it ran."""

    memory_bytes: list[int]
    seconds: float


def make_inputs(folder: Path, images: int) -> None:
    """Images of several formats (one of them torn), a long list of them, and a checkpoint."""
    from models.architecture import variable_shapes
    from models.checkpoints import checkpoint
    from models.resnet import initial_value

    rng = np.random.default_rng(0)
    names = []
    for number in range(DIFFERENT_IMAGES):
        size = (*rng.integers(40, 200, 2), 3)
        name = f"{number:03d}.{KINDS[number % len(KINDS)]}"
        Image.fromarray(rng.integers(0, 256, size, np.uint8)).save(folder / name)
        names.append(name)
    (folder / names[0]).write_bytes((folder / names[0]).read_bytes()[:500])
    with open(folder / "list.txt", "w") as file:
        for row in range(images):
            file.write(f"{names[row % len(names)]}\t{row}\n")
    shapes = variable_shapes(14, CLASS_NUM, WIDTH)
    tensors = {name: initial_value(name, shape, 0) for name, shape in shapes.items()}
    checkpoint.save(folder / "model.ckpt-0", {**tensors, "global_step": 0}, {})


def extract(folder: Path, result: str, kill_at_bytes: int | None = None) -> Run:
    """Runs the script; with `kill_at_bytes`, kills it when so much of its output is there."""
    script = Path(__file__).resolve().parents[1] / "extract_feature.py"
    command = [sys.executable, script, "--images=list.txt", f"--result={result}"]
    command += [f"--pretrain_ckpt={folder}", f"--image_size={IMAGE_SIZE}", "--batch_size=64"]
    started, samples = time.monotonic(), []
    partial = folder / f"{result}.partial"
    with subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            samples.append(_resident_bytes(process.pid))
            done = sum(path.stat().st_size for path in partial.glob("*[0-9]"))
            if kill_at_bytes and done > kill_at_bytes:
                process.send_signal(signal.SIGKILL)
                process.wait()
            time.sleep(SAMPLE_SECONDS)
    expected = -signal.SIGKILL if kill_at_bytes else 0
    if process.returncode != expected:
        raise SystemExit(f"{script.name} ended with {process.returncode} instead of {expected}")
    return Run([sample for sample in samples if sample], time.monotonic() - started)


def _resident_bytes(pid: int) -> int:
    """Memory of a process; 0 when it has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(found[0].split()[1]) * 1024 if found else 0


def plot(path: str, run: Run) -> None:
    from data.common import html

    figure, (axes,) = html.panels(1)
    seconds = np.linspace(0, run.seconds, len(run.memory_bytes))
    axes.plot(seconds, np.array(run.memory_bytes) / 2**20)
    axes.set(xlabel="seconds", ylabel="resident memory, MiB", title="extract_feature.py")
    axes.set_ylim(bottom=0)
    html.write_figure(path, figure)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--plot", help="image of the memory over time")
    parser.add_argument("--json", help="file for the figures as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="long-list-") as name:
        folder = Path(name)
        make_inputs(folder, args.images)
        straight = extract(folder, "straight.npz")
        if args.plot:
            plot(args.plot, straight)
        size = (folder / "straight.npz").stat().st_size
        killed = extract(folder, "killed.npz", kill_at_bytes=size // 2)
        resumed = extract(folder, "killed.npz")
        same = filecmp.cmp(folder / "straight.npz", folder / "killed.npz", shallow=False)
    # The first quarter is the start of Python and TensorFlow.
    quarter = len(straight.memory_bytes) // 4
    middle = max(straight.memory_bytes[quarter : 2 * quarter])
    end = max(straight.memory_bytes[2 * quarter :])
    row = {
        "images": args.images,
        "images/s": args.images / straight.seconds,
        "MiB, second quarter": middle / 2**20,
        "MiB, second half": end / 2**20,
        "killed after s": killed.seconds,
        "resumed for s": resumed.seconds,
        "identical bytes": same,
    }
    report("A long list", [row], args.json)
    return 0 if same and end < MOST_GROWTH * middle else 1


if __name__ == "__main__":
    sys.exit(main())
