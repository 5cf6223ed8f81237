"""Times the jobs over lists at the size of ML-Images, on a made-up list of the same shape.

    python benchmarks/lists.py [--rows 17609752] [--processes 2] [--folder DIR] [--json FILE]

First the ancestors of all tags are added, then statistics and checks are made of the result, and
an excerpt of at most 500 images per class is taken from it. Bars: 10 minutes in all on 2 cores, and
2 GiB of memory, which is that of all processes of a job together, shared pages counted once.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import psutil

from benchmarks.measuring import child_cpu_seconds, report

ROOT = Path(__file__).resolve().parents[1]
CLASSES, TREES = 11_166, 4
LONGEST, MEAN_DEPTH, DEPTH_SPREAD = 16, 7.47, 2.3  # in edges; spec section 1
IMAGENET_SHARE = 10_706_941 / 17_609_752
TAILS = 100_000
ROWS_AT_ONCE = 100_000
SAMPLE_SECONDS = 0.2


def make_dictionary(path: Path) -> np.ndarray:
    """A hierarchy with the depths of the real one; returns the depth of each class."""
    rng = np.random.default_rng(0)
    drawn = np.clip(rng.normal(MEAN_DEPTH, DEPTH_SPREAD, CLASSES).round(), 1, LONGEST)
    depths = np.sort(np.concatenate([np.zeros(TREES), drawn[TREES:]]).astype(int))
    lines = ["category_index\tcategory_id\tindex_of_parent_category\tcategory name\n"]
    for c, depth in enumerate(depths):
        above = np.searchsorted(depths, [depth - 1, depth])
        parent = int(rng.integers(*above)) if depth else -1
        lines.append(f"{c}\tn{c:08d}\t{parent}\tclass {c}\n")
    path.write_text("".join(lines))
    return depths


def make_list(path: Path, rows: int) -> None:
    """Rows of ImageNet with one tag, and of Open Images with one to three and confidences."""
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 4, TAILS)
    tails = [
        "".join(f"\t{c}:{v / 10:g}" for c, v in zip(tags, values, strict=True))
        for tags, values in (
            (set(rng.integers(0, CLASSES, n).tolist()), rng.integers(6, 11, n)) for n in counts
        )
        if len(tags) == len(values)
    ]
    with open(path, "w", encoding="ascii") as file:
        for start in range(0, rows, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, rows - start)
            synsets = rng.integers(CLASSES // 10, CLASSES, count).tolist()
            of_imagenet = (rng.random(count) < IMAGENET_SHARE).tolist()
            which = rng.integers(0, len(tails), count).tolist()
            file.writelines(
                f"n{synset:08d}/n{synset:08d}_{i}.JPEG\t{synset}:1\n"
                if image_net
                else f"https://c4.staticflickr.com/8/7239/{7 * i}_e5fb3938b1_o.jpg{tails[tail]}\n"
                for i, (synset, image_net, tail) in enumerate(
                    zip(synsets, of_imagenet, which, strict=True), start
                )
            )


def run(script: str, *options: object) -> tuple[float, float, int]:
    """Seconds, seconds of CPU, and peak bytes of the process and its children together."""
    command = [sys.executable, ROOT / "data" / script, *map(str, options)]
    peak = 0
    start, cpu = time.perf_counter(), child_cpu_seconds()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(SAMPLE_SECONDS)
        seconds = time.perf_counter() - start
        print(process.stdout.read())
    if process.returncode:
        raise SystemExit(f"{script} failed")
    return seconds, child_cpu_seconds() - cpu, peak


def tree_bytes(pid: int) -> int:
    """Memory of a process and its children; pages that several share are counted once."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in [root, *root.children(recursive=True)]:
            total += process.memory_full_info().pss
    except psutil.Error:  # it ended meanwhile
        return total
    return total


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--folder", help="for the lists (5 GB at full size); default: temporary")
    parser.add_argument("--json", help="also write the figures here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        dictionary, raw, full = folder / "dictionary.txt", folder / "raw.txt", folder / "full.txt"
        make_dictionary(dictionary)
        make_list(raw, args.rows)
        common = ("--dictionary", dictionary, "--processes", args.processes)
        jobs = {
            "ancestors": (
                *("annotations.py", "--list", raw, "--output", full, "--ancestors"), *common
            ),
            "statistics": ("label_statistics.py", "--train", full, "--output", folder, *common),
            "subset": (
                *("subset.py", "--list", full, "--output", folder / "subset.txt"),
                *("--per_class", 500, *common),
            ),
        }  # fmt: skip
        rows = []
        for job, command in jobs.items():
            seconds, cpu, peak = run(*command)
            rows.append({"job": job, "seconds": seconds, "CPU seconds": cpu, "MiB": peak >> 20})
        sizes = f"{raw.stat().st_size:,} bytes, with ancestors {full.stat().st_size:,}"
    rows.append(
        {
            "job": "all",
            "seconds": sum(row["seconds"] for row in rows),
            "CPU seconds": sum(row["CPU seconds"] for row in rows),
            "MiB": max(row["MiB"] for row in rows),
        }
    )
    report(f"{args.rows:,} rows, {sizes}; {args.processes} processes", rows, args.json)


if __name__ == "__main__":
    main()
