"""Classes, calibration and thresholds from the JSON next to a checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from data.common.errors import UserError
from data.lists.class_files import read_thresholds
from data.lists.classes import Classes
from models.calibration import Calibration
from models.checkpoints.files import CheckpointError, is_positive, read
from models.losses import LOSSES

# Of the released checkpoints with sigmoid scores, which have no JSON next to them.
RELEASED_POSITIVE_WEIGHT = 12.0


def classes_of(
    prefix: str | Path,
    class_num: int,
    dictionary: str | None = None,
    read_dictionary: Callable[[str], Classes] = Classes.read,
) -> Classes:
    """The classes of a checkpoint, from the first of these that exists.

    1. `dictionary`, given by the user.
    2. What training stored with the checkpoint.
    3. ImageNet's names for 1,000 classes, as in the released code; "class N" otherwise.

    Raises:
      UserError: the dictionary cannot be read, or has another number of classes.
      CheckpointError: the classes kept with the checkpoint are not valid.
    """
    if dictionary:
        return read_dictionary(dictionary).check_number(class_num, dictionary)
    kept = kept_classes(prefix)
    return kept.check_number(class_num, f"{prefix}.json") if kept else Classes.of_number(class_num)


def kept_classes(prefix: str | Path) -> Classes | None:
    """The classes that training stored with a checkpoint; None without them.

    Raises CheckpointError: they are not valid.
    """
    section = read(prefix).meta().get("classes")
    try:
        return Classes.from_section(section) if section else None
    except ValueError as error:
        remedy = "restore a copy, or give --dictionary"
        raise CheckpointError(f"{prefix}.json: {error}; {remedy}") from None


def logit_shift(prefix: str | Path, score: str) -> float:
    """`Calibration.shift` of a checkpoint: the logarithm of the loss weight of positive labels.

    Raises UserError: the checkpoint does not say which loss it was trained with, or the weight is
    not a number above 0.
    """
    flags = read(prefix).meta().get("flags")
    if score == "softmax":
        return 0.0
    if flags is None:
        return math.log(RELEASED_POSITIVE_WEIGHT)
    loss = LOSSES.get(flags.get("loss"))
    if loss is None:
        raise UserError(
            f"{prefix}.json does not say which loss it was trained with, so its scores cannot be"
            " corrected: use --probabilities=raw"
        )
    weight = flags.get("positive_weight", 1.0) if "positive_weight" in loss.numbers() else 1.0
    if not is_positive(weight):
        raise UserError(
            f"{prefix}.json: a --positive_weight of {weight!r} cannot be undone: it must be above 0"
        )
    return math.log(weight)


def calibration_of(
    prefix: str | Path, probabilities: str, score: str, use_ema: bool = False
) -> Calibration:
    """The calibration that turns a checkpoint's scores into probabilities.

    Args:
      probabilities: raw leaves the scores as they are, corrected removes the effect of the loss
        weight of positive labels, calibrated also divides by the temperature that evaluate.py
        --calibrate fitted.
      score: how scores are computed from logits, softmax or sigmoid.
      use_ema: whether the network uses the moving average of the weights.

    Raises:
      UserError: the checkpoint lacks the information that this needs.
    """
    if probabilities == "raw":
        return Calibration(score)
    shift = logit_shift(prefix, score)
    if probabilities == "corrected":
        return Calibration(score, shift)
    kept = _kept_calibration(prefix, score, use_ema)
    if kept is None:
        average = " --use_ema" if use_ema else ""
        raise UserError(
            f"--probabilities=calibrated: no temperature for {score} scores is kept with {prefix};"
            f" fit one: python evaluate.py --pretrain_ckpt={prefix}{average} --calibrate"
            " --val_dir=RECORDS"
        )
    return Calibration(score, shift, kept["temperature"])


def kept_thresholds(
    prefix: str | Path, class_num: int, score: str, use_ema: bool = False
) -> np.ndarray | None:
    """The thresholds kept with a checkpoint, float32 [C], for raw scores; None without them.

    Raises CheckpointError: their number is not `class_num`.
    """
    found = (_kept_calibration(prefix, score, use_ema) or {}).get("thresholds")
    if found is not None and len(found) != class_num:
        raise CheckpointError(f"{prefix}.json has {len(found)} thresholds for {class_num} classes")
    return None if found is None else np.array(found, np.float32)


def thresholds_of(
    prefix: str | Path,
    class_num: int,
    calibration: Calibration,
    use_ema: bool = False,
    threshold: float | None = None,
    threshold_file: str | None = None,
    default: float = 0.0,
) -> np.ndarray:
    """The probabilities from which classes are predicted, float32 [C].

    They are the first of these that exists: those of `threshold_file` (`threshold` or `default` for
    classes that it lacks), `threshold`, those kept with the checkpoint, `default`.

    Raises:
      UserError: a row of the file is malformed.
      CheckpointError: the checkpoint has thresholds for another number of classes.
    """
    given = default if threshold is None else threshold
    if threshold_file:
        return read_thresholds(threshold_file, class_num, given)
    if threshold is None:
        kept = kept_thresholds(prefix, class_num, calibration.score, use_ema)
        if kept is not None:
            logging.info("using the class thresholds kept with %s", prefix)
            return calibration.thresholds(kept)
    return np.full(class_num, given, np.float32)


def _kept_calibration(prefix: str | Path, score: str, use_ema: bool) -> Mapping[str, Any] | None:
    """The section `calibration`, if it is for these scores and weights."""
    kept = read(prefix).meta().get("calibration", {})
    return kept if (kept.get("score"), kept.get("use_ema")) == (score, use_ema) else None
