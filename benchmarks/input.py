"""The input pipeline stage by stage, compared with JPEG decoding and other pipelines.

    python benchmarks/input.py [--threads 2] [--images 512] [--areas 0.7 0.05] [--json FILE]

The records have distinct 500 x 375 JPEGs cropped from real photographs. Contenders alternate.
`CPU us` is processor time per image, which other processes affect less. The plain pipeline is that
of the released system in TensorFlow 2: TFRecordDataset, `tf.image` operations, a shuffle buffer.
NVIDIA DALI and torch's DataLoader (benchmarks/input_peers.py) are included if installed. `ours,
times` is full augmentation's rate divided by the row's.

The last rows are an upper bound of the time under Python's lock, which limits a process's rate for
any number of cores: the calling thread's time for images of 8 x 8 pixels in records of usual size,
the minimum of many calls; part of it is TensorFlow's, without the lock. Goals: full augmentation at
least 0.6 of the decode rate, and 1.5 times DALI's. For scaling with cores, restrict them:
`taskset --cpu-list 0 python benchmarks/input.py`.
"""

import argparse
import dataclasses
import functools
import importlib.util
import io
import itertools
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[1])

from data.common import start_tensorflow  # noqa: F401, I001 - before TensorFlow
import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import harness, input_peers, photographs
from benchmarks.conversion import convert
from data.input import augment
from data.input.augment import Augmentation
from data.input.loader import SampleReader
from data.input.pipeline import InputOptions, TrainingInput
from data.tfrecords.examples import encode_example
from data.tfrecords.record_source import RecordSource
from data.tfrecords.records import RecordWriter

CLASSES, BATCH, SIZE, SHUFFLED = 1000, 32, 224, 2048
DECODED, FULL = "JPEG decoded", "ours: full augmentation"
WARM_UP = 3  # batches, made while other contenders ran
CROP_ONLY = {"rotate_probability": 0.0, "color_probability": 0.0}


def contenders(
    images: Sequence[bytes], folder: Path, area_min: float, args: argparse.Namespace
) -> dict[str, Iterator[Any]]:
    """The contenders by name, each an endless iterator over batches of `BATCH` images."""
    files, records, threads = folder / "images", folder / "records", args.threads
    options = InputOptions(str(records), SIZE, BATCH, CLASSES, threads)
    full = Augmentation(area_min=area_min)

    def ours(**changes: float) -> Iterator[Any]:
        return TrainingInput(options, dataclasses.replace(full, **changes)).batches()

    found = {
        "records read": read_only(records),
        DECODED: decode_only(images, threads),
        "ours: crop, resize, flip": ours(**CROP_ONLY),
        FULL: ours(),
        "plain tf.image": plain(records, full, threads),
    }
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        found["NVIDIA DALI"] = input_peers.dali(files, full, SIZE, BATCH, threads)
    if importlib.util.find_spec("torch") and not args.quick:  # its processes start slowly
        loader = input_peers.torch_loader(files, full, SIZE, BATCH, threads)
        found["torch DataLoader"] = (batch for _ in itertools.count() for batch in loader)
    return found


def read_only(folder: Path) -> Iterator[Any]:
    source, start = RecordSource(folder, CLASSES, 0), 0
    while True:
        yield [source.read((start + slot) % source.total) for slot in range(BATCH)]
        start += BATCH


def decode_only(images: Sequence[bytes], threads: int) -> Iterator[Any]:
    dataset = (
        tf.data.Dataset.from_tensor_slices(list(images))
        .repeat()
        .map(lambda image: tf.io.decode_jpeg(image, 3, dct_method="INTEGER_FAST"), threads)
    )
    # This is a limit, not a pipeline: the pixels are not copied into batches.
    return iter(_threaded(dataset.map(tf.shape).batch(BATCH).prefetch(2), threads))


def plain(folder: Path, options: Augmentation, threads: int) -> Iterator[Any]:
    """The released system's pipeline in TensorFlow 2."""
    features = {"image": tf.io.FixedLenFeature([], tf.string)}

    def prepare(payload: tf.Tensor) -> tf.Tensor:
        contents = tf.io.parse_single_example(payload, features)["image"]
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(contents),
            tf.zeros([1, 0, 4]),
            aspect_ratio_range=(options.aspect_min, options.aspect_max),
            area_range=(options.area_min, options.area_max),
            use_image_if_no_bounding_boxes=True,
        )
        window = tf.concat([begin[:2], size[:2]], 0)
        image = tf.io.decode_and_crop_jpeg(contents, window, 3, dct_method="INTEGER_FAST")
        image = tf.image.resize(image, [SIZE, SIZE]) / 255.0
        return _distorted(tf.image.random_flip_left_right(image)) * 2.0 - 1.0

    files = sorted(str(path) for path in folder.glob("*.tfrecords"))
    dataset = tf.data.TFRecordDataset(files).repeat().shuffle(SHUFFLED)
    dataset = dataset.map(prepare, threads).batch(BATCH).prefetch(2)
    return iter(_threaded(dataset, threads))


def _distorted(image: tf.Tensor) -> tf.Tensor:
    def colors(image: tf.Tensor, contrast_last: bool) -> tf.Tensor:
        image = tf.image.random_brightness(image, 32 / 255)
        if not contrast_last:
            image = tf.image.random_contrast(image, 0.5, 1.5)
        image = tf.image.random_hue(tf.image.random_saturation(image, 0.5, 1.5), 0.2)
        if contrast_last:
            image = tf.image.random_contrast(image, 0.5, 1.5)
        return tf.clip_by_value(image, 0.0, 1.0)

    def rotated() -> tf.Tensor:
        angle = tf.random.uniform([], -math.pi / 4, math.pi / 4)
        cos, sin, middle = tf.cos(angle), tf.sin(angle), (SIZE - 1) / 2
        shift_x, shift_y = middle - (cos - sin) * middle, middle - (sin + cos) * middle
        return tf.raw_ops.ImageProjectiveTransformV3(
            images=image[tf.newaxis],
            transforms=[[cos, -sin, shift_x, sin, cos, shift_y, 0.0, 0.0]],
            output_shape=[SIZE, SIZE],
            fill_value=0.0,
            interpolation="NEAREST",
        )[0]

    draw = tf.random.uniform([], maxval=3, dtype=tf.int32)
    branches = [lambda: colors(rotated(), True), lambda: colors(image, False), lambda: image]
    return tf.ensure_shape(tf.switch_case(draw, branches), [SIZE, SIZE, 3])


def _threaded(dataset: tf.data.Dataset, threads: int) -> tf.data.Dataset:
    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    options.threading.max_intra_op_parallelism = 1
    return dataset.with_options(options)


def stretch(batches: Iterator[Any], count: int) -> harness.Cost:
    """The cost per image of the next `count` batches."""
    for _ in range(WARM_UP):
        next(batches)
    cost = harness.timed(lambda: [next(batches) for _ in range(count)])
    return harness.Cost(cost.seconds / (count * BATCH), cost.cpu / (count * BATCH))


def rows(
    images: Sequence[bytes], folder: Path, area_min: float, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each contender."""
    # Reused in every round: new ones would spend their time on fresh memory.
    jobs = {
        name: functools.partial(stretch, batches, max(1, args.images // BATCH))
        for name, batches in contenders(images, folder, area_min, args).items()
    }
    harness.in_turn(jobs, 1)  # traces, compiles
    costs = harness.in_turn(jobs, args.rounds)
    seconds = {name: [cost.seconds for cost in found] for name, found in costs.items()}
    return [
        {
            "what": name,
            "area from": area_min,
            "images/s": 1 / statistics.median(seconds[name]),
            # torch's workers are other processes, whose time is not included.
            "CPU us": "" if "torch" in name else 1e6 * statistics.median(c.cpu for c in found),
            "of decoding": harness.median_ratio(seconds[DECODED], seconds[name]),
            "ours, times": harness.median_ratio(seconds[name], seconds[FULL]),
        }
        for name, found in costs.items()
    ]


def under_lock(folder: Path, size: int) -> list[dict[str, Any]]:
    """Rows with the microseconds per image of the threads that read records and make images."""
    data, group = io.BytesIO(), 32
    Image.new("RGB", (8, 8)).save(data, "JPEG")
    image = data.getvalue().ljust(size, b"\0")
    with RecordWriter(folder / "tiny.tfrecords") as writer:
        for _ in range(group):
            labels = list(range(9)), [1.0] * 9
            writer.write(encode_example("sparse", image, "tiny.jpg", 8, 8, *labels))
    source = RecordSource(folder / "tiny.tfrecords", CLASSES, 0)
    reader = SampleReader(source, lambda start, count: np.arange(start, start + count))
    seeds = np.stack([np.zeros(group, np.int64), np.arange(group)], axis=1)
    images = np.empty((group, 8, 8, 3), np.float32)
    jobs = {
        "Python: reads a record": lambda: reader.read_all(range(group)),
        f"Python: makes an image, {group} a call": lambda: augment.make_images(
            [image] * group, seeds, Augmentation(), images
        ),
    }
    return [{"what": name, "CPU us": 1e6 * _least(job) / group} for name, job in jobs.items()]


def _least(job: Callable[[], Any], calls: int = 200) -> float:
    """This thread's processor seconds in the fastest of the calls."""

    def cost() -> float:
        start = time.thread_time()
        job()
        return time.thread_time() - start

    return min(cost() for _ in range(calls))


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as name:
        images = photographs.jpegs(args.images)
        convert(photographs.write(Path(name) / "images", images, CLASSES), processes=2)
        found = [row for area in args.areas for row in rows(images, Path(name), area, args)]
        return found + under_lock(Path(name), len(images[0]))


if __name__ == "__main__":
    harness.main(
        *(measure, __doc__),
        images=(512, 32),
        threads=(len(os.sched_getaffinity(0)), 2),
        areas=([0.7, 0.05], [0.7]),
        rounds=(5, 1),
    )
