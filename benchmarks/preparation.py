"""Conversion, download, features and evaluation in 1, 2 and 4 processes: same bytes, faster.

    python benchmarks/preparation.py [--processes 1 2 4] [--jobs conversion download] [--rounds 3]
        [--json FILE]

Each process computes in one thread; N processes use N cores, or share those available. Whole
commands are timed: start-up, the work, and joining the results. N processes are started by `mpirun
-np N`, or as N independent commands with `--part i/n` and one more that joins their parts. `times`
is the speedup over one process in the same round. `CPU s` is the processor time of all processes,
which other programs affect less. Outputs are compared byte for byte; a difference is an error. The
download is from the server of benchmarks/download.py, with 100 ms of latency. Evaluation needs
Horovod.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness, photographs
from benchmarks.download import serving
from benchmarks.inference import make_checkpoint

MPIRUN = (
    *(Path(sys.executable).with_name("mpirun"), "--allow-run-as-root", "--oversubscribe"),
    *("--bind-to", "none", "-np"),
)
ONE_THREAD = {
    **dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1"),
    "OMPI_MCA_mpi_yield_when_idle": "1",  # waiting processes yield their core
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
CLASSES = 100


class Job(NamedTuple):
    """A job split among processes.

    Attributes:
      images: number of images.
      command: makes the command, given the folder of its results.
      results: globs of the files that must be equal.
      has_parts: whether it supports `--part i/n`.
    """

    images: int
    command: Callable[[Path], list[Any]]
    results: tuple[str, ...]
    has_parts: bool = False


class Run(NamedTuple):
    """The cost of one run of a job, over all its processes, and the SHA-256 of its results."""

    cost: harness.Cost
    digest: str


def prepared(folder: Path, args: argparse.Namespace, url: str) -> dict[str, Job]:
    """The jobs; writes their input to `folder`."""
    few = photographs.write(folder / "few", photographs.jpegs(args.images), CLASSES)
    many = folder / "many.txt"  # repeats the same images
    rows = few.read_text().splitlines(keepends=True)
    many.write_text("".join(rows[n % len(rows)] for n in range(args.rows)))
    urls = folder / "urls.txt"
    urls.write_text("".join(f"{url}/{n}.jpg\n" for n in range(args.urls)))
    make_checkpoint(folder / "model", args.depth, CLASSES)
    images, root = folder / "few", harness.from_root
    network = f"--pretrain_ckpt={folder}/model", f"--image_size={args.image_size}"
    network = *network, f"--batch_size={args.batch}", "--num_preprocess_threads=1"

    def convert(output: Path) -> list[Any]:
        paths = "--indexs", many, "--images", images, "--tfrecords", output
        return root("data/tfrecord.py", *paths, "--processes", 1, "--shard_size", args.shard_size)

    def download(output: Path) -> list[Any]:
        threads = "--num_threads", args.threads, "--host_limit", args.threads, "--repeated", 0
        script = "data/download_urls_multithreading.py"
        return root(script, "--url_list", urls, "--save_dir", output, *threads)

    def extract(output: Path) -> list[Any]:
        return root("extract_feature.py", images, f"--result={output}/features.npy", *network)

    def evaluate(output: Path) -> list[Any]:
        labeled = "--label_mode=multi", few, f"--images_dir={images}", f"--result={output}"
        return root("evaluate.py", *labeled, *network)

    jobs = {
        "conversion": Job(args.rows, convert, ("*.tfrecords", "*.json", "*.tsv"), True),
        "download": Job(args.urls, download, ("**/*.jpg", "*.txt"), True),
        "features": Job(args.images, extract, ("features.*",)),
        "evaluation": Job(args.images, evaluate, ("*.json", "*.csv")),
    }
    return {name: jobs[name] for name in args.jobs}


def run(job: Job, folder: Path, processes: int, parts: bool) -> Run:
    """Runs a job from start to end in the given number of processes."""
    output = Path(tempfile.mkdtemp(dir=folder))
    cores = sorted(os.sched_getaffinity(0))[:processes]
    pinned = ["taskset", "--cpu-list", ",".join(map(str, cores))]
    command = job.command(output)
    start = partial(harness.run, env=os.environ | ONE_THREAD)

    def work() -> None:
        if not parts:
            start([*pinned, *((*MPIRUN, processes) if processes > 1 else ()), *command])
            return
        commands = [[*pinned, *command, "--part", f"{n}/{processes}"] for n in range(processes)]
        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(start, commands))
        start([*pinned, *command])

    cost = harness.timed_with_children(work)
    return Run(cost, digest(output, job.results))


def digest(folder: Path, results: tuple[str, ...]) -> str:
    """SHA-256 of the names and contents of the files that match the globs."""
    paths = sorted({path for pattern in results for path in folder.glob(pattern)})
    if not paths:
        raise RuntimeError(f"{folder} has none of {results}")
    hashed = hashlib.sha256()
    for path in paths:
        hashed.update(f"{path.relative_to(folder)} {path.stat().st_size}\n".encode())
        hashed.update(path.read_bytes())
    return hashed.hexdigest()


def rows_of(name: str, job: Job, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """A row for each number of processes and way to start them; all alternate."""
    ways = [(processes, False) for processes in args.processes]
    ways += [(processes, True) for processes in args.processes if job.has_parts and processes > 1]
    runs = harness.in_turn({way: partial(run, job, folder, *way) for way in ways}, args.rounds)
    if len({one.digest for ran in runs.values() for one in ran}) > 1:
        raise RuntimeError(f"{name}: the results differ: {runs}")
    seconds = {way: [one.cost.seconds for one in ran] for way, ran in runs.items()}
    cpu = {way: [one.cost.cpu for one in ran] for way, ran in runs.items()}
    return [
        {
            "what": name,
            "processes": processes,
            "by": "--part" if parts else "mpirun" if processes > 1 else "",
            "seconds": statistics.median(seconds[processes, parts]),
            "images/s": job.images / statistics.median(seconds[processes, parts]),
            "times": harness.median_ratio(seconds[ways[0]], seconds[processes, parts]),
            "CPU s": statistics.median(cpu[processes, parts]),
            "SHA-256": runs[processes, parts][0].digest[:12],
        }
        for processes, parts in ways
    ]


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    if "evaluation" in args.jobs and not shutil.which("horovodrun"):
        print("evaluation in several processes needs example/install_horovod.sh; left out")
        args.jobs.remove("evaluation")
    with tempfile.TemporaryDirectory() as folder, serving() as url:
        jobs = prepared(Path(folder), args, url)
        return [row for name, job in jobs.items() for row in rows_of(name, job, args, Path(folder))]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        processes=([1, 2, 4], [1, 2]),
        jobs=(["conversion", "download", "features", "evaluation"], ["conversion", "download"]),
        images=(256, 12),
        rows=(10_000, 24),
        urls=(1_600, 40),
        threads=(16, 4),
        shard_size=(512, 4),
        depth=(50, 14),
        image_size=(224, 32),
        batch=(16, 2),
        rounds=(3, 1),
    )
