"""Measures what this machine can do at most: the figures that every other benchmark is held to.

    python benchmarks/limits.py [--json FILE]

Convolution and matrix product in float32 and bfloat16, memory bandwidth, JPEG decoding, and
reading of records. On a processor without bfloat16 instructions that type is emulated, and slow.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import tensorflow as tf

from benchmarks.measuring import median_seconds, report
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter, read_index, read_records

# A 3 x 3 convolution of the third stage at batch 32: the kind that most of the network's work is.
IMAGES, SIDE, CHANNELS, KERNEL = 32, 28, 256, 3
MATRIX = 2048
COPIED_BYTES = 256 << 20
RECORDS, RECORD_BYTES = 2000, 60_000


def convolution(dtype: tf.DType = tf.float32) -> tuple[Callable[[], tf.Tensor], int]:
    """One large convolution, and its floating-point operations."""
    images = tf.cast(tf.random.normal([IMAGES, SIDE, SIDE, CHANNELS]), dtype)
    kernel = tf.cast(tf.random.normal([KERNEL, KERNEL, CHANNELS, CHANNELS]), dtype)
    run = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return run, 2 * IMAGES * SIDE**2 * CHANNELS**2 * KERNEL**2


def convolution_flops(dtype: tf.DType = tf.float32, repeats: int = 7) -> float:
    """Floating-point operations a second of that convolution."""
    run, operations = convolution(dtype)
    return operations / median_seconds(run, repeats)


def product_flops(dtype: tf.DType = tf.float32, repeats: int = 7) -> float:
    """Floating-point operations a second of one large matrix product."""
    matrix = tf.cast(tf.random.normal([MATRIX, MATRIX]), dtype)
    run = tf.function(lambda: tf.matmul(matrix, matrix))
    return 2 * MATRIX**3 / median_seconds(run, repeats)


def copied_bytes_per_second(repeats: int = 7) -> float:
    """Bytes read and written a second, by copying a large array."""
    source = np.ones(COPIED_BYTES, np.uint8)
    target = np.empty_like(source)
    return 2 * COPIED_BYTES / median_seconds(lambda: np.copyto(target, source), repeats)


def records_per_second() -> float:
    """Records of 60 kB read a second from the page cache, checksums verified, by one thread."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records"
        with RecordWriter(path) as writer:
            for number in range(RECORDS):
                image = number.to_bytes(4, "little") * (RECORD_BYTES // 4)
                writer.write(encode_example("sparse", image, str(number), 1, 1, [0], [1.0]))
        read_index(path)
        return RECORDS / median_seconds(lambda: sum(1 for _ in read_records(path)), 5)


def measure() -> list[dict[str, Any]]:
    """A row a limit."""
    rows = []
    for dtype in (tf.float32, tf.bfloat16):
        rows.append(_row(f"convolution, {dtype.name}", convolution_flops(dtype) / 1e9, "GFLOP/s"))
        rows.append(_row(f"matrix product, {dtype.name}", product_flops(dtype) / 1e9, "GFLOP/s"))
    rows.append(_row("memory, read and written", copied_bytes_per_second() / 1e9, "GB/s"))
    rows.append(_row("records of 60 kB read", records_per_second(), "1/s"))
    return rows


def _row(what: str, value: float, unit: str) -> dict[str, Any]:
    return {"limit": what, "value": value, "unit": unit}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", help="file for the rows as JSON")
    arguments = parser.parse_args(argv)
    report("Limits of this machine", measure(), arguments.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
