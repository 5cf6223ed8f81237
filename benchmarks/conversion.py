"""Times the conversion of JPEGs to records against the rate at which this machine decodes them.

    python benchmarks/conversion.py [--images 10000] [--processes 1 2] [--repeats 3] [--json FILE]

Both read the same files of 500 x 375 pixels with the same number of processes: the limit decodes
them with Pillow and does nothing else; the conversion is the whole command `data/tfrecord.py`,
start-up and manifest included. Bars: at least 0.75 of the limit, and under 200 bytes of label an
image, where a dense vector of 11,166 classes takes 44,664.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
from PIL import Image

from benchmarks.measuring import child_cpu_seconds, report
from data.common import images
from data.tfrecords.examples import encode_example

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HEIGHT, QUALITY = 500, 375, 92
CLASSES, TAGS = 11166, 9  # ML-Images has 8.72 tags per image
FILES_A_TASK = 256


def make_images(folder: Path, count: int) -> Path:
    """Crops of scikit-image's photographs, and the list of them; returns the list."""
    from skimage import data  # of the extra `demo`

    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    large = [Image.fromarray(photo).resize((750, 600)) for photo in photographs]
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        x, y = int(rng.integers(750 - WIDTH)), int(rng.integers(600 - HEIGHT))
        crop = large[i % len(large)].crop((x, y, x + WIDTH, y + HEIGHT))
        crop.save(folder / f"{i}.jpg", quality=QUALITY)
        tags = rng.choice(CLASSES, TAGS, replace=False)
        lines.append(f"{i}.jpg" + "".join(f"\t{c}:1" for c in tags) + "\n")
    (folder / "list.txt").write_text("".join(lines))
    return folder / "list.txt"


def decode_all(paths: list[Path]) -> int:
    for path in paths:
        images.decode(path.read_bytes())
    return len(paths)


def check_all(paths: list[Path]) -> int:
    for path in paths:
        images.whole(path.read_bytes())
    return len(paths)


class Rate(NamedTuple):
    """Images a second, and milliseconds of CPU an image, over all processes."""

    images: float
    cpu: float

    @classmethod
    def of(cls, job: Callable[[], object], count: int) -> Rate:
        start, cpu = time.perf_counter(), child_cpu_seconds()
        job()
        seconds = time.perf_counter() - start
        return cls(count / seconds, 1000 * (child_cpu_seconds() - cpu) / count)


def each_file(job: Callable, paths: list[Path], processes: int) -> None:
    """Does a job for each file, in processes of its own."""
    tasks = [paths[i : i + FILES_A_TASK] for i in range(0, len(paths), FILES_A_TASK)]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(job, tasks))


def convert(listing: Path, processes: int) -> None:
    output = listing.parent / "records"
    shutil.rmtree(output, ignore_errors=True)
    command = [sys.executable, ROOT / "data/tfrecord.py", "--indexs", listing]
    command += ["--images", listing.parent, "--tfrecords", output, "--processes", str(processes)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def measure(listing: Path, paths: list[Path], processes: int, repeats: int) -> dict[str, str]:
    """Medians of decoding, checking and converting, which take turns on the machine."""
    jobs = {
        "decode": lambda: each_file(decode_all, paths, processes),
        "check": lambda: each_file(check_all, paths, processes),
        "convert": lambda: convert(listing, processes),
    }
    rates = [{name: Rate.of(job, len(paths)) for name, job in jobs.items()} for _ in range(repeats)]
    row = {"processes": str(processes)}
    for name in jobs:
        row[f"{name}, images/s"] = f"{statistics.median(rate[name].images for rate in rates):,.0f}"
        row[f"{name}, CPU ms"] = f"{statistics.median(rate[name].cpu for rate in rates):.2f}"
    shares = [rate["convert"].images / rate["decode"].images for rate in rates]
    return {**row, "of the decode limit": f"{statistics.median(shares):.2f}"}


def label_bytes(kind: str) -> int:
    """Bytes that the label of an image adds to a record."""
    classes = list(range(1000, 1000 + TAGS))
    record = encode_example(kind, b"", "", 1, 1, classes, [1.0] * TAGS, CLASSES)
    without = encode_example("single", b"", "", 1, 1, [0])
    return len(record) - len(without)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="also write the rates here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        listing = make_images(Path(folder), args.images)
        paths = sorted(Path(folder).glob("*.jpg"))
        size = statistics.mean(path.stat().st_size for path in paths)
        rows = [measure(listing, paths, count, args.repeats) for count in args.processes]
    title = f"{args.images} JPEGs of {WIDTH} x {HEIGHT}, {size:,.0f} bytes each"
    report(title, rows, args.json)
    labels = [{"kind": kind, "label bytes": label_bytes(kind)} for kind in ("dense", "sparse")]
    report(f"Labels of {TAGS} tags of {CLASSES} classes", labels)


if __name__ == "__main__":
    main()
