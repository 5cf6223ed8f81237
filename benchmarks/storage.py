"""Training input from an S3 server, from its cache, and from storage with high latency.

    python benchmarks/storage.py [--stretch 16384] [--latency 0.03] [--bandwidth 200e6]

The input is that of train.py with full augmentation, and the records have 500 x 375 JPEGs. The
server (benchmarks/s3_server.py) is another process on this machine, whose processor time (`server
CPU us` per image) the input cannot use. Contenders alternate, and keep only the cache between
rounds. `of local` is the rate divided by that of the local disk; `server elsewhere` is the same if
the input could also use the server's processor time; `first batch` is the seconds until the first
batch; `CPU us` is this process's time per image, which other programs affect less. The last rows
only read records, without decoding, with 5 ms of latency per read of any size.
Goals: 0.9 of local from s3://, cold; blocks 10 times as fast as single records.
"""

import argparse
import contextlib
import functools
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import start_tensorflow  # noqa: F401, I001 - before TensorFlow
import numpy as np
import psutil

from benchmarks import harness, photographs
from benchmarks.conversion import convert
from benchmarks.s3_server import environment
from data.common.sharding import StepShard
from data.input.augment import Augmentation
from data.input.loader import SampleReader, StepPlan, load
from data.input.pipeline import InputOptions, TrainingInput
from data.input.sampler import shuffled
from data.tfrecords.reading import ReadOptions
from data.tfrecords.record_source import RecordSource

CLASSES, BATCH, SIZE, DISTINCT = 1000, 32, 224, 512
FAIL_EVERY, READ_SECONDS = 50, 0.005
LOCAL, COLD, FAILING = "local disk", "s3, cold", f"s3, cold, 1 request in {FAIL_EVERY} fails"
FROM_SERVER = (COLD, FAILING)
WARM, SINGLE, BLOCKS = "s3, warm cache", "5 ms a read: single records", "5 ms a read: blocks"
LARGE_BATCH = 512  # more images in a step than blocks shuffled, so blocks are many and small
LARGE_STEPS = f"{BLOCKS}, {LARGE_BATCH} images a step"
SLOW = (SINGLE, BLOCKS, LARGE_STEPS)


class Stretch(NamedTuple):
    """Seconds until the first batch; then per image: wall-clock, this process, the server."""

    first: float
    image: float
    cpu: float
    server: float


class Server(NamedTuple):
    """An S3 server in its own process."""

    url: str
    process: psutil.Process


def read_stretch(
    data_dir: str, reading: ReadOptions, args: argparse.Namespace, server: Server | None = None
) -> Stretch:
    """Batches of a new training input."""
    start = time.perf_counter()
    options = InputOptions(data_dir, SIZE, BATCH, CLASSES, args.threads, reading=reading)
    batches = TrainingInput(options, Augmentation()).batches()
    return _timed(start, batches, args.stretch // BATCH, server=server)


def _timed(
    start: float,
    batches: Iterator[Any],
    count: int,
    batch: int = BATCH,
    server: Server | None = None,
) -> Stretch:
    def served() -> float:
        return sum(server.process.cpu_times()[:2]) if server else 0.0

    with contextlib.closing(batches):
        next(batches)
        first, images, before = time.perf_counter() - start, (count - 1) * batch, served()
        cost = harness.timed(lambda: [None for _ in itertools.islice(batches, count - 1)])
        return Stretch(
            first, cost.seconds / images, cost.cpu / images, (served() - before) / images
        )


class SlowSource(RecordSource):
    """Records on storage with a latency per read."""

    def _fetch(self, path: str, offset: int, size: int) -> bytes:
        time.sleep(READ_SECONDS)
        return super()._fetch(path, offset, size)


def slow_stretch(
    folder: Path, reading: ReadOptions, args: argparse.Namespace, batch: int = BATCH
) -> Stretch:
    """Records in training order, read from slow storage without decoding."""
    start = time.perf_counter()
    source = SlowSource(folder, CLASSES, 0, reading=reading)
    step_shard = StepShard(batch, first=0, count=1, total=1)
    reader = SampleReader(source, shuffled(source, 1, (1500, 2048), step_shard).records)
    indices = functools.partial(step_shard.sample_indices, 0)
    plan = StepPlan(indices, batch, 1, lambda: np.empty(batch, object))
    count = args.slow_stretch if reading.read_order == "records" else args.stretch
    batches = load(reader, lambda *_: None, plan, args.threads)
    return _timed(start, batches, max(2, count // batch), batch)


@contextlib.contextmanager
def started(folder: Path, args: argparse.Namespace, fail_every: int = 0) -> Iterator[Server]:
    """Runs a server for the duration of the `with` block."""
    flags = f"--latency={args.latency}", f"--bandwidth={args.bandwidth}"
    command = harness.from_root("benchmarks/s3_server.py", folder, *flags)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, f"--fail_every={fail_every}"], **pipes)
    try:
        yield Server(process.stdout.readline().strip(), psutil.Process(process.pid))
    finally:
        process.stdin.close()
        process.wait()


def contenders(
    folder: Path, good: Server, failing: Server, args: argparse.Namespace
) -> dict[str, Any]:
    """Name -> a function that reads `--stretch` images."""
    records, cache = folder / "bucket", folder / "cache"
    blocks = ReadOptions("blocks", args.block_mib, args.lanes)
    cached = ReadOptions("blocks", args.block_mib, args.lanes, cache_dir=str(cache))

    def from_s3(server: Server, reading: ReadOptions) -> Callable[[], Stretch]:
        def stretch() -> Stretch:
            import s3fs

            os.environ.update(environment(server.url))
            s3fs.S3FileSystem.clear_instance_cache()  # it refers to the other server
            return read_stretch("s3://bucket/", reading, args, server)

        return stretch

    from_s3(good, cached)()  # fills the cache
    return {
        LOCAL: lambda: read_stretch(str(records), ReadOptions("records"), args),
        COLD: from_s3(good, blocks),
        FAILING: from_s3(failing, blocks),
        WARM: from_s3(good, cached),
        SINGLE: lambda: slow_stretch(records, ReadOptions("records"), args),
        BLOCKS: lambda: slow_stretch(records, blocks, args),
        LARGE_STEPS: lambda: slow_stretch(records, blocks, args, LARGE_BATCH),
    }


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        distinct = photographs.jpegs(min(args.images, DISTINCT))
        (shard,) = convert(
            photographs.write(folder / "images", distinct, CLASSES), processes=2
        ).glob("*.tfrecords")
        (folder / "bucket").mkdir()
        shards = args.images // len(distinct)
        for number in range(shards):  # all have the same images, which makes no difference here
            for suffix in ("", ".idx"):
                target = folder / "bucket" / f"{number:05}.tfrecords{suffix}"
                shutil.copyfile(f"{shard}{suffix}", target)
        servers = [stack.enter_context(started(folder, args, n)) for n in (0, FAIL_EVERY)]
        image_mb = shard.stat().st_size / len(distinct) / 1e6
        jobs = contenders(folder, *servers, args)
        costs = harness.in_turn(jobs, args.rounds)
    cores = len(os.sched_getaffinity(0))
    seconds, elsewhere = (
        {
            name: [cost.image - share * cost.server for cost in found]
            for name, found in costs.items()
        }
        for share in (0, 1 / cores)
    )
    return [
        {
            "what": name,
            "images/s": 1 / statistics.median(seconds[name]),
            "MB/s": image_mb / statistics.median(seconds[name]),
            "CPU us": 1e6 * statistics.median(cost.cpu for cost in found),
            "server CPU us": 1e6 * statistics.median(cost.server for cost in found),
            "first batch, s": statistics.median(cost.first for cost in found),
            "of local": "" if name in SLOW else ratio(seconds, LOCAL, name),
            "server elsewhere": ratio(elsewhere, LOCAL, name) if name in FROM_SERVER else "",
            "of single": ratio(seconds, SINGLE, name) if name in SLOW else "",
        }
        for name, found in costs.items()
    ]


def ratio(seconds: dict[str, list[float]], other: str, name: str) -> float:
    """The rate of one contender divided by another's."""
    return harness.median_ratio(seconds[other], seconds[name])


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        images=(13312, 256),  # of 40 kB: enough for full blocks
        stretch=(16384, 160),  # more than an epoch
        slow_stretch=(1024, 96),
        threads=(len(os.sched_getaffinity(0)), 2),
        latency=(0.03, 0.03),
        bandwidth=(200e6, 200e6),
        block_mib=(2.0, 0.1),
        lanes=(32, 32),
        rounds=(5, 1),
    )
