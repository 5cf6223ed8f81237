"""The training step and the loop around it, on a tiny network and batches held in memory."""

import contextlib
import io
import itertools
import json
import logging
import math
import os
import signal
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tiny_training import BATCH, CLASSES, SIDE, Held, batch, train, trainer_of, weights

from data.common.errors import UserError
from models.checkpoints.folder import CheckpointFolder
from models.distributed.base import SingleProcess
from models.metrics.evaluators import MultiLabelEvaluator
from models.training import loop, resume
from models.training.early_stopping import EarlyStopping
from models.training.metric_writer import Meter, MetricWriter, clock
from models.training.objectives import Mixup, Objective
from models.training.trainer import LOSS_SCALE_GROWTH_STEPS
from models.training.validation import LabelMeasure, Validation


@pytest.mark.slow
def test_a_resumed_run_ends_where_the_straight_one_does(tmp_path) -> None:
    straight, first, second = (trainer_of(average=0.9) for _ in range(3))
    train(straight, tmp_path / "straight", 5)
    train(first, tmp_path / "parted", 2)
    train(second, tmp_path / "parted", 5)
    assert int(second.global_step) == 5 and int(second.position) == 5 * BATCH
    for name, value in weights(straight).items():
        np.testing.assert_array_equal(value, weights(second)[name], err_msg=name)
    lines = (tmp_path / "parted/log/training.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_sigterm_ends_the_run_after_a_checkpoint(tmp_path, caplog) -> None:
    def interrupting(position: int) -> Iterator[Held]:
        for number in range(10):
            if number == 3:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch(number)

    with caplog.at_level(logging.INFO):
        status = train(trainer_of(), tmp_path, 10, batches=interrupting, evaluate=pytest.fail)
    assert status == 128 + signal.SIGTERM
    assert CheckpointFolder(tmp_path).latest().endswith("model.ckpt-4")
    assert (
        f"SIGTERM: stopped after step 4 and saved {tmp_path}/model.ckpt-4; the same" in caplog.text
    )
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Killed(BaseException):
    """Ends a run as kill -9 does: nothing of it is done afterwards."""


def rows(folder: Path) -> list[tuple[int, str, float]]:
    lines = map(json.loads, (folder / "log/training.jsonl").read_text().splitlines())
    return [(row["step"], row["kind"], row.get("loss", row.get("mAP"))) for row in lines]


def shown_images(folder: Path) -> int:
    files = (folder / "log").glob("events.out.tfevents.*")
    records = (r for f in files for r in tf.data.TFRecordDataset([str(f)]).as_numpy_iterator())
    return sum(b"train/images" in record and b"PNG" in record for record in records)


@pytest.mark.slow
@pytest.mark.parametrize("call", range(1, 9))
def test_the_log_of_a_killed_and_resumed_run_is_that_of_an_undisturbed_one(
    tmp_path, monkeypatch, call
) -> None:
    def run(folder: Path) -> None:
        best = EarlyStopping("mAP", 0, CheckpointFolder(folder / "best", max_to_keep=1))
        options = {"eval_interval": 2, "evaluate": lambda: {"mAP": 0.5}, "best": best}
        train(trainer_of(best=best), folder, 5, **options)

    run(tmp_path / "undisturbed")
    save, calls = loop.save, itertools.count(1)

    def save_or_die(*arguments: object, **options: object) -> None:
        number = next(calls)
        if number == call and call % 2:  # before it is saved, or after
            raise Killed
        save(*arguments, **options)
        if number == call:
            raise Killed

    monkeypatch.setattr(loop, "save", save_or_die)
    with contextlib.suppress(Killed):
        run(tmp_path / "killed")
    monkeypatch.undo()
    run(tmp_path / "killed")
    assert rows(tmp_path / "killed") == rows(tmp_path / "undisturbed")
    if call > 1:  # else it began anew
        assert shown_images(tmp_path / "killed") == 1


@pytest.mark.slow
def test_an_evaluation_with_nothing_to_measure_does_not_end_the_training(tmp_path, caplog) -> None:
    best = EarlyStopping("map_macro", 1, CheckpointFolder(tmp_path / "best"))
    trainer = trainer_of(best=best)
    one = batch(0)
    index, value = -np.ones_like(one.label_index), np.zeros_like(one.label_value)
    held = {"crops": one.images.numpy()[:, None], "label_index": index, "label_value": value}
    measure = LabelMeasure(
        trainer.network,
        trainer.objective.probabilities,
        lambda: [types.SimpleNamespace(**held)],
        lambda: MultiLabelEvaluator(CLASSES),
    )
    evaluate = Validation(measure)
    assert train(trainer, tmp_path, 3, eval_interval=1, evaluate=evaluate, best=best) == 0
    assert int(trainer.global_step) == 3 and not best.should_stop
    assert CheckpointFolder(tmp_path / "best").latest() is None
    assert "no result: no image has a positive label of a supported class" in caplog.text
    assert [row for row in rows(tmp_path) if row[1] == "val"] == [
        (n, "val", None) for n in (1, 2, 3)
    ]


@pytest.mark.slow
def test_the_best_checkpoint_is_kept_and_patience_ends_the_run(tmp_path) -> None:
    values = iter([0.2, 0.5, 0.4, 0.3, 0.9])
    best = EarlyStopping("mAP", 2, CheckpointFolder(tmp_path / "best", max_to_keep=1))
    trainer = trainer_of(best=best)
    train(
        trainer,
        tmp_path,
        10,
        eval_interval=1,
        evaluate=lambda: {"mAP": next(values)},
        best=best,
    )
    assert int(trainer.global_step) == 4
    assert [Path(p).name for p in CheckpointFolder(tmp_path / "best").all()] == ["model.ckpt-2"]
    resumed = EarlyStopping("mAP", 2, CheckpointFolder(tmp_path / "best"))
    resume.restore_or_start(trainer_of(best=resumed), CheckpointFolder(tmp_path), SingleProcess())
    assert resumed.should_stop
    with pytest.raises(UserError, match="mAQ"):
        EarlyStopping("mAQ", 0, CheckpointFolder(tmp_path)).observe({"mAP": 1.0})


@pytest.mark.parametrize("metric", ["loss", "ema_loss"])
def test_less_is_better_of_a_loss(tmp_path, metric: str) -> None:
    best = EarlyStopping(metric, 0, CheckpointFolder(tmp_path))
    assert [best.observe({metric: x}) for x in (2.0, 3.0, 1.0)] == [True, False, True]


@pytest.mark.slow
def test_a_resumed_run_knows_its_best_to_the_last_bit(tmp_path) -> None:
    first, second = (EarlyStopping("mAP", 0, CheckpointFolder(tmp_path / "best")) for _ in range(2))
    train(trainer_of(best=first), tmp_path, 1, evaluate=lambda: {"mAP": 0.1}, best=first)
    resume.restore_or_start(trainer_of(best=second), CheckpointFolder(tmp_path), SingleProcess())
    assert not second.observe({"mAP": 0.1})


@pytest.mark.slow
def test_an_evaluation_that_fails_loses_no_step_and_is_made_up_for(tmp_path) -> None:
    wrong, right = (
        EarlyStopping(name, 0, CheckpointFolder(tmp_path / "best")) for name in ("mAQ", "mAP")
    )
    with pytest.raises(UserError, match="mAQ"):
        train(trainer_of(best=wrong), tmp_path, 3, evaluate=lambda: {"mAP": 0.1}, best=wrong)
    assert CheckpointFolder(tmp_path).latest().endswith("model.ckpt-3")
    evaluations = []

    def evaluate() -> dict[str, float]:
        evaluations.append(1)
        return {"mAP": 0.1}

    for _ in range(2):
        train(trainer_of(best=right), tmp_path, 3, evaluate=evaluate, best=right)
    assert len(evaluations) == 1
    assert CheckpointFolder(tmp_path / "best").latest().endswith("model.ckpt-3")


class Second(SingleProcess):
    """A worker whose first colleague has found a network of depth 14 with 7 classes."""

    rank, size = 1, 2

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + np.array([14.0, 8.0, 7.0])


@pytest.mark.slow
def test_all_workers_take_the_sizes_that_the_first_one_finds(tmp_path) -> None:
    train(trainer_of(), tmp_path / "run", 1)
    elsewhere, prefix = tmp_path / "elsewhere", str(tmp_path / "run")
    body = {"resnet_size": 14, "width": 8}
    both = {**body, "class_num": CLASSES}
    assert resume.sizes(prefix, None, ("logits/*",), SingleProcess()) == both
    assert resume.sizes(elsewhere, prefix, (), SingleProcess()) == both
    assert resume.sizes(elsewhere, prefix, ("logits/*",), SingleProcess()) == body
    assert resume.sizes(elsewhere, None, (), SingleProcess()) == {}
    assert resume.sizes(elsewhere, prefix, (), Second()) == {**body, "class_num": 7}


class OneOfFive(SingleProcess):
    """A worker next to four others that have received no signal."""

    size = 5

    def sum(self, values: np.ndarray) -> np.ndarray:
        return values + np.eye(len(values))[0] * 4.0


@pytest.mark.parametrize("number", [0, signal.SIGTERM, signal.SIGINT])
def test_all_workers_stop_for_a_signal_that_one_of_them_received(number: int) -> None:
    loss, stop = loop.all_reduce_loss_and_stop(1.0, number, OneOfFive())
    assert (loss, stop) == (1.0, number)


@pytest.mark.slow
def test_float16_halves_its_loss_scale_on_overflow_and_leaves_the_weights() -> None:
    trainer = trainer_of(Objective("softmax", label_smoothing=0.0), tf.float16)
    before, scale = weights(trainer), float(trainer.loss_scale)
    huge = batch(0)._replace(images=tf.fill([BATCH, SIDE, SIDE, 3], math.inf))
    trainer.step([huge], 0.1)
    assert float(trainer.loss_scale) == scale / 2
    after = weights(trainer)
    for name in trainer.network.trainable_by_name():
        np.testing.assert_array_equal(before[name], after[name], err_msg=name)


@pytest.mark.slow
def test_float16_steps_like_float32_and_raises_its_loss_scale_when_due() -> None:
    softmax = Objective("softmax", label_smoothing=0.0)
    half, single = trainer_of(softmax, tf.float16), trainer_of(softmax)
    half.steps_since_overflow.assign(LOSS_SCALE_GROWTH_STEPS - 1)
    half.loss_scale.assign(128.0)
    for trainer in (half, single):
        trainer.step([batch(0)], 0.1)
    assert float(half.loss_scale) == 256.0
    name = "logits/dense/kernel"
    np.testing.assert_allclose(weights(half)[name], weights(single)[name], atol=2e-3)
    assert not np.array_equal(weights(half)[name], weights(trainer_of())[name])


def test_mixup_blends_images_and_labels_alike() -> None:
    one = batch(0)
    mixed, index, value, *_ = Mixup(0.4, seed=1)(one, tf.constant(7, tf.int64))
    dense = np.zeros((BATCH, CLASSES))
    for row, (classes, values) in enumerate(zip(index.numpy(), value.numpy(), strict=True)):
        for c, v in zip(classes, values, strict=True):
            if c >= 0:
                dense[row, c] += v
    np.testing.assert_allclose(dense.sum(axis=1), 1.0, rtol=1e-6)
    own = one.label_index.numpy()[:, 0]
    fraction = min(s for s in (dense[r, own[r]] for r in range(BATCH)) if s < 1)
    blend = fraction * one.images + (1 - fraction) * one.images[::-1]
    np.testing.assert_allclose(mixed.numpy(), blend.numpy(), atol=1e-5)


@pytest.mark.slow
def test_the_average_takes_the_place_of_the_weights_and_leaves_it_again() -> None:
    trainer = trainer_of(average=0.5)
    trainer.step([batch(0)], 0.1)
    before = weights(trainer)
    name = "logits/dense/kernel"
    with trainer.average.in_place():
        inside = trainer.network.variables_by_name()[name].numpy()
    np.testing.assert_array_equal(inside, before[f"{name}/ExponentialMovingAverage"])
    for key, value in weights(trainer).items():
        np.testing.assert_array_equal(value, before[key], err_msg=key)


def test_the_record_of_a_killed_run_is_cut_to_its_checkpoint(tmp_path) -> None:
    record = tmp_path / "training.jsonl"
    record.write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n{"st')
    writer = MetricWriter(str(tmp_path), start_step=4)
    writer.scalars(5, "train", {"loss": 1.0})
    writer.close()
    assert [json.loads(x)["step"] for x in record.read_text().splitlines()] == [2, 4, 5]


def test_the_record_of_another_run_is_kept(tmp_path) -> None:
    for loss in (1.0, 2.0, 3.0):
        writer = MetricWriter(str(tmp_path), start_step=0)
        writer.scalars(1, "train", {"loss": loss})
        writer.close()
    kept = ["training-1.jsonl", "training-2.jsonl", "training.jsonl"]
    assert [json.loads((tmp_path / name).read_text())["loss"] for name in kept] == [1.0, 2.0, 3.0]


class FileOnAFullDisk(io.FileIO):
    """Takes nothing while `is_full` is set."""

    is_full = True

    def write(self, data: bytes) -> int:
        if self.is_full:
            with open("/dev/full", "ab", buffering=0) as full:
                return full.write(data)
        return super().write(data)


def test_a_full_disk_keeps_the_log_waiting_and_not_the_training(
    tmp_path, caplog, monkeypatch
) -> None:
    opened = "models.training.metric_writer.open"
    monkeypatch.setattr(opened, lambda path, *_, **__: FileOnAFullDisk(path, "ab"), raising=False)
    writer = MetricWriter(str(tmp_path), start_step=0)
    for step in (1, 2):
        writer.scalars(step, "train", {"loss": 1.0})
    assert caplog.text.count("the log cannot be written, training continues") == 1
    monkeypatch.setattr(FileOnAFullDisk, "is_full", False)
    writer.scalars(3, "train", {"loss": math.nan})
    writer.close()
    record = tmp_path / "training.jsonl"
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 1.0), (2, 1.0), (3, None)]


def test_the_meter_counts_images_and_waiting(monkeypatch) -> None:
    times = iter([0.0, 2.0, 10.0, 14.0])  # made; done; restarted after an evaluation; done
    monkeypatch.setattr("models.training.metric_writer.time.perf_counter", lambda: next(times))
    meter = Meter(window=10)
    meter.waited(1.0)
    meter.step_done(30)
    meter.restart()
    meter.waited(0.5)
    meter.step_done(30)
    assert meter.speed() == {"images_per_second": 10.0, "step_seconds": 3.0, "waiting": 0.25}


def test_the_bar_shows_a_smoothed_loss(monkeypatch) -> None:
    notes = []
    bar = types.SimpleNamespace(update=lambda steps, note: notes.append(note), close=lambda: None)
    meter = Meter(10, bar)
    for loss in (2.0, 1.0):
        meter.step_done(4, loss)
    # (0.98 * 0.02 * 2 + 0.02 * 1) / (1 - 0.98^2) = 0.0592 / 0.0396
    assert [note.split(",")[0] for note in notes] == ["loss 2", "loss 1.495"]


def test_epochs_are_steps_rounded_up() -> None:
    options = loop.LoopOptions(1000, epochs=2.5)
    assert options.in_steps(records=30, global_batch=8).max_iter == 10  # 75 images
    assert loop.LoopOptions(1000).in_steps(30, 8).max_iter == 1000


def test_clock() -> None:
    assert clock(3725.9) == "1:02:05"
