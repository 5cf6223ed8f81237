"""Learning rate schedules as pure functions of the step; no TensorFlow.

A schedule is a callable `step -> learning rate`; `step` counts the optimizer steps done, from 0.
To add one, write a function here, its branch in `make_schedule`, and its name in `POLICIES` and
in --lr_policy of flags.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from data.common.errors import UserError

Schedule = Callable[[int], float]

POLICIES = ("pretraining", "staircase", "cosine", "polynomial", "constant")
# The released pretraining code has only four boundaries (spec section 4).
MAX_BOUNDARIES = 4


@dataclass(frozen=True)
class ScheduleOptions:
    """The flags of a schedule; learning rates are for `reference_batch` images per step.

    `warmup` is in steps. The pretraining policy warms up exponentially: from `lr_warmup`, times
    `lr_warmup_decay_factor` every `lr_warmup_decay_step` steps; the others warm up linearly.
    With `reference_batch` above 0, learning rates are multiplied by global batch / reference batch
    (linear scaling, arXiv 1706.02677).

    Raises:
      UserError: an unknown policy, or values that it cannot use.
    """

    lr_policy: str = "pretraining"
    lr: float = 0.1
    lr_decay_step: int = 0
    lr_decay_factor: float = 0.1
    lr_end: float = 0.0
    lr_power: float = 1.0
    warmup: int = 0
    lr_warmup: float = 0.1
    lr_warmup_decay_step: int = 4400
    lr_warmup_decay_factor: float = 1.414
    reference_batch: int = 0

    def __post_init__(self) -> None:
        if self.lr_policy not in POLICIES:
            raise UserError(f"lr_policy is {self.lr_policy!r}: use one of {', '.join(POLICIES)}")
        if self.lr < 0 or self.warmup < 0:
            raise UserError(f"lr {self.lr} and warmup {self.warmup} must not be below 0")
        if self.lr_policy == "staircase" and self.lr_decay_step <= 0:
            raise UserError("--lr_policy=staircase needs --lr_decay_step above 0")
        exponential = self.lr_policy == "pretraining" and self.warmup
        if exponential and self.lr_warmup_decay_step <= 0:
            raise UserError("the warm-up of pretraining needs --lr_warmup_decay_step above 0")


def make_schedule(options: ScheduleOptions, max_iter: int, global_batch: int = 0) -> Schedule:
    """The schedule that the options describe.

    Args:
      max_iter: optimizer steps of the run, at which cosine and polynomial end.
      global_batch: images per optimizer step over all workers, for linear scaling.

    Raises:
      UserError: cosine or polynomial have no steps left after the warm-up.
    """
    scale = linear_scale(global_batch, options.reference_batch)
    lr, after = options.lr * scale, max_iter - options.warmup
    if options.lr_policy in ("cosine", "polynomial") and after <= 0:
        raise UserError(f"warmup {options.warmup} leaves no step of max_iter {max_iter}")
    if options.lr_policy == "pretraining":
        schedule = multistep(lr, options.lr_decay_step, options.lr_decay_factor)
        warm = growing(
            options.lr_warmup * scale, options.lr_warmup_decay_step, options.lr_warmup_decay_factor
        )
        return lambda step: warm(step) if step < options.warmup else schedule(step)
    if options.lr_policy == "staircase":
        schedule = staircase(lr, options.lr_decay_step, options.lr_decay_factor)
    elif options.lr_policy == "cosine":
        schedule = delayed(cosine(lr, after, options.lr_end * scale), options.warmup)
    elif options.lr_policy == "polynomial":
        decay = polynomial(lr, after, options.lr_end * scale, options.lr_power)
        schedule = delayed(decay, options.warmup)
    else:
        schedule = constant(lr)
    return linear_warmup(schedule, options.warmup)


def linear_scale(global_batch: int, reference_batch: int) -> float:
    """Factor of the learning rate for `global_batch` images per step; 1 without a reference."""
    return global_batch / reference_batch if reference_batch else 1.0


def constant(lr: float) -> Schedule:
    """`lr` at every step."""
    return lambda step: lr


def multistep(lr: float, decay_step: int, factor: float) -> Schedule:
    """`lr`, times `factor` after each of the four boundaries k * `decay_step` (spec section 4).

    At a boundary the learning rate is still the old one, as in the released `piecewise_constant`.
    No decay if `decay_step` is 0.
    """

    def rate(step: int) -> float:
        passed = max(step - 1, 0) // decay_step if decay_step else 0
        return lr * factor ** min(passed, MAX_BOUNDARIES)

    return rate


def growing(lr: float, every: int, factor: float) -> Schedule:
    """`lr * factor ** (step // every)`: the warm-up of the pretraining recipe."""
    return lambda step: lr * factor ** (step // every)


# The finetuning recipe: the same formula, with a factor below 1. Step `every` has the new rate.
staircase = growing


def cosine(lr: float, steps: int, end: float = 0.0) -> Schedule:
    """Half a cosine from `lr` at step 0 to `end` at `steps`, constant after (arXiv 1608.03983)."""

    def rate(step: int) -> float:
        return end + (lr - end) * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))

    return rate


def polynomial(lr: float, steps: int, end: float = 0.0, power: float = 1.0) -> Schedule:
    """`(1 - step/steps) ** power` from `lr` at step 0 to `end` at `steps`, constant after."""

    def rate(step: int) -> float:
        return end + (lr - end) * (1.0 - min(step / steps, 1.0)) ** power

    return rate


def linear_warmup(schedule: Schedule, warmup: int) -> Schedule:
    """`schedule`, times (step + 1) / `warmup` while that is below 1 (arXiv 1706.02677)."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / warmup if warmup else 1.0)


def delayed(schedule: Schedule, steps: int) -> Schedule:
    """`schedule` shifted to begin at `steps`; its first value before that."""
    return lambda step: schedule(max(step - steps, 0))
