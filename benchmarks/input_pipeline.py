"""Times the input pipeline stage by stage, next to JPEG decoding and other pipelines.

    python benchmarks/input_pipeline.py [--threads 2] [--images 512] [--rounds 5]
        [--areas 0.7 0.05] [--json FILE]

The records hold distinct 500 x 375 JPEGs cut out of real photographs. Contenders take turns, a
stretch each a round, so that a noisy machine slows all alike; figures are medians over the rounds.
`CPU us` is processor time an image, which other processes on the machine disturb less. The plain
pipeline is what the released system did, in TensorFlow 2: TFRecordDataset, `tf.image` operations,
a shuffled buffer. NVIDIA DALI and torch's DataLoader (benchmarks/input_peers.py) take part where
they are installed; `ours, times` is full augmentation's rate over the row's. The bars: full
augmentation at least 0.6 of the decode rate, and 1.5 times DALI's. For the growth with cores, start
it on fewer of them: `taskset --cpu-list 0 python benchmarks/input_pipeline.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
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
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmarks import input_peers
from benchmarks.measuring import memory_bytes, report
from data.input.augment import Augmentation, random_crop
from data.input.pipeline import InputOptions, TrainingInput
from data.tfrecords import records
from data.tfrecords.examples import encode_example
from data.tfrecords.record_source import RecordSource

WIDTH, HEIGHT, QUALITY = 500, 375, 90
SHARDS, CLASSES, BATCH, SIZE, SHUFFLED = 4, 1000, 32, 224, 2048
FULL = "full augmentation"
WARM_UP = 3  # batches, until buffers are full
CROP_ONLY = {"rotate_probability": 0.0, "color_probability": 0.0}

Batches = Callable[[], Iterator[Any]]


def jpegs(count: int) -> list[bytes]:
    """Distinct JPEGs of ImageNet's usual size, cut out of real photographs."""
    from skimage import data as photographs
    from sklearn.datasets import load_sample_images

    sources = [photographs.astronaut(), photographs.coffee(), photographs.rocket()]
    sources += [photographs.chelsea(), *load_sample_images().images]
    rng = np.random.default_rng(0)
    encoded = []
    for number in range(count):
        source = Image.fromarray(sources[number % len(sources)])
        width = min(source.width, source.height * WIDTH / HEIGHT) * rng.uniform(0.5, 1)
        height = width * HEIGHT / WIDTH
        left = rng.uniform(0, source.width - width)
        top = rng.uniform(0, source.height - height)
        box = left, top, left + width, top + height
        part = source.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box)
        data = io.BytesIO()
        part.save(data, "JPEG", quality=QUALITY)
        encoded.append(data.getvalue())
    return encoded


def write_records(folder: Path, images: Sequence[bytes]) -> None:
    """A few shards, with the labels of nine classes an image."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for shard in range(SHARDS):
        with records.RecordWriter(folder / f"shard-{shard}") as writer:
            for number in range(shard, len(images), SHARDS):
                labels = rng.choice(CLASSES, 9, replace=False)
                name = f"{number}.jpg"
                writer.write(
                    encode_example("sparse", images[number], name, WIDTH, HEIGHT, labels.tolist())
                )


def write_files(folder: Path, images: Sequence[bytes]) -> None:
    """The same images as single files, which the peers read."""
    (folder / "class").mkdir(parents=True)
    for number, image in enumerate(images):
        (folder / "class" / f"{number}.jpg").write_bytes(image)


def contenders(folder: Path, area_min: float, threads: int) -> dict[str, Batches]:
    """What is timed, by name: each gives many batches of `BATCH` images."""
    shards, files = folder / "records", folder / "files"
    options = InputOptions(str(shards), SIZE, BATCH, CLASSES, threads)
    full = Augmentation(area_min=area_min)

    def ours(**changes: float) -> Batches:
        return TrainingInput(options, dataclasses.replace(full, **changes)).batches

    found = {
        "records read": lambda: read_only(shards),
        "JPEG decoded": lambda: decode_only(shards, threads),
        "crop, resize, flip": ours(**CROP_ONLY),
        FULL: ours(),
        "plain tf.image": lambda: plain(shards, full, threads),
    }
    if importlib.util.find_spec("nvidia") and importlib.util.find_spec("nvidia.dali"):
        found["NVIDIA DALI"] = lambda: input_peers.dali(files, full, SIZE, BATCH, threads)
    if importlib.util.find_spec("torch"):
        loader = input_peers.torch_loader(files, full, SIZE, BATCH, threads)
        found["torch DataLoader"] = lambda: (images for _ in itertools.count() for images in loader)
    return found


def read_only(folder: Path) -> Iterator[Any]:
    source, start = RecordSource(folder, CLASSES, 0), 0
    while True:
        yield [source.read((start + slot) % source.total) for slot in range(BATCH)]
        start += BATCH


def decode_only(folder: Path, threads: int) -> Iterator[Any]:
    source = RecordSource(folder, CLASSES, 0)
    images = [source.read(record).image for record in range(source.total)]
    dataset = (
        tf.data.Dataset.from_tensor_slices(images)
        .repeat()
        .map(lambda image: tf.io.decode_jpeg(image, 3, dct_method="INTEGER_FAST"), threads)
    )
    # The pixels are not copied into batches: this is the limit, not a pipeline.
    return iter(_threaded(dataset.map(tf.shape).batch(BATCH).prefetch(2), threads))


def plain(folder: Path, options: Augmentation, threads: int) -> Iterator[Any]:
    """The released system's stages in TensorFlow 2."""
    features = {"image": tf.io.FixedLenFeature([], tf.string)}

    def prepare(payload: tf.Tensor) -> tf.Tensor:
        contents = tf.io.parse_single_example(payload, features)["image"]
        seed = tf.random.uniform([2], maxval=1 << 30, dtype=tf.int64)
        image = tf.image.resize(random_crop(contents, seed, options), [SIZE, SIZE]) / 255.0
        return _distorted(tf.image.random_flip_left_right(image)) * 2.0 - 1.0

    files = sorted(str(path) for path in folder.iterdir() if not path.name.endswith(".idx"))
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


def stretch(batches: Batches, count: int) -> tuple[float, float]:
    """Images a second, and seconds of processor time an image, of `count` batches."""
    iterator = batches()
    for _ in range(WARM_UP):
        next(iterator)
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(iterator)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return count * BATCH / seconds, processor / (count * BATCH)


def measure(folder: Path, args: argparse.Namespace, area_min: float) -> list[dict[str, Any]]:
    """A row for each contender."""
    timed = contenders(folder, area_min, args.threads)
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in timed}
    for _ in range(args.rounds):
        for name, batches in timed.items():
            results[name].append(stretch(batches, args.batches))
    rows = {}
    for name, pairs in results.items():
        rate, processor = (statistics.median(values) for values in zip(*pairs, strict=True))
        rows[name] = {
            "area from": area_min,
            "threads": args.threads,
            "what": name,
            "images/s": rate,
        }
        if name != "torch DataLoader":  # the work is done in other processes
            rows[name]["CPU us"] = processor * 1e6
    for row in rows.values():
        row["of decoding"] = row["images/s"] / rows["JPEG decoded"]["images/s"]
        row["ours, times"] = rows[FULL]["images/s"] / row["images/s"]
    return list(rows.values())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    cores = len(os.sched_getaffinity(0))
    parser.add_argument("--threads", type=int, default=cores, help="that decode")
    parser.add_argument("--images", type=int, default=512, help="distinct images")
    parser.add_argument("--batches", type=int, default=20, help="batches of 32 a stretch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--areas", type=float, nargs="+", default=[0.7, 0.05])
    parser.add_argument("--json", help="file for the rows as JSON")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = jpegs(args.images)
        write_records(folder / "records", images)
        write_files(folder / "files", images)
        rows = [row for area in args.areas for row in measure(folder, args, area)]
    report("Input pipeline", rows, args.json)
    print(f"\npeak memory {memory_bytes('VmHWM') / 2**30:.2f} GiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
