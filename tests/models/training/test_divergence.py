"""Runs that diverge: stopped in time, with a checkpoint that a lower learning rate resumes."""

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_training import BATCH, SIDE, Held, batch, train, trainer_of

from data.common.errors import UserError
from models.checkpoints import checkpoint
from models.checkpoints.checkpoint import CheckpointError
from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import SingleProcess
from models.training.divergence import DivergenceCheck


def latest(folder: Path) -> dict[str, np.ndarray]:
    found = checkpoint.read(CheckpointFolder(folder).latest())
    return {name: found.tensor(name) for name in found.shapes}


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_checkpoint(tmp_path) -> None:
    def poisoned(position: int) -> Iterator[Held]:
        for number in range(3):
            yield batch(number)
        yield batch(3)._replace(images=tf.fill([BATCH, SIDE, SIDE, 3], math.nan))

    with pytest.raises(UserError, match=r"nan in step 4; .* resumes .*model\.ckpt-2, which"):
        train(trainer_of(), tmp_path, 10, batches=poisoned)
    assert CheckpointFolder(tmp_path).latest().endswith("model.ckpt-2")


@pytest.mark.slow
@pytest.mark.parametrize("rate", [10.0, 100.0, 1e6, 1e20])
def test_what_a_diverged_run_saved_is_resumed_with_a_lower_rate(tmp_path, rate) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(trainer_of(average=0.9), tmp_path, 60, rate=rate, snapshot=1)
    if rate < 1e20:
        for name, value in latest(tmp_path).items():
            assert np.isfinite(value).all(), name
    else:  # The first update overflows float32.
        assert CheckpointFolder(tmp_path).latest() is None
    assert train(trainer_of(average=0.9), tmp_path, 20, rate=0.01, snapshot=10) == 0
    assert latest(tmp_path)["global_step"] == 20


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["/kernel", "/moving_variance", "/Momentum", "/Exponential"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e22])
def test_nothing_is_saved_that_is_not_finite(tmp_path, suffix, value) -> None:
    trainer = trainer_of(average=0.9)
    variables = trainer.variables_by_name()
    kept = next(v for name, v in variables.items() if suffix in name)
    kept.assign(tf.fill(kept.shape, value))
    check = DivergenceCheck(trainer, SingleProcess(), CheckpointFolder(tmp_path))
    if value < math.inf and suffix != "/kernel":
        check.state()
    else:  # The squares of such large weights overflow in the decay term.
        with pytest.raises(UserError, match=r"diverged.*nothing was saved"):
            check.state()


def test_a_checkpoint_that_is_not_finite_is_not_resumed(tmp_path) -> None:
    trainer = trainer_of()
    trainer.optimizer.trainable["logits/dense/bias"].assign([math.nan] * 5)
    CheckpointFolder(tmp_path).save(1, trainer.variables_by_name(), {})
    with pytest.raises(CheckpointError, match=r"ckpt-1 holds values that are not finite.*remove"):
        train(trainer_of(), tmp_path, 2)


@pytest.mark.slow
def test_the_step_that_is_tried_ahead_leaves_nothing(tmp_path) -> None:
    trainer = trainer_of(average=0.9)
    trainer.step([batch(0)], 0.05)
    everything = {**trainer.variables_by_name(), **trainer.progress()}
    before = {name: variable.numpy() for name, variable in everything.items()}
    assert trainer.next_step_is_finite()
    for name, variable in everything.items():
        np.testing.assert_array_equal(variable.numpy(), before[name], err_msg=name)
