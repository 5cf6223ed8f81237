"""Divides work: "shard i of n", and the images of a training step among workers.

A step's images are `total` micro-batches of equal size; a worker does `count` consecutive ones,
starting with number `first`. A step is therefore the same for any number of workers, and a job
that continues with fewer or more of them keeps its global batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from data.common.errors import UserError

Items = TypeVar("Items", bound=Sequence)


class Shard(NamedTuple):
    """Shard `index` (from 0) of `count` shards of a list's rows, an output's files or a batch."""

    index: int = 0
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """The shard that `i/n` names.

        Raises:
            UserError: `text` is not of that form.
        """
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UserError(f"part {text!r}: expected i/n with i in 0..n-1, such as 0/4")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def suffix(self) -> str:
        """The suffix of its file names, such as `-00001-of-00008`; "" for a single shard."""
        return f"-{self.index:05d}-of-{self.count:05d}" if self.count > 1 else ""

    def span(self, items: int) -> range:
        """Its consecutive part of `items` items; the first shards may have one more than others."""
        size, more = divmod(items, self.count)
        start = self.index * size + min(self.index, more)
        return range(start, start + size + (self.index < more))

    def every(self, items: Items) -> Items:
        """Every `count`-th of the items, from the `index`-th on."""
        return items[self.index :: self.count]


WHOLE = Shard()
"""The only shard."""


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How many images make a step; the fields are the flags of the same name."""

    batch_size: int = 512
    accumulate_steps: int = 1
    global_batch: int = 0


class StepShard(NamedTuple):
    """A worker's part of every step, in micro-batches of `micro_batch` images."""

    micro_batch: int
    first: int
    count: int
    total: int

    @property
    def global_batch(self) -> int:
        """Images of a step, over all workers."""
        return self.micro_batch * self.total

    def sample_indices(self, start: int, step: int) -> range:
        """The worker's samples of a step; `start` samples were used, by all, before step 0."""
        first = start + step * self.global_batch + self.first * self.micro_batch
        return range(first, first + self.count * self.micro_batch)


def cut_step(global_batch: int, largest: int, shard: Shard) -> StepShard:
    """A worker's part of each step, in micro-batches of at most `largest` images.

    The micro-batch is the largest divisor of `global_batch` that gives every worker one. If the
    micro-batches do not divide evenly among workers, the first ones do one more than the others.

    Raises:
      UserError: there are more workers than images.
    """
    if shard.count > global_batch:
        raise UserError(f"{shard.count} workers cannot share --global_batch={global_batch} images")
    most = min(largest, global_batch // shard.count)
    micro_batch = next(m for m in range(most, 0, -1) if global_batch % m == 0)
    total = global_batch // micro_batch
    ours = shard.span(total)
    return StepShard(micro_batch, ours.start, len(ours), total)


def step_shard_of(
    options: StepOptions, shard: Shard, elastic: bool = False, in_step: bool = False
) -> StepShard:
    """A worker's part of each step, from the flags.

    Without `global_batch`, a step is `accumulate_steps` micro-batches of `batch_size` on each
    worker; with it, as many micro-batches as needed.

    Args:
      elastic: the number of workers may change.
      in_step: all workers do each micro-batch together, as synchronized batch norm needs.

    Raises:
      UserError: flags that contradict each other.
    """
    if elastic and not options.global_batch:
        raise UserError("an elastic job needs --global_batch, the fixed number of images per step")
    if elastic and in_step:
        raise UserError("--sync_batch_norm needs a fixed number of workers: not an elastic job")
    if options.global_batch and options.accumulate_steps > 1:
        raise UserError("--global_batch sets the accumulation: leave out --accumulate_steps")
    made = options.batch_size * options.accumulate_steps * shard.count
    step_shard = cut_step(options.global_batch or made, options.batch_size, shard)
    if in_step and step_shard.total % shard.count:
        raise UserError(
            f"--sync_batch_norm: {shard.count} workers cannot do {step_shard.total} micro-batches"
            " in step; change --global_batch or --batch_size"
        )
    return step_shard


def arithmetic(step_shard: StepShard, size: int, records: int, steps: int) -> str:
    """A line for the log: how workers, micro-batches and records make up steps and epochs."""
    return (
        f"{size} worker(s) do {step_shard.total} micro-batch(es) of {step_shard.micro_batch} images"
        f" = {step_shard.global_batch} images per step; {records} records, "
        f"{records / step_shard.global_batch:.1f} steps per epoch, "
        f"{steps} steps = {steps * step_shard.global_batch / records:.2f} epochs"
    )
