"""Compares two commits on the same work, alternately; a ratio below 1 means that NEW is faster.

    python benchmarks/compare.py OLD NEW [--parts input lists] [--rounds 5] [--quick] [--json FILE]

Both are unpacked into a temporary folder, and their own scripts run from the command line with this
Python, the same inputs and the same flags. Seconds are medians over the rounds; ratios are medians
of NEW / OLD per round, with the smallest and the largest. Training and input use two processes, of
which one is stopped (SIGSTOP) while the other runs; the other parts are whole commands, including
start-up. The row of a failed part has the error, and the exit code is 1.
"""

import argparse
import functools
import io
import signal
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import psutil

from benchmarks import lists, photographs
from benchmarks.harness import ROOT, Cost, in_turn, median_ratio, report, run, timed_with_children
from benchmarks.photographs import jpegs

Job = Callable[[], Cost]
CLASSES = 11_166


class Paced:
    """A process that runs only while it is timed.

    Args:
      command: prints a line that contains `mark` after each unit of work.
      warm_up: number of units to run before timing.
    """

    def __init__(self, command: list[Any], folder: Path, mark: str, warm_up: int = 0) -> None:
        self._process = subprocess.Popen(
            [str(argument) for argument in command],
            **{"cwd": folder, "text": True},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._mark, self._usage = mark, psutil.Process(self._process.pid)
        if warm_up:
            self.run(warm_up)

    def run(self, pieces: int = 1) -> Cost:
        """The cost of `pieces` units of work. Raises RuntimeError if the process ends early."""
        start, before = time.perf_counter(), self._usage.cpu_times()
        self._process.send_signal(signal.SIGCONT)
        last = ""
        for line in self._process.stdout:
            last = line.strip() or last
            pieces -= self._mark in line
            if not pieces:
                break
        else:
            raise RuntimeError(f"it ended with {self._process.wait()}: {last}")
        self._process.send_signal(signal.SIGSTOP)
        seconds, after = time.perf_counter() - start, self._usage.cpu_times()
        return Cost(seconds, after.user + after.system - before.user - before.system)

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()


class Tree:
    """One side: its unpacked commit, and a folder for its output."""

    def __init__(self, commit: str, folder: Path) -> None:
        self.path, self.output = folder / "tree", folder / "output"
        self.output.mkdir(parents=True)
        command = ["git", "-C", ROOT, "archive", "--format=tar", commit]
        packed = subprocess.run(command, stdout=subprocess.PIPE)
        if packed.returncode:
            raise SystemExit(1)  # git has printed the reason
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
            files.extractall(self.path, filter="data")

    def script(self, name: str, *arguments: Any) -> list[Any]:
        return [sys.executable, self.path / name, *arguments]

    def synthetic_training(self, inputs: "Inputs", *arguments: Any) -> list[Any]:
        return self.script(
            "train.py",
            *("--synthetic", f"--resnet_size={inputs.depth}", f"--class_num={CLASSES}"),
            *(f"--model_dir={self.output / 'model'}", f"--log_dir={self.output / 'log'}"),
            *("--log_interval=1", "--stall_seconds=0", *arguments),
        )

    def conversion(self, inputs: "Inputs") -> list[Any]:
        sources = "--indexs", inputs.list, "--images", inputs.images, "--processes", 2
        return self.script("data/tfrecord.py", *sources, "--tfrecords", self.output / "records")


class Inputs:
    """The input files of both sides: images, records, lists and a checkpoint."""

    def __init__(self, folder: Path, maker: Tree, quick: bool) -> None:
        self.depth, self.batch = (14, 2) if quick else (101, 8)
        self.images, self.some = folder / "images", folder / "some.txt"
        self.list = photographs.write(self.images, jpegs(64 if quick else 2000), CLASSES)
        first = self.list.read_text().splitlines(keepends=True)[: 8 * self.batch]
        self.some.write_text("".join(f"{self.images}/{row}" for row in first))
        self.dictionary, self.rows = folder / "dictionary.txt", folder / "rows.txt"
        lists.make_dictionary(self.dictionary)
        lists.make_list(self.rows, 2_000 if quick else 300_000)
        run(maker.conversion(self), cwd=maker.output)
        self.records = (maker.output / "records").rename(folder / "records")
        run(maker.synthetic_training(self, "--max_iter=1", "--batch_size=2"), cwd=maker.output)
        self.model = (maker.output / "model").rename(folder / "model")


def training_step(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    endless = f"--batch_size={inputs.batch}", "--max_iter=1000000", "--snapshot=1000000"
    command = tree.synthetic_training(inputs, *endless)
    process = stack.enter_context(closing(Paced(command, tree.output, "step ", 2)))
    return functools.partial(process.run, 2)


def training_input(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    command = [sys.executable, ROOT / "benchmarks/take_batches.py", f"--data_dir={inputs.records}"]
    command += [f"--class_num={CLASSES}", "--resnet_size=14", "--width=8", "--batch_size=32"]
    command += ["--num_preprocess_threads=2", f"--model_dir={tree.output / 'input'}"]
    command += [f"--log_dir={tree.output / 'input'}"]
    process = stack.enter_context(closing(Paced(command, tree.path, "batches taken", 2)))
    return functools.partial(process.run, 3)


def prediction(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    del stack
    command = tree.script("extract_feature.py", f"--images={inputs.some}", "--batch_size=32")
    command += [f"--pretrain_ckpt={inputs.model}", "--result=features.npz"]
    return commands(tree, command)


def conversion(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    del stack
    return commands(tree, tree.conversion(inputs))


def list_jobs(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    del stack
    jobs = lists.jobs(tree.path, inputs.rows, inputs.dictionary, tree.output, processes=2)
    return commands(tree, *jobs.values())


def start_of_training(tree: Tree, inputs: Inputs, stack: ExitStack) -> Job:
    """Time from the command to the first step."""
    del stack
    command = tree.synthetic_training(inputs, "--batch_size=2", "--max_iter=1000000")

    def job() -> Cost:
        run(["rm", "-rf", tree.output / "model", tree.output / "log"])
        start = time.perf_counter()
        with closing(Paced(command, tree.output, "step ")) as process:
            cost = process.run()
            return cost._replace(seconds=time.perf_counter() - start)

    return job


def commands(tree: Tree, *all_of_them: list[Any]) -> Job:
    """A job that runs commands one after another, in an output folder emptied before."""

    def run_all() -> None:
        for command in all_of_them:
            run(command, cwd=tree.output)

    def job() -> Cost:
        run(["rm", "-rf", tree.output])
        tree.output.mkdir()
        return timed_with_children(run_all)

    return job


PARTS: Mapping[str, Callable[[Tree, Inputs, ExitStack], Job]] = {
    "training step": training_step,
    "input": training_input,
    "prediction": prediction,
    "conversion": conversion,
    "lists": list_jobs,
    "start of training": start_of_training,
}


def compare(part: str, trees: Mapping[str, Tree], inputs: Inputs, rounds: int) -> dict[str, Any]:
    """The table row of a part."""
    row: dict[str, Any] = {"what": part}
    try:
        with ExitStack() as stack:
            jobs = {side: PARTS[part](tree, inputs, stack) for side, tree in trees.items()}
            in_turn(jobs, 1)  # compiles kernels and fills the page cache
            costs = in_turn(jobs, rounds)
    except RuntimeError as error:
        return row | {"note": str(error).splitlines()[-1][:200]}
    old, new = ([cost.seconds for cost in costs[side]] for side in trees)
    ratios = [b / a for a, b in zip(old, new, strict=True)]
    of_processor = median_ratio(*([cost.cpu for cost in costs[side]] for side in reversed(trees)))
    return row | {
        "old s": statistics.median(old),
        "new s": statistics.median(new),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "largest": max(ratios),
        "of processor time": of_processor,
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("old", metavar="OLD", help="a commit")
    parser.add_argument("new", metavar="NEW", help="a commit")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that it runs")
    parser.add_argument("--json", type=Path, help="file for machine and rows")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="compare-") as name:
        folder = Path(name)
        trees = {"old": Tree(args.old, folder / "old"), "new": Tree(args.new, folder / "new")}
        inputs = Inputs(folder, trees["old"], args.quick)
        rows = [compare(part, trees, inputs, args.rounds) for part in args.parts]
    report(f"{args.new} next to {args.old}, {args.rounds} rounds", rows, args.json)
    return int(any("note" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
