"""Describes a checkpoint as text: network, statistics of every tensor, flags."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.common import mirror
from data.lists.classes import Classes
from models.architecture import is_trainable
from models.backbones import RESNET
from models.checkpoints import checkpoint, metadata
from models.checkpoints.checkpoint import Checkpoint, CheckpointError

_COLUMNS = "{:<62} {:<18} {:<8} {:>11} {:>11} {:>11} {:>11}"
CLASSES_SHOWN = 5
_STATISTICS = ("mean", "std", "min", "max")


def lines(prefix: str | Path) -> Iterator[str]:
    """Lines of the report; each tensor is read only for its line, so memory use stays small.

    Raises CheckpointError if the checkpoint cannot be read.
    """
    opened = checkpoint.read(prefix)
    yield f"checkpoint {mirror.shown(str(prefix))}"
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
        if key == "calibration" and "thresholds" in value:
            value = {**value, "thresholds": f"of {len(value['thresholds'])} classes"}
        if key == "flags":
            yield "flags:"
            yield from (f"  {name}: {json.dumps(flag)}" for name, flag in sorted(value.items()))
        elif key != "classes":
            yield f"{key}: {json.dumps(value, sort_keys=True)}"
    yield f"classes: {classes_line(metadata.kept_classes(prefix))}"


def classes_line(classes: Classes | None) -> str:
    """Number, source and first names of the classes, in one line."""
    if classes is None:
        return "the checkpoint does not name them"
    shown, more = classes.names[:CLASSES_SHOWN], len(classes.names) - CLASSES_SHOWN
    hierarchy = "without a hierarchy" if classes.hierarchy is None else "with their hierarchy"
    return (
        f"{len(classes.names):,}, {hierarchy}, of a dictionary with SHA-256 {classes.sha256}: "
        + ", ".join(shown)
        + (f" and {more:,} more" if more > 0 else "")
    )


def statistics(tensor: np.ndarray) -> tuple[str, ...]:
    """Mean, standard deviation, minimum and maximum, as text; "" for no values or no numbers."""
    if tensor.size == 0 or tensor.dtype.kind not in "fiuV":  # V: bfloat16 in NumPy.
        return ("",) * len(_STATISTICS)
    exact = tensor.astype(np.float64)
    values = (exact.mean(), exact.std(), exact.min(), exact.max())
    return tuple(f"{value:.4g}" for value in values)


def summary(opened: Checkpoint) -> str:
    """One line: the network, its step, and whether momentum and averages are stored."""
    try:
        found = checkpoint.describe(opened.prefix)
    except CheckpointError as error:
        return f"not a network of this project: {error}"
    names = checkpoint.not_matching(opened.shapes, checkpoint.TRAINING_STATE)
    parameters = sum(math.prod(opened.shapes[name]) for name in names if is_trainable(name))
    kind = "ResNet" if found.backbone == RESNET else found.backbone
    step = "no step" if found.step is None else f"step {found.step:,}"
    stored = {"momentum": found.has_momentum, "moving average": found.has_average}
    extras = [name for name, is_stored in stored.items() if is_stored]
    return (
        f"{kind}-{found.resnet_size}, width {found.width}, {found.class_num:,} classes, "
        f"{parameters:,} parameters, {step}, with {' and '.join(extras) or 'weights only'}"
    )
