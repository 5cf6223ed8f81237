"""SGD with momentum, in place, with the weight decay of the released recipes.

Variables are identified by checkpoint name, never by `tf.Variable.name`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import tensorflow as tf

from data.common.errors import UserError
from models.architecture import is_batch_norm
from models.checkpoints.files import AVERAGE, MOMENTUM

HEADS = ("logits/", "detection/", "segmentation/")
"""Name prefixes of the variables on top of the backbone."""


@dataclass(frozen=True)
class OptimizerOptions:
    """The flags of the optimizer.

    `bn_decay_fraction` is 0 in pretraining and 0.1 in finetuning (spec sections 3 and 4).
    `gradient_clip` is the largest global norm; 0: no limit. `head_lr_mult` multiplies the learning
    rate of the logits layer or another head, `backbone_lr_mult` that of the backbone.

    Raises:
      UserError: an unknown optimizer, or a value below 0.
    """

    optimizer: str = "mom"
    opt_momentum: float = 0.9
    weight_decay: float = 1e-4
    bn_decay_fraction: float = 0.0
    gradient_clip: float = 0.0
    head_lr_mult: float = 1.0
    backbone_lr_mult: float = 1.0

    def __post_init__(self) -> None:
        if self.optimizer not in ("mom", "sgd"):
            raise UserError(f"optimizer is 'mom' or 'sgd', not {self.optimizer!r}")
        if min(self.weight_decay, self.bn_decay_fraction, self.gradient_clip) < 0:
            raise UserError("weight_decay, bn_decay_fraction and gradient_clip must not be below 0")


def decay_rates(
    names: Iterable[str], weight_decay: float, bn_fraction: float = 0.0
) -> dict[str, float]:
    """Name -> factor of `v^2 / 2` in the loss, for each trainable variable with decay.

    It is `weight_decay`, also for the dense bias, and `bn_fraction` of that for gamma and beta.
    """
    decays = {name: weight_decay * (bn_fraction if is_batch_norm(name) else 1.0) for name in names}
    return {name: decay for name, decay in decays.items() if decay}


def l2_loss(variables: Mapping[str, tf.Variable], decays: Mapping[str, float]) -> tf.Tensor:
    """Scalar: the decay term of the loss, `sum of decay * sum(v^2) / 2`, for the log."""
    terms = [decay * tf.nn.l2_loss(variables[name]) for name, decay in decays.items()]
    return tf.add_n(terms) if terms else tf.constant(0.0)


class Optimizer:
    """SGD, with or without momentum, over named variables.

    `momentum = opt_momentum * momentum + g; v -= learning_rate * momentum`, where g is the gradient
    of loss plus decay term (as released), clipped if `gradient_clip` is set.

    Attributes:
      slots: checkpoint name `NAME/Momentum` -> momentum of the variable NAME.

    Raises:
      UserError: there is no variable to train.
    """

    def __init__(self, trainable: Mapping[str, tf.Variable], options: OptimizerOptions) -> None:
        if not trainable:
            raise UserError("no variable to train: --trainable matches none")
        self.trainable, self.options = dict(trainable), options
        self.decay = decay_rates(trainable, options.weight_decay, options.bn_decay_fraction)
        self.slots: dict[str, tf.Variable] = {}
        if options.optimizer == "mom":
            self.slots = {
                name + MOMENTUM: tf.Variable(tf.zeros_like(v), trainable=False)
                for name, v in trainable.items()
            }

    def l2_loss(self) -> tf.Tensor:
        """Scalar: the decay term of the current weights."""
        return l2_loss(self.trainable, self.decay)

    def apply(self, gradients: Mapping[str, tf.Tensor], learning_rate: tf.Tensor | float) -> None:
        """One step, in place.

        Args:
          gradients: name -> gradient of the loss without decay, averaged over workers.
          learning_rate: of this step.

        Raises:
          UserError: a trainable variable has no gradient.
        """
        lacking = sorted(n for n in self.trainable if gradients.get(n) is None)
        if lacking:
            raise UserError(f"no gradient for {len(lacking)} variables: {lacking[:5]}")
        # One constant per value: hundreds of constants would make tracing slower.
        decays = {decay: tf.constant(decay) for decay in set(self.decay.values())}
        totals = {
            name: gradients[name] + decays[self.decay[name]] * variable
            if name in self.decay
            else gradients[name]
            for name, variable in self.trainable.items()
        }
        if self.options.gradient_clip:
            clipped, _ = tf.clip_by_global_norm(list(totals.values()), self.options.gradient_clip)
            totals = dict(zip(totals, clipped, strict=True))
        learning_rate = tf.cast(learning_rate, tf.float32)
        head, backbone = (
            learning_rate * self.options.head_lr_mult,
            learning_rate * self.options.backbone_lr_mult,
        )
        momentum = tf.constant(self.options.opt_momentum)
        for name, gradient in totals.items():
            own = head if name.startswith(HEADS) else backbone
            self._update(name, gradient, own, momentum)

    def _update(
        self, name: str, gradient: tf.Tensor, learning_rate: tf.Tensor, momentum: tf.Tensor
    ) -> None:
        variable = self.trainable[name]
        if self.options.optimizer == "sgd":
            tf.raw_ops.ResourceApplyGradientDescent(
                var=variable.handle, alpha=learning_rate, delta=gradient
            )
            return
        tf.raw_ops.ResourceApplyMomentum(
            var=variable.handle,
            accum=self.slots[name + MOMENTUM].handle,
            lr=learning_rate,
            grad=gradient,
            momentum=momentum,
        )


class WeightAverage:
    """Exponential moving average of weights and statistics, kept in the checkpoint.

    The decay warms up as min(decay, (1 + step) / (10 + step)), as in TF1's `tf.train`, so that
    the first weights do not dominate a short run. `slots` maps checkpoint names to averages.
    """

    def __init__(self, variables: Mapping[str, tf.Variable], decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise UserError(f"ema_decay must be in (0, 1), not {decay}")
        self.variables, self.decay = dict(variables), decay
        self.slots = {
            name + AVERAGE: tf.Variable(v, trainable=False) for name, v in variables.items()
        }

    def update(self, step: tf.Tensor | int) -> None:
        """Updates every average with its variable, after optimizer step `step` (from 0)."""
        step = tf.cast(step, tf.float32)
        rest = 1.0 - tf.minimum(self.decay, (1.0 + step) / (10.0 + step))
        for name, variable in self.variables.items():
            average = self.slots[name + AVERAGE]
            average.assign_sub(rest * (average - variable))

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside the `with` block the variables have the values of their averages."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def _exchange(self) -> None:
        for name, variable in self.variables.items():
            average = self.slots[name + AVERAGE]
            kept = variable.numpy()
            variable.assign(average)
            average.assign(kept)
