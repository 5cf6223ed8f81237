"""Times downloads from a local server that answers after 100 ms, next to img2dataset.

    python benchmarks/download.py [--threads 1 16 64] [--images 2000] [--img2dataset PYTHON]
                                  [--repeats 3] [--folder FOLDER] [--json FILE]

Every image is a JPEG of 500 x 375 and 60 kB. Ideal is threads / latency, and the bar is 0.8 of it
up to 64 threads on 2 cores, which client and server share. A rate is that of a whole command less
the time the same command takes for one image (start-up, libraries); `whole` has both in it.
CPU is the client's, of all its processes, start-up taken off too. Nothing is deleted before the
end: without a journal, ext4 takes milliseconds to make a file after thousands were removed. A
--folder in memory (/dev/shm) measures the programs alone.

PYTHON is the interpreter of an environment that has img2dataset, whose dependencies clash with
ours: `python -m venv i2d && i2d/bin/pip install img2dataset`. It gets as many threads, once in one
process and once in two. Without resizing it stores bodies unseen (`disable_all_reencoding`), while
we check that each is a whole image.
"""

import argparse
import asyncio
import io
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

sys.path[0] = str(Path(__file__).resolve().parents[1])

from PIL import Image

from benchmarks.measuring import report

SCRIPT = Path(__file__).resolve().parents[1] / "data/download_urls_multithreading.py"
LATENCY_SECONDS = 0.1
WIDTH, HEIGHT, BODY_BYTES = 500, 375, 60_000
SHORT_SIDE = 256
_BACKLOG = 1024


class Cost(NamedTuple):
    """Seconds of a command: by the clock, and of CPU."""

    clock: float
    cpu: float


def photograph() -> bytes:
    """A JPEG of about 60 kB, cut from scikit-image's coffee."""
    from skimage import data  # of the extra `demo`

    image = Image.fromarray(data.coffee()).crop((50, 10, 50 + WIDTH, 10 + HEIGHT))
    for quality in range(70, 100):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        if buffer.tell() >= BODY_BYTES:
            break
    return buffer.getvalue()


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


def ours(url_list: Path, output: Path, threads: int, resize: bool) -> list:
    command = [sys.executable, SCRIPT, "--url_list", url_list, "--save_dir", output]
    # Every body is the same one here.
    command += ["--num_threads", threads, "--host_limit", threads, "--repeated", 0]
    return command + (["--short_side", SHORT_SIDE] if resize else [])


def img2dataset(python: str, processes: int) -> Callable[[Path, Path, int, bool], list]:
    def command(url_list: Path, output: Path, threads: int, resize: bool) -> list:
        rows = sum(1 for _ in open(url_list, encoding="utf-8"))  # noqa: SIM115
        options = {
            "url_list": url_list,
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

    return command


def cost(command: Sequence, output: Path, images: int) -> Cost:
    """Runs a command that has to write so many images."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    arguments = [str(argument) for argument in command]
    finished = subprocess.run(arguments, capture_output=True, text=True)
    clock = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    written = sum(1 for _ in output.rglob("*.jpg"))
    if finished.returncode or written != images:
        raise SystemExit(f"{arguments}\nwrote {written} of {images}:\n{finished.stderr[-2000:]}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(clock, cpu)


def measure(
    program: Callable[[Path, Path, int, bool], list],
    folder: Path,
    lists: tuple[Path, Path],
    images: int,
    threads: int,
    resize: bool,
) -> tuple[float, float, float]:
    """Images/s without and with the start-up, and CPU milliseconds an image."""
    costs = []
    for path, count in zip(lists, (1, images), strict=True):
        output = Path(tempfile.mkdtemp(dir=folder)) / "images"
        costs.append(cost(program(path, output, threads, resize), output, count))
    start, whole = costs
    seconds = whole.clock - (start.clock - LATENCY_SECONDS)
    return images / seconds, images / whole.clock, 1e3 * (whole.cpu - start.cpu) / images


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--img2dataset", help="an interpreter that has img2dataset next to it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--folder", help="where to write, for a while (the folder of temporary files)"
    )
    parser.add_argument("--json", help="also write the rates here")
    args = parser.parse_args(argv)
    programs = {"ours": ours}
    if args.img2dataset:
        for processes in (1, 2):
            name = f"img2dataset, {processes} process{'es' * (processes > 1)}"
            programs[name] = img2dataset(args.img2dataset, processes)
    body = photograph()
    receiver, sender = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.Process(target=serve, args=(body, sender), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{receiver.recv()}"
    rows = []
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        lists = folder / "one.txt", folder / "urls.txt"
        for threads in args.threads:
            images = min(args.images, 100 * threads)  # ten seconds at most
            for path, count in zip(lists, (1, images), strict=True):
                path.write_text("".join(f"{url}/{n}.jpg\n" for n in range(count)))
            for resize in (False, True):
                results = {program: [] for program in programs}
                for _ in range(args.repeats):  # in turn, so that all see the same machine
                    for program, command in programs.items():
                        results[program].append(
                            measure(command, folder, lists, images, threads, resize)
                        )
                rows += table_rows(results, threads, resize)
    server.terminate()
    report(f"{args.images} images of {len(body):,} bytes, latency 100 ms", rows, args.json)


def table_rows(results: dict[str, list[tuple]], threads: int, resize: bool) -> list[dict]:
    rows = []
    for program, measured in results.items():
        rate, whole, cpu = (statistics.median(column) for column in zip(*measured, strict=True))
        rows.append(
            {
                "threads": threads,
                "resize": SHORT_SIDE if resize else "no",
                "program": program,
                "images/s": round(rate, 1),
                "of ideal": round(rate * LATENCY_SECONDS / threads, 2),
                "whole, images/s": round(whole, 1),
                "CPU ms an image": round(cpu, 2),
            }
        )
    return rows


if __name__ == "__main__":
    main()
