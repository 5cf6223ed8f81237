"""Conversion of JPEGs to records, compared with the rate at which this machine decodes them.

    python benchmarks/conversion.py [--images 10000] [--processes 1 2] [--rounds 5] [--json FILE]

Both read the same files of 500 x 375 pixels with the same number of processes. The limit only
decodes them, with Pillow; the conversion is the whole command `data/tfrecord.py`, including
start-up and manifest. Goals: at least 0.75 of the limit, and under 200 bytes of label per image (a
dense vector of 11,166 classes takes 44,664).
"""

import argparse
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image

from benchmarks import harness, photographs

CLASSES, QUALITY = 11166, 92
FILES_A_TASK = 256


def decode(paths: list[Path]) -> None:
    for path in paths:
        with Image.open(path) as image:
            image.convert("RGB")


def decode_all(paths: list[Path], processes: int) -> None:
    tasks = [paths[i : i + FILES_A_TASK] for i in range(0, len(paths), FILES_A_TASK)]
    with ProcessPoolExecutor(processes) as pool:
        list(pool.map(decode, tasks))


def convert(rows: Path, processes: int) -> Path:
    """The records of a list, in a folder next to it."""
    folder = rows.with_suffix("")
    records = rows.with_name("records")
    harness.run(["rm", "-rf", records])
    options = "--indexs", rows, "--images", folder, "--tfrecords", records
    harness.run(harness.from_root("data/tfrecord.py", *options, "--processes", processes))
    return records


def row(rows: Path, processes: int, rounds: int) -> dict[str, Any]:
    """Medians of decoding and converting."""
    paths = sorted(rows.with_suffix("").glob("*.jpg"))
    jobs = {
        "decode": lambda: decode_all(paths, processes),
        "convert": lambda: convert(rows, processes),
    }
    timed = {name: lambda job=job: harness.timed_with_children(job) for name, job in jobs.items()}
    costs = harness.in_turn(timed, rounds)
    several = f"{processes} process{'es' * (processes > 1)}"
    found: dict[str, Any] = {"what": f"{len(paths):,} images, {several}"}
    for name, measured in costs.items():
        found[f"{name}, images/s"] = len(paths) / statistics.median(c.seconds for c in measured)
        found[f"{name}, CPU ms"] = 1e3 * statistics.median(c.cpu for c in measured) / len(paths)
    seconds = ([cost.seconds for cost in costs[name]] for name in jobs)
    return found | {"of the decode limit": harness.median_ratio(*seconds)}


def label_bytes(kind: str) -> int:
    """Bytes that an image's label adds to a record."""
    from data.tfrecords.examples import encode_example

    classes = list(range(1000, 1000 + photographs.LABELS_PER_IMAGE))
    record = encode_example(kind, b"", "", 1, 1, classes, [1.0] * len(classes), CLASSES)
    return len(record) - len(encode_example("single", b"", "", 1, 1, [0]))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        images = photographs.jpegs(args.images, quality=QUALITY)
        rows = photographs.write(Path(folder) / "images", images, CLASSES)
        measured = [row(rows, processes, args.rounds) for processes in args.processes]
    labels = {f"label bytes, {kind}": label_bytes(kind) for kind in ("sparse", "dense")}
    return [{**row, **labels} for row in measured]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        images=(10_000, 20),
        processes=([1, 2], [1]),
        rounds=(5, 1),
    )
