"""The peers of benchmarks/input.py: NVIDIA DALI on CPUs, and torch's DataLoader.

Both do the same work as ours: JPEG files to float32 images in [-1, 1], with random crop and resize,
half of them mirrored; a third is rotated and colored, a third only colored, a third unchanged. They
read single files, which need no record parsing; the files are in the page cache.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from data.input.augment import CROP_TRIES, Augmentation


def dali(folder: Path, options: Augmentation, size: int, batch: int, threads: int) -> Iterator[Any]:
    """Endless batches from DALI's CPU operators.

    Args:
        folder: has the JPEG files.
        threads: number of threads for DALI.
    """
    from nvidia.dali import fn, pipeline_def, types

    degrees = options.rotate_degrees

    def colored(images: Any) -> Any:
        return fn.color_twist(
            images,
            brightness=fn.random.uniform(range=(1 - options.brightness, 1 + options.brightness)),
            saturation=fn.random.uniform(range=(options.saturation_min, options.saturation_max)),
            contrast=fn.random.uniform(range=(options.contrast_min, options.contrast_max)),
            hue=fn.random.uniform(range=(-360 * options.hue, 360 * options.hue)),
        )

    @pipeline_def(batch_size=batch, num_threads=threads, device_id=None, enable_conditionals=True)
    def pipeline() -> Any:
        files, _ = fn.readers.file(
            files=[str(path) for path in folder.glob("*.jpg")], random_shuffle=True
        )
        images = fn.decoders.image_random_crop(
            files,
            random_aspect_ratio=(options.aspect_min, options.aspect_max),
            random_area=(options.area_min, options.area_max),
            num_attempts=CROP_TRIES,
            use_fast_idct=True,
        )
        images = fn.resize(
            images, size=(size, size), interp_type=types.INTERP_LINEAR, antialias=False
        )
        kind = fn.random.uniform(range=(0.0, 1.0))
        if kind < options.rotate_probability:
            angle = fn.random.uniform(range=(-degrees, degrees))
            turned = fn.rotate(
                images, angle=angle, keep_size=True, fill_value=0, interp_type=types.INTERP_NN
            )
            images = colored(turned)
        elif kind < options.rotate_probability + options.color_probability:
            images = colored(images)
        return fn.crop_mirror_normalize(
            images,
            dtype=types.FLOAT,
            output_layout="HWC",
            mean=[127.5] * 3,
            std=[127.5] * 3,
            mirror=fn.random.coin_flip(probability=options.flip_probability),
        )

    made = pipeline()
    made.build()
    while True:
        yield made.run()[0].as_tensor()


class Photographs:
    """A data set for torch's DataLoader with Pillow's operations; [-1, 1], channels last."""

    def __init__(self, folder: Path, options: Augmentation, size: int):
        self._files = sorted(folder.glob("*.jpg"))
        self._options, self._size = options, size

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> np.ndarray:
        options, size = self._options, (self._size, self._size)
        with Image.open(self._files[index]) as image:
            box = self._box(*image.size)
            image = image.convert("RGB").resize(size, Image.Resampling.BILINEAR, box)
        if random.random() < options.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        kind = random.random()
        if kind < options.rotate_probability:
            image = image.rotate(random.uniform(-options.rotate_degrees, options.rotate_degrees))
        if kind < options.rotate_probability + options.color_probability:
            image = self._colored(image)
        return np.asarray(image, np.float32) * np.float32(2 / 255) - np.float32(1)

    def _box(self, width: int, height: int) -> tuple[float, float, float, float]:
        options = self._options
        for _ in range(CROP_TRIES):
            area = random.uniform(options.area_min, options.area_max) * width * height
            aspect = random.uniform(options.aspect_min, options.aspect_max)
            wide, high = math.sqrt(area * aspect), math.sqrt(area / aspect)
            if wide <= width and high <= height:
                left, top = random.uniform(0, width - wide), random.uniform(0, height - high)
                return left, top, left + wide, top + high
        return 0, 0, width, height

    def _colored(self, image: Image.Image) -> Image.Image:
        options = self._options
        brightness = 1 + random.uniform(-options.brightness, options.brightness)
        image = ImageEnhance.Brightness(image).enhance(brightness)
        saturation = random.uniform(options.saturation_min, options.saturation_max)
        image = ImageEnhance.Color(image).enhance(saturation)
        hue, saturation, value = image.convert("HSV").split()
        shift = int(255 * random.uniform(-options.hue, options.hue)) % 256
        hue = hue.point([(level + shift) % 256 for level in range(256)])
        image = Image.merge("HSV", (hue, saturation, value)).convert("RGB")
        contrast = random.uniform(options.contrast_min, options.contrast_max)
        return ImageEnhance.Contrast(image).enhance(contrast)


def torch_loader(folder: Path, options: Augmentation, size: int, batch: int, workers: int) -> Any:
    """A DataLoader of `Photographs` with as many worker processes as ours has threads."""
    from torch.utils.data import DataLoader

    return DataLoader(
        Photographs(folder, options, size),
        batch,
        shuffle=True,
        num_workers=workers,
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="spawn",  # TensorFlow's threads do not survive a fork
    )
