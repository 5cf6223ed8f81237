"""Describes a checkpoint as text: network, statistics of every tensor, flags."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from models.architecture import is_trainable
from models.backbones import RESNET
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import Checkpoint, CheckpointError

_COLUMNS = "{:<62} {:<18} {:<8} {:>11} {:>11} {:>11} {:>11}"
_STATISTICS = ("mean", "std", "min", "max")


def lines(prefix: str | Path) -> Iterator[str]:
    """The report, a line at a time; one tensor is in memory at a time.

    Raises CheckpointError when the checkpoint cannot be read.
    """
    opened = checkpoint.read(prefix)
    yield f"checkpoint {prefix}"
    yield summary(opened)
    yield ""
    yield _COLUMNS.format("variable", "shape", "type", *_STATISTICS)
    total_bytes = 0
    for name in opened.shapes:
        tensor = opened.tensor(name)
        total_bytes += tensor.nbytes
        yield _COLUMNS.format(name, str(list(tensor.shape)), str(tensor.dtype), *statistics(tensor))
    yield ""
    yield f"{len(opened.shapes):,} tensors, {total_bytes / 1e6:,.1f} MB"
    for key, value in opened.meta().items():
        yield f"{key}: {json.dumps(value, sort_keys=True)}"


def statistics(tensor: np.ndarray) -> tuple[str, ...]:
    """Mean, standard deviation, least and largest value, as text; empty for what is no number."""
    if tensor.size == 0 or tensor.dtype.kind not in "fiuV":
        return ("",) * len(_STATISTICS)
    exact = tensor.astype(np.float64)
    values = (exact.mean(), exact.std(), exact.min(), exact.max())
    return tuple(f"{value:.4g}" for value in values)


def summary(opened: Checkpoint) -> str:
    """One line: the network, its step and what is next to the weights."""
    try:
        found = checkpoint.describe(opened.prefix)
    except CheckpointError as error:
        return f"no network of ML-Images: {error}"
    names = checkpoint.unskipped(opened.shapes, checkpoint.TRAINING_STATE)
    parameters = sum(math.prod(opened.shapes[name]) for name in names if is_trainable(name))
    kind = "ResNet" if found.backbone == RESNET else found.backbone
    step = "no step" if found.step is None else f"step {found.step:,}"
    extras = [name for name, there in (("momentum", found.has_momentum),
                                       ("moving average", found.has_average)) if there]  # fmt: skip
    return (
        f"{kind}-{found.resnet_size}, width {found.width}, {found.class_num:,} classes, "
        f"{parameters:,} parameters, {step}, with {' and '.join(extras) or 'weights only'}"
    )
