"""The list jobs at the size of ML-Images, on a synthetic list with the same statistics.

    python benchmarks/lists.py [--rows 17609752] [--processes 2] [--images 30000] [--json FILE]

Adds the ancestors of all labels, computes statistics and checks of the result, and takes a subset
of at most 500 images per class. Goals at full size (5 GB of temporary files): 10 minutes in total
on 2 cores, and 2 GiB of memory, over all processes of a job with shared pages counted once. In the
last row extract_feature.py processes a long list that repeats a few small images, with a tiny
network: memory must not grow with the list.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import psutil

from benchmarks import harness
from benchmarks.photographs import jpegs

CLASSES, TREES = 11_166, 4
LONGEST, MEAN_DEPTH, DEPTH_SPREAD = 16, 7.47, 2.3  # in edges; spec section 1
IMAGENET_FRACTION = 10_706_941 / 17_609_752
TAILS = 100_000
ROWS_AT_ONCE = 100_000
SAMPLE_SECONDS = 0.2
DIFFERENT_IMAGES = 100


def make_dictionary(path: Path) -> None:
    """Writes a hierarchy with the depths of the real one."""
    rng = np.random.default_rng(0)
    drawn = np.clip(rng.normal(MEAN_DEPTH, DEPTH_SPREAD, CLASSES).round(), 1, LONGEST)
    depths = np.sort(np.concatenate([np.zeros(TREES), drawn[TREES:]]).astype(int))
    lines = ["category_index\tcategory_id\tindex_of_parent_category\tcategory name\n"]
    for c, depth in enumerate(depths):
        above = np.searchsorted(depths, [depth - 1, depth])
        parent = int(rng.integers(*above)) if depth else -1
        lines.append(f"{c}\tn{c:08d}\t{parent}\tclass {c}\n")
    path.write_text("".join(lines))


def make_list(path: Path, rows: int) -> None:
    """Writes rows of ImageNet (one label) and of Open Images (one to three, with confidences)."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, TAILS)
    tails = [
        "".join(f"\t{c}:{v / 10:g}" for c, v in zip(labels, values, strict=True))
        for labels, values in (
            (set(rng.integers(0, CLASSES, n).tolist()), rng.integers(6, 11, n)) for n in counts
        )
        if len(labels) == len(values)
    ]
    with open(path, "w", encoding="ascii") as file:
        for start in range(0, rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - start)
            synsets = rng.integers(CLASSES // 10, CLASSES, count).tolist()
            of_imagenet = (rng.random(count) < IMAGENET_FRACTION).tolist()
            which = rng.integers(0, len(tails), count).tolist()
            file.writelines(
                f"n{synset:08d}/n{synset:08d}_{i}.JPEG\t{synset}:1\n"
                if image_net
                else f"https://c4.staticflickr.com/8/7239/{7 * i}_e5fb3938b1_o.jpg{tails[tail]}\n"
                for i, (synset, image_net, tail) in enumerate(
                    zip(synsets, of_imagenet, which, strict=True), start
                )
            )


def jobs(
    tree: Path, rows: Path, dictionary: Path, output: Path, processes: int
) -> dict[str, list[Any]]:
    """Name -> command of the scripts in `tree`; later ones read the first one's output."""
    full, common = output / "full.txt", ("--dictionary", dictionary, "--processes", processes)
    commands = {
        "ancestors": ("annotations.py", "--list", rows, "--output", full, "--ancestors"),
        "statistics": ("label_statistics.py", "--train", full, "--output", output),
        "subset": (
            *("subset.py", "--list", full, "--output", output / "subset.txt"),
            *("--per_class", 500),
        ),
    }
    return {
        name: [sys.executable, tree / "data" / script, *options, *common]
        for name, (script, *options) in commands.items()
    }


def sampled(command: Sequence[Any], cwd: Path) -> tuple[harness.Cost, list[float]]:
    """A command's cost, and samples of the MiB that it and its children use, several a second."""
    samples: list[float] = []

    def watch() -> None:
        with subprocess.Popen(
            [str(argument) for argument in command],
            **{"cwd": cwd, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL},
        ) as process:
            while process.poll() is None:
                samples.append(tree_bytes(process.pid) / 2**20)
                time.sleep(SAMPLE_SECONDS)
        if process.returncode:
            raise SystemExit(f"{command} ended with {process.returncode}")

    return harness.timed_with_children(watch), samples


def tree_bytes(pid: int) -> int:
    """Memory of a process and its children, with shared pages counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # it has ended
        return total
    return total


def list_rows(folder: Path, rows: int, processes: int) -> list[dict[str, Any]]:
    """A row for each job, and one for their total."""
    dictionary, raw = folder / "dictionary.txt", folder / "raw.txt"
    make_dictionary(dictionary)
    make_list(raw, rows)
    measured = [
        {"what": name, "rows": rows, **cost._asdict(), "MiB": max(samples)}
        for name, command in jobs(harness.ROOT, raw, dictionary, folder, processes).items()
        for cost, samples in [sampled(command, folder)]
    ]
    total = {name: sum(row[name] for row in measured) for name in ("seconds", "cpu")}
    largest = max(row["MiB"] for row in measured)
    return [*measured, {"what": "all", "rows": rows, **total, "MiB": largest}]


def features_row(folder: Path, images: int) -> dict[str, Any]:
    """Runs extract_feature.py on a list that repeats a few images."""
    few = jpegs(DIFFERENT_IMAGES, (120, 90))
    for number, jpeg in enumerate(few):
        (folder / f"{number}.jpg").write_bytes(jpeg)
    with open(folder / "images.txt", "w", encoding="ascii") as file:
        file.writelines(f"{row % len(few)}.jpg\t{row}\n" for row in range(images))
    tiny = "--resnet_size=14", "--width=8", "--class_num=20", "--image_size=32"
    train = "train.py", "--synthetic", "--max_iter=1", "--batch_size=2", "--model_dir=model"
    harness.run(harness.from_root(*train, *tiny), cwd=folder)
    extract = "extract_feature.py", "--images=images.txt", "--image_size=32", "--batch_size=64"
    command = harness.from_root(*extract, "--pretrain_ckpt=model", "--result=features.npz")
    cost, samples = sampled(command, folder)
    quarter = len(samples) // 4  # the first quarter includes start-up
    return {
        "what": "features of a long list",
        "rows": images,
        **cost._asdict(),
        "MiB": max(samples),
        "MiB, second quarter": max(samples[quarter : 2 * quarter]),
        "MiB, second half": max(samples[2 * quarter :]),
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        return [
            *list_rows(folder, args.rows, args.processes),
            features_row(folder, args.images),
        ]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        rows=(1_000_000, 2_000),
        processes=(2, 2),
        images=(30_000, 500),
    )
