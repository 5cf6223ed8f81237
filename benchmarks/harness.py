"""Shared code of the benchmarks: alternating contenders, medians, memory, tables, JSON."""

import argparse
import ctypes
import gc
import importlib.metadata
import json
import multiprocessing
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

ROOT = Path(__file__).resolve().parents[1]
M_MMAP_THRESHOLD = -3  # from glibc's malloc.h
_INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")

Row = Mapping[str, Any]
T = TypeVar("T")


def main(
    measure: Callable[[argparse.Namespace], Sequence[Row]], doc: str, **settings: tuple[Any, Any]
) -> None:
    """Parses the flags, measures, prints the table, and writes it as JSON to --json.

    Args:
      measure: makes the table's rows from the flags.
      doc: the benchmark's docstring; its first line is the table's title.
      settings: flag -> (default, value with --quick); a list default accepts several values.
    """
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, (default, quick) in settings.items():
        several = isinstance(default, list)
        kind = type(default[0] if several else default)
        help_text = f"{default} (with --quick {quick})"
        parser.add_argument(f"--{name}", type=kind, nargs="+" if several else None, help=help_text)
    parser.add_argument("--quick", action="store_true", help="small sizes, to check that it runs")
    parser.add_argument("--json", type=Path, help="file for machine and rows")
    args = parser.parse_args()
    for name, values in settings.items():
        if getattr(args, name) is None:
            setattr(args, name, values[args.quick])
    report(doc.partition("\n")[0], measure(args), args.json)


def report(title: str, rows: Sequence[Row], json_file: Path | None = None) -> None:
    """Prints title, machine and `rows` as a Markdown table, and writes them as JSON."""
    print(f"\n{title}\n{machine()}\n\n{table(rows)}", flush=True)
    if json_file:
        content = {"title": title, "machine": machine(), "rows": rows}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def table(rows: Sequence[Row]) -> str:
    """`rows` as a Markdown table, with a column for each name in any row."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, ["---"] * len(names)]
    lines += [[text(row.get(name, "")) for name in names] for row in rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def text(value: Any) -> str:
    """A number with three significant digits; anything else unchanged."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def processor() -> tuple[str, list[str]]:
    """The processor's name, and which of the relevant instruction sets it has."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    fields = dict(line.partition(":")[::2] for line in info.splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    has = set(fields.get("flags", "").split())
    model = fields.get("model name", platform.machine())
    return model, [name for name in _INSTRUCTIONS if name in has]


def machine() -> str:
    """Processor, cores, instruction sets, memory, date and TensorFlow's version, in one line."""
    model, instructions = processor()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = importlib.metadata.packages_distributions().get("tensorflow", ["tensorflow"])
    return (
        f"{len(os.sched_getaffinity(0))} of {os.cpu_count()} cores of "
        f"{model} ({', '.join(instructions)}), "
        f"{memory:.0f} GiB, {time.strftime('%F')}; "
        f"TensorFlow {importlib.metadata.version(versions[0])}"
    )


class Cost(NamedTuple):
    """Wall-clock seconds, and processor seconds, which other programs affect less."""

    seconds: float
    cpu: float


def in_turn(jobs: Mapping[str, Callable[[], T]], rounds: int) -> dict[str, list[T]]:
    """Each job's results, one per round; jobs alternate, so that noise affects all equally.

    Every second round runs in reverse, so that a machine that slows down favors no job.
    """
    results: dict[str, list[T]] = {name: [] for name in jobs}
    for number in range(rounds):
        for name in list(jobs)[:: -1 if number % 2 else 1]:
            results[name].append(jobs[name]())
    return results


def timed(job: Callable[[], Any]) -> Cost:
    """The cost of `job` in this process."""
    start, cpu = time.perf_counter(), time.process_time()
    job()
    return Cost(time.perf_counter() - start, time.process_time() - cpu)


def timed_with_children(job: Callable[[], Any]) -> Cost:
    """The cost of `job` in the child processes that it starts and waits for."""
    start, cpu = time.perf_counter(), _child_cpu_seconds()
    job()
    return Cost(time.perf_counter() - start, _child_cpu_seconds() - cpu)


def _child_cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def run(command: Iterable[Any], **options: Any) -> str:
    """Runs a command; returns its output. Raises RuntimeError with the last lines if it fails."""
    arguments = [str(argument) for argument in command]
    done = subprocess.run(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stdout[-2000:].strip()}")
    return done.stdout


def median_seconds(job: Callable[[], Any], repeats: int = 7, warm_ups: int = 2) -> float:
    """Median seconds of `repeats` calls, after `warm_ups` uncounted ones."""
    for _ in range(warm_ups):
        job()
    return statistics.median(timed(job).seconds for _ in range(repeats))


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """The median over rounds of one contender's value divided by the other's."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def memory_bytes(name: str = "VmRSS") -> int:
    """This process's current memory (VmRSS) or its peak (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def peak_growth_bytes(job: Callable[[], Any]) -> int:
    """Peak memory of `job` beyond what the process used before."""
    gc.collect()
    libc = ctypes.CDLL(None)
    # Otherwise freed memory that glibc keeps would hide the growth.
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets VmHWM
    before = memory_bytes()
    job()
    return memory_bytes("VmHWM") - before


class Contender:
    """A separate process in which `make(*arguments)` returns functions that `ask` calls by name.

    `failure` is the reason why it could not be made, such as a missing library; None if ready.

    Args:
      environment: variables to set before calling `make`; a value of None unsets one.
    """

    def __init__(
        self,
        make: Callable[..., Mapping[str, Callable[[], Any]]],
        *arguments: Any,
        environment: Mapping[str, str | None] | None = None,
    ) -> None:
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        self.failure: str | None = None
        try:
            self._pool.submit(_build, make, arguments, environment or {}).result()
        except Exception as error:  # from any library
            self.failure = f"{type(error).__name__}: {error}".splitlines()[0][:80]
            self.close()

    def ask(self, name: str) -> Any:
        """The process's answer. Raises BrokenProcessPool if it has died, e.g. out of memory."""
        return self._pool.submit(_answer, name).result()

    def close(self) -> None:
        self._pool.shutdown()


_answers: dict[str, Callable[[], Any]] = {}


def _build(make: Callable, arguments: Sequence[Any], environment: Mapping) -> None:
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _answers.update(make(*arguments))


def _answer(name: str) -> Any:
    return _answers[name]()


def from_root(script: str, *arguments: Any) -> list[str]:
    """The command line that runs a script of the project."""
    return [sys.executable, str(ROOT / script), *map(str, arguments)]
