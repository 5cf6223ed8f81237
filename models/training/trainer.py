"""One optimizer step: micro-batches in, updated variables out, on one or many workers."""

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tensorflow as tf

from models.distributed.base import Distributed

# Part of the checkpoint names of batch norm's moving mean and variance.
MOVING = "/moving_"
INITIAL_LOSS_SCALE = 2.0**15
# The loss scale doubles after this many steps without an overflow (as in NVIDIA's recipes).
LOSS_SCALE_GROWTH_STEPS = 2000
LossParts = dict[str, tf.Tensor]


class Trainer(tf.Module):
    """Combines network, objective and optimizer into a step.

    One micro-batch goes `step` -> `_gradients`: `objective.loss`, which runs the network ->
    `_update`: all-reduce -> `optimizer.apply`. A step is the same for one large batch, several
    micro-batches, or several workers: the objective gets the labels of the whole step before the
    first gradient, and gradients are means over all images.

    Args:
      network: a backbone, such as `models.resnet.ResNet`, or a network on top of one.
      objective: `models.training.objectives.Objective`, or another class with its methods, except
        those that take logits.
      optimizer: `models.training.optimizers.Optimizer`.
      average: optional `WeightAverage`, updated after every step.
      mixup: optional `Mixup` of each micro-batch.
      extra_progress: further scalars that a resume restores, by name.

    Attributes:
      global_step: optimizer steps done, int64; stored in checkpoints under this name.
      position: training records consumed by all workers together, int64.
      evaluated_step: the last step whose weights were evaluated, int64.
      loss_parts: name -> float32 [], of this worker's last micro-batch.
    """

    def __init__(
        self,
        network: Any,
        objective: Any,
        optimizer: Any,
        workers: Distributed,
        average: Any | None = None,
        mixup: Any | None = None,
        extra_progress: Mapping[str, tf.Variable] | None = None,
    ) -> None:
        super().__init__("trainer")
        self.network, self.objective, self.optimizer = network, objective, optimizer
        self._workers = workers
        self.average, self._mixup = average, mixup
        self._extra_progress = dict(extra_progress or {})
        self._trainable = list(optimizer.trainable.values())
        self.global_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.position = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._scaled = network.compute_dtype == tf.float16
        self.loss_scale = tf.Variable(INITIAL_LOSS_SCALE if self._scaled else 1.0, trainable=False)
        self.steps_since_overflow = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.evaluated_step = tf.Variable(0, dtype=tf.int64, trainable=False)
        self._sums: list[tf.Variable] = []  # of gradients, when a step has several micro-batches
        self._latest: tuple[Any, int] | None = None  # a micro-batch of the last step, and its total
        self.loss_parts: dict[str, tf.Tensor] = {}

    def variables_by_name(self) -> dict[str, tf.Variable]:
        """Everything that a checkpoint stores under the released names."""
        return {
            **self.network.variables_by_name(),
            **self.optimizer.slots,
            **(self.average.slots if self.average else {}),
            **self.objective.state,
            "global_step": self.global_step,
        }

    def progress(self) -> dict[str, tf.Variable]:
        """The scalars that a resume also restores, from the JSON next to a checkpoint."""
        return {
            "position": self.position,
            "loss_scale": self.loss_scale,
            "steps_since_overflow": self.steps_since_overflow,
            "evaluated_step": self.evaluated_step,
            **self._extra_progress,
        }

    def set_progress(self, values: Mapping[str, float]) -> None:
        """Restores the values of `progress`; variables that `values` lacks are left alone."""
        for name, variable in self.progress().items():
            if name in values:
                variable.assign(values[name])

    def step(
        self, batches: Iterable[Any], learning_rate: float, total: int | None = None
    ) -> tf.Tensor:
        """Runs one step, in which this worker computes the micro-batches `batches`.

        Args:
          batches: A micro-batches, read one at a time, such as `data.input.pipeline.Batch`: named
            tuples of tensors with `images` [B, H, W, 3] and the fields that the objective reads.
          learning_rate: of this step.
          total: micro-batches in the step over all workers, which may have different numbers of
            them; None: one per worker.

        Returns:
          float32 []: the mean of this over the workers is the mean loss of the step's images.

        Raises:
          UserError: the objective cannot use the labels (`Objective.check`).
        """
        batches, learning_rate = iter(batches), tf.constant(learning_rate, tf.float32)
        first, total = next(batches), total or self._workers.size
        self._latest = first, total
        self.objective.check(first)
        if total == self._workers.size:
            loss, self.loss_parts = self._step(first, learning_rate)
        else:
            scale = self._workers.size / total
            loss = self._accumulated_step(itertools.chain([first], batches), learning_rate, scale)
        self.position.assign_add(int(first.images.shape[0]) * total)
        self.global_step.assign_add(1)
        return loss

    def is_finite(self) -> bool:
        """Whether everything a checkpoint stores, and the decay term of the loss, is finite."""
        values = [v for v in self.variables_by_name().values() if v.dtype.is_floating]
        values.append(self.optimizer.l2_loss())
        return all(bool(tf.reduce_all(tf.math.is_finite(value))) for value in values)

    def next_step_is_finite(self) -> bool:
        """Whether everything stays finite after one more step at learning rate 0.

        Tries a micro-batch of the last step and restores all variables. True before the first step.
        """
        if self._latest is None:
            return True
        batch, total = self._latest
        variables = [*self.variables_by_name().values(), *self.progress().values()]
        kept = [variable.numpy() for variable in variables]
        finite = math.isfinite(float(self.step([batch], 0.0, total))) and self.is_finite()
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
        return finite

    def average_statistics(self) -> None:
        """Sets the moving statistics of all workers to their mean, before an evaluation or a save.

        In between, each worker updates its own (ours; training does not use them).
        """
        if self._workers.size > 1:
            local = [v for name, v in self.variables_by_name().items() if MOVING in name]
            for variable, mean in zip(local, self._average_over_workers(local), strict=True):
                variable.assign(mean)

    @tf.function(autograph=False)
    def _average_over_workers(self, variables: list[tf.Variable]) -> list[tf.Tensor]:
        # Horovod: the same moving statistics on all workers.
        return self._workers.average([variable.value() for variable in variables])

    def _accumulated_step(
        self, batches: Iterator[Any], learning_rate: tf.Tensor, scale: float
    ) -> tf.Tensor:
        if not self._sums:
            self._sums = [tf.Variable(tf.zeros_like(v), trainable=False) for v in self._trainable]
        scale, loss = tf.constant(scale, tf.float32), tf.constant(0.0)
        for number, batch in enumerate(batches):
            if number == 0:
                begun = self._begin(batch)
            own_loss, self.loss_parts = self._accumulate(batch, begun, scale)
            loss += own_loss
        self._finish(learning_rate)
        return loss

    @tf.function(reduce_retracing=True, autograph=False)
    def _step(self, batch: Any, learning_rate: tf.Tensor) -> tuple[tf.Tensor, LossParts]:
        begun = self.objective.begin_step(batch, self.global_step, self._workers)
        loss, parts, gradients = self._gradients(batch, begun)
        self._update(gradients, learning_rate)
        return loss, parts

    @tf.function(reduce_retracing=True, autograph=False)
    def _begin(self, batch: Any) -> tf.Tensor | None:
        for total in self._sums:  # Not at the end: an elastic job may abort a step.
            total.assign(tf.zeros_like(total))
        return self.objective.begin_step(batch, self.global_step, self._workers)

    @tf.function(reduce_retracing=True, autograph=False)
    def _accumulate(
        self, batch: Any, begun: tf.Tensor | None, scale: tf.Tensor
    ) -> tuple[tf.Tensor, LossParts]:
        """Adds a micro-batch's gradients; `scale` is workers / micro-batches over all workers."""
        loss, parts, gradients = self._gradients(batch, begun)
        for total, gradient in zip(self._sums, gradients, strict=True):
            total.assign_add(gradient * scale)
        return loss * scale, parts

    @tf.function(autograph=False)
    def _finish(self, learning_rate: tf.Tensor) -> None:
        self._update([total.value() for total in self._sums], learning_rate)

    def _gradients(
        self, batch: Any, begun: tf.Tensor | None
    ) -> tuple[tf.Tensor, LossParts, list[tf.Tensor]]:
        """The micro-batch's loss, its parts, and its gradients multiplied by the loss scale."""
        if self._mixup:
            batch = self._mixup(batch, self.global_step)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(self._trainable)
            loss, parts = self.objective.loss(self.network, batch, begun)
            scaled = loss * self.loss_scale if self._scaled else loss
        gradients = tape.gradient(scaled, self._trainable)
        if not self._scaled:
            # oneDNN's batch norm with ReLU turns NaN into 0, so the loss may be finite by mistake.
            first = tf.reduce_sum(gradients[0])
            loss = tf.where(tf.math.is_finite(first), loss, first)
        return loss, parts, gradients

    def _update(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        # Horovod: mean over all workers' images.
        gradients = self._workers.average_gradients(gradients)
        if not self._scaled:
            self._apply(gradients, learning_rate)
            return
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(g)) for g in gradients])
        tf.cond(finite, lambda: self._apply_unscaled(gradients, learning_rate), self._skip)

    def _apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        self.optimizer.apply(
            dict(zip(self.optimizer.trainable, gradients, strict=True)), learning_rate
        )
        if self.average:
            self.average.update(self.global_step)

    def _apply_unscaled(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> None:
        self._apply([gradient / self.loss_scale for gradient in gradients], learning_rate)
        steps = self.steps_since_overflow.assign_add(1)
        growth = tf.where(steps % LOSS_SCALE_GROWTH_STEPS == 0, 2.0, 1.0)
        self.loss_scale.assign(self.loss_scale * growth)

    def _skip(self) -> None:
        self.loss_scale.assign(tf.maximum(self.loss_scale / 2.0, 1.0))
        self.steps_since_overflow.assign(0)
