"""Logs an overview of the run when it starts, and estimates how long it takes."""

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from absl import logging

from models.training.metric_writer import Meter, clock

LONG_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True)
class OverviewOptions:
    """The fields are the flags of the same name."""

    warmup: int
    model_dir: str
    log_dir: str


def show(
    network: Any,
    image_sizes: str,
    steps: str,
    schedule: Callable[[int], float],
    options: OverviewOptions,
) -> None:
    """Logs device, network, learning rate, output folders, and `steps` (see `arithmetic`)."""
    backbone = getattr(network, "backbone", network)
    kinds = dict.fromkeys(type(part).__name__ for part in (network, backbone))
    parameters = sum(math.prod(v.shape) for v in network.trainable_by_name().values())
    logging.info(
        "%s-%d of width %d, %s parameters, %d classes, %s, on %s",
        *(" on ".join(kinds), backbone.resnet_size, backbone.width, f"{parameters:,}"),
        *(network.class_num, image_sizes, device()),
    )
    logging.info("%s", steps)
    logging.info("learning rate %g, then %g after warm-up", schedule(0), schedule(options.warmup))
    logging.info("checkpoints in %s, log in %s", options.model_dir, options.log_dir)
    logging.info("the first step compiles the network, which may take a minute")


def show_next(commands: Sequence[str], options: OverviewOptions) -> None:
    """Logs where the results of a finished run are, and what to run with them."""
    plot = "python data/plot_training.py --log_dir {log_dir} --output curves.png"
    places = {"model_dir": options.model_dir, "log_dir": options.log_dir}
    for command in (*commands, plot):
        logging.info("next: %s", command.format_map(places))


def device() -> str:
    """The name of this process's device, for the log."""
    gpus = tf.config.list_logical_devices("GPU")
    return gpus[0].name if gpus else f"CPU, {os.cpu_count()} cores"


def log_pace(meter: Meter, left: int, rank: int) -> None:
    """On rank 0, logs the time of the first step and, after the second, of the `left` steps."""
    seconds = meter.last_seconds
    if rank or meter.steps > 2:
        return
    if meter.steps == 1:
        logging.info("the first step took %.1f s", seconds)
        return
    estimate = "a step takes %.3g s: the %d left take about %s"
    taken = seconds, left, clock(seconds * left)
    if seconds * left > LONG_SECONDS and not tf.config.list_logical_devices("GPU"):
        logging.warning(
            f"{estimate}; to finish sooner, lower --max_iter, --batch_size, --image_size or "
            "--resnet_size, or start from a --pretrain_ckpt",
            *taken,
        )
    elif left:
        logging.info(estimate, *taken)
