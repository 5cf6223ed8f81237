"""Downloads from a local server with 100 ms of latency, compared with img2dataset.

    python benchmarks/download.py [--threads 64] [--images_per_thread 32] [--rounds 5]
                                  [--img2dataset PYTHON] [--folder FOLDER] [--json FILE]

Every image is a JPEG of 500 x 375 and about 60 kB. The ideal rate is threads / latency; the goal is
0.8 of it, up to 64 threads on 2 cores shared by client and server. A rate is that of a whole
command minus the time the same command takes for one image (start-up, libraries); `whole` includes
both. CPU is that of all client processes, also without start-up. Nothing is deleted before the end:
without a journal, ext4 takes milliseconds to create a file after thousands were removed. A --folder
in memory (/dev/shm) measures only the programs.

PYTHON is the interpreter of an environment that has img2dataset, whose dependencies conflict with
ours: `python -m venv i2d && i2d/bin/pip install img2dataset`. It gets as many threads as ours, once
in one process and once in two. Without resizing it stores images unchecked
(`disable_all_reencoding`), while ours checks that each is complete.
"""

import argparse
import asyncio
import contextlib
import multiprocessing
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from benchmarks import harness
from benchmarks.photographs import jpegs

LATENCY_SECONDS = 0.1
BODY_BYTES = 60_000
SHORT_SIDE = 256
_BACKLOG = 1024

# (list of URLs, folder for the images, threads, whether to resize) -> a command.
Program = Callable[[Path, Path, int, bool], list[Any]]


class Rates(NamedTuple):
    """Images/s without and with start-up, and processor time without it."""

    images: float
    whole: float
    cpu_ms: float


def serve(body: bytes, port: Connection) -> None:
    """Answers every request on a connection after the latency; sends its port number first."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nContent-Length: {len(body)}\r\n\r\n"
    answer = head.encode() + body

    class Answers(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport, self.asked = transport, b""

        def data_received(self, data: bytes) -> None:
            self.asked += data
            if self.asked.endswith(b"\r\n\r\n"):
                self.asked = b""
                loop = asyncio.get_running_loop()
                loop.call_later(LATENCY_SECONDS, self.transport.write, answer)

    async def run() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Answers, "127.0.0.1", 0, backlog=_BACKLOG)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Runs the server in its own process; yields its address."""
    body = min(jpegs(16, quality=95), key=lambda jpeg: abs(len(jpeg) - BODY_BYTES))
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(body, sender), daemon=True)
    server.start()
    try:
        yield f"http://127.0.0.1:{receiver.recv()}"
    finally:
        server.terminate()


def ours(urls: Path, output: Path, threads: int, resize: bool) -> list[Any]:
    options = ["--url_list", urls, "--save_dir", output, "--num_threads", threads]
    options += ["--host_limit", threads, "--repeated", 0]  # all images are the same here
    options += ["--short_side", SHORT_SIDE] if resize else []
    return harness.from_root("data/download_urls_multithreading.py", *options)


def img2dataset(
    python: str, processes: int, urls: Path, output: Path, threads: int, resize: bool
) -> list[Any]:
    rows = len(urls.read_text().splitlines())
    options = {
        "url_list": urls,
        "output_folder": output,
        "processes_count": processes,
        "thread_count": max(1, threads // processes),
        "number_sample_per_shard": max(1, rows // processes),
    }
    if resize:
        options |= {"resize_mode": "keep_ratio", "image_size": SHORT_SIDE}
        options |= {"resize_only_if_bigger": True}
    else:
        options |= {"resize_mode": "no", "disable_all_reencoding": True}
    program = Path(python).with_name("img2dataset")
    return [python, program, *(f"--{name}={value}" for name, value in options.items())]


def download(
    program: Program, folder: Path, url: str, images: int, threads: int, resize: bool
) -> Rates:
    """Downloads one image, then many; the difference excludes start-up."""
    costs = []
    for count in (1, images):
        work = Path(tempfile.mkdtemp(dir=folder))
        (work / "urls.txt").write_text("".join(f"{url}/{n}.jpg\n" for n in range(count)))
        command = program(work / "urls.txt", work / "images", threads, resize)
        costs.append(harness.timed_with_children(partial(harness.run, command)))
        written = sum(1 for _ in (work / "images").rglob("*.jpg"))
        if written != count:
            raise RuntimeError(f"{command} wrote {written} of {count} images")
    start, whole = costs
    seconds = whole.seconds - (start.seconds - LATENCY_SECONDS)
    return Rates(images / seconds, images / whole.seconds, 1e3 * (whole.cpu - start.cpu) / images)


def rows(
    programs: Mapping[str, Program], folder: Path, url: str, threads: int, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each program, without and with resizing."""
    images, table = args.images_per_thread * threads, []
    for resize in (False, True):
        jobs = {
            name: partial(download, program, folder, url, images, threads, resize)
            for name, program in programs.items()
        }
        for name, rates in harness.in_turn(jobs, args.rounds).items():
            median = Rates(*map(statistics.median, zip(*rates, strict=True)))
            row = {"what": name, "threads": threads, "resize": SHORT_SIDE if resize else "no"}
            row |= {
                "images/s": median.images,
                "of ideal": median.images * LATENCY_SECONDS / threads,
            }
            table.append(row | {"whole, images/s": median.whole, "CPU ms an image": median.cpu_ms})
    return table


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    programs: dict[str, Program] = {"ours": ours}
    if args.img2dataset:
        for processes in (1, 2):
            name = f"img2dataset, {processes} process{'es' * (processes > 1)}"
            programs[name] = partial(img2dataset, args.img2dataset, processes)
    with serving() as url, tempfile.TemporaryDirectory(dir=args.folder or None) as folder:
        return [row for n in args.threads for row in rows(programs, Path(folder), url, n, args)]


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        threads=([64], [16]),
        images_per_thread=(32, 16),
        img2dataset=("", ""),
        folder=("", ""),
        rounds=(5, 1),
    )
