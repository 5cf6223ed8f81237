"""Floating-point operations of our network, and this machine's rate for them."""

from collections.abc import Callable
from typing import Any

from benchmarks.harness import median_seconds
from models.architecture import blocks

# A 3 x 3 convolution of the third stage at batch 32, typical of the network's work.
IMAGES, SIDE, CHANNELS, KERNEL = 32, 28, 256, 3


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


def convolution(dtype: str) -> tuple[Callable[[], Any], int]:
    """One large convolution, and its number of floating-point operations."""
    import tensorflow as tf

    images = tf.cast(tf.random.normal([IMAGES, SIDE, SIDE, CHANNELS]), dtype)
    kernel = tf.cast(tf.random.normal([KERNEL, KERNEL, CHANNELS, CHANNELS]), dtype)
    run = tf.function(lambda: tf.nn.conv2d(images, kernel, 1, "SAME"))
    return run, 2 * IMAGES * SIDE**2 * CHANNELS**2 * KERNEL**2


def peak(dtype: str, repeats: int = 7) -> float:
    """Floating-point operations per second of that convolution."""
    run, operations = convolution(dtype)
    return operations / median_seconds(run, repeats)
