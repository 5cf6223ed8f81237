"""Learning rates as pure functions of the step; no TensorFlow.

A schedule is a callable `step -> rate`: `step` counts optimizer steps already taken, from 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from data.common.errors import UserError

Schedule = Callable[[int], float]

POLICIES = ("pretraining", "staircase", "cosine", "polynomial", "constant")
# The released pretraining code lists four boundaries and no more (spec section 4).
MAX_BOUNDARIES = 4


@dataclass(frozen=True)
class ScheduleOptions:
    """The flags of a schedule; rates are those of `reference_batch` images per step.

    `warmup` counts steps. In the pretraining policy the warm-up is the recipe's exponential one,
    of `lr_warmup`, `lr_warmup_decay_step` and `lr_warmup_decay_factor`; elsewhere it is linear.
    `reference_batch` 0 leaves the rate alone; otherwise the rate is multiplied by
    global batch / reference batch (linear scaling, arXiv 1706.02677).
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
            raise UserError(f"lr_policy is one of {', '.join(POLICIES)}: {self.lr_policy!r}")
        if self.lr < 0 or self.warmup < 0:
            raise UserError(f"lr {self.lr} and warmup {self.warmup} must not be below 0")
        if self.lr_policy == "staircase" and self.lr_decay_step <= 0:
            raise UserError("--lr_policy=staircase needs --lr_decay_step above 0")
        exponential = self.lr_policy == "pretraining" and self.warmup
        if exponential and self.lr_warmup_decay_step <= 0:
            raise UserError("warm-up of pretraining needs lr_warmup_decay_step above 0")


def make_schedule(options: ScheduleOptions, max_iter: int, global_batch: int = 0) -> Schedule:
    """The schedule that the options describe.

    Args:
      max_iter: total optimizer steps; cosine and polynomial end there.
      global_batch: images an optimizer step over all workers, for linear scaling.
    Raises: UserError when cosine or polynomial have no steps left after the warm-up.
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
    """Factor of the rate for `global_batch` images per step; 1 when `reference_batch` is 0."""
    return global_batch / reference_batch if reference_batch else 1.0


def constant(lr: float) -> Schedule:
    """`lr` at every step."""
    return lambda step: lr


def multistep(lr: float, decay_step: int, factor: float) -> Schedule:
    """`lr`, times `factor` after each of the four boundaries k * `decay_step` (spec section 4).

    A boundary step still has the old rate, as the released `piecewise_constant`. No decay when
    `decay_step` is 0.
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
    """From `lr` at 0 to `end` at `steps` and after, along half a cosine (arXiv 1608.03983)."""

    def rate(step: int) -> float:
        return end + (lr - end) * 0.5 * (1.0 + math.cos(math.pi * min(step / steps, 1.0)))

    return rate


def polynomial(lr: float, steps: int, end: float = 0.0, power: float = 1.0) -> Schedule:
    """From `lr` at 0 to `end` at `steps` and after, as `(1 - step/steps) ** power`."""

    def rate(step: int) -> float:
        return end + (lr - end) * (1.0 - min(step / steps, 1.0)) ** power

    return rate


def linear_warmup(schedule: Schedule, warmup: int) -> Schedule:
    """`schedule`, times (step + 1) / `warmup` in the first `warmup` steps (arXiv 1706.02677)."""
    return lambda step: schedule(step) * min(1.0, (step + 1) / warmup if warmup else 1.0)


def delayed(schedule: Schedule, steps: int) -> Schedule:
    """`schedule` beginning at `steps`; before that, its first value."""
    return lambda step: schedule(max(step - steps, 0))
