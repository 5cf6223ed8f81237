"""What the benchmarks share: medians, peak memory, operations of the network, tables."""

import ctypes
import gc
import json
import resource
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from models.architecture import blocks

M_MMAP_THRESHOLD = -3  # of glibc's malloc.h

Rows = Sequence[Mapping[str, Any]]


def median_seconds(job: Callable[[], Any], repeats: int = 7, warm_ups: int = 2) -> float:
    """Median seconds of `repeats` calls, after `warm_ups` that do not count."""
    for _ in range(warm_ups):
        job()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def child_cpu_seconds() -> float:
    """CPU seconds of all processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def memory_bytes(name: str = "VmRSS") -> int:
    """This process's memory now (VmRSS), or its peak since `reset_peak` (VmHWM)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def reset_peak() -> None:
    """Lets VmHWM begin anew at the present memory."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_growth_bytes(job: Callable[[], Any]) -> int:
    """Memory that `job` needs at its peak beyond what the process holds before."""
    gc.collect()
    libc = ctypes.CDLL(None)
    # Else freed memory that glibc keeps for itself would hide the need.
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 20)
    libc.malloc_trim(0)
    reset_peak()
    before = memory_bytes()
    job()
    return memory_bytes("VmHWM") - before


def multiplications(image_size: int, class_num: int, resnet_size: int = 101) -> int:
    """Multiply-adds of our network's forward pass for one image."""
    side = -(-image_size // 2)
    total = side**2 * 7 * 7 * 3 * 64
    for block in blocks(resnet_size):
        before = side
        side = -(-side // block.branch[1].stride)
        for unit, at in zip(block.branch, (before, side, side), strict=True):
            total += at**2 * unit.size**2 * unit.inputs * unit.outputs
        if block.shortcut:
            total += side**2 * block.shortcut.inputs * block.shortcut.outputs
    return total + 2048 * class_num


def report(title: str, rows: Rows, json_file: str | None = None) -> None:
    """Prints `rows` as a Markdown table and, when asked, writes them as JSON."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"\n{title}\n\n| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        print(f"| {' | '.join(_text(row.get(name, '')) for name in names)} |")
    if json_file:
        Path(json_file).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
