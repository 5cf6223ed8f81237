"""Every schedule before, at and after each of its boundaries."""

import math

import pytest

from data.common.errors import UserError
from models.training.schedules import ScheduleOptions, linear_scale, make_schedule

PRETRAINING = ScheduleOptions(
    lr=0.08,
    lr_decay_step=110_000,
    lr_decay_factor=0.1,
    warmup=35_200,
    lr_warmup=0.01,
    lr_warmup_decay_step=4_400,
    lr_warmup_decay_factor=1.297,
)
FINETUNING = ScheduleOptions(lr_policy="staircase", lr=0.1, lr_decay_step=150_000)
COSINE = ScheduleOptions(lr_policy="cosine", lr=1.0, lr_end=0.1, warmup=10)
POLYNOMIAL = ScheduleOptions(lr_policy="polynomial", lr=1.0, lr_power=2.0)
CONSTANT = ScheduleOptions(lr_policy="constant", lr=0.5, warmup=4)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.01),
        (4_399, 0.01),
        (4_400, 0.01297),
        (8_799, 0.01297),
        (8_800, 0.01 * 1.297**2),
        (35_199, 0.01 * 1.297**7),
        (35_200, 0.08),
        (109_999, 0.08),
        (110_000, 0.08),
        (110_001, 0.008),
        (220_000, 0.008),
        (220_001, 0.0008),
        (330_000, 0.0008),
        (330_001, 0.00008),
        (440_000, 0.00008),
        (440_001, 0.000008),
        (550_001, 0.000008),  # no fifth boundary
    ],
)
def test_pretraining_recipe(step, rate):
    assert make_schedule(PRETRAINING, 1_000_000)(step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1),
        (149_999, 0.1),
        (150_000, 0.01),
        (299_999, 0.01),
        (300_000, 0.001),
        (599_999, 0.0001),
        (750_000, 0.000001),
    ],
)
def test_finetuning_recipe(step, rate):
    assert make_schedule(FINETUNING, 600_000)(step) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "step", "rate"),
    [
        (COSINE, 0, 0.1),
        (COSINE, 8, 0.9),
        (COSINE, 9, 1.0),
        (COSINE, 10, 1.0),
        (COSINE, 35, 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi / 4))),
        (COSINE, 60, 0.55),
        (COSINE, 110, 0.1),
        (COSINE, 111, 0.1),
        (POLYNOMIAL, 0, 1.0),
        (POLYNOMIAL, 55, 0.25),
        (POLYNOMIAL, 110, 0.0),
        (POLYNOMIAL, 111, 0.0),
        (CONSTANT, 0, 0.125),
        (CONSTANT, 2, 0.375),
        (CONSTANT, 3, 0.5),
        (CONSTANT, 4, 0.5),
    ],
)
def test_policies_of_today(options, step, rate):
    assert make_schedule(options, 110)(step) == pytest.approx(rate, abs=1e-12)


def test_without_decay_step_the_rate_stays():
    schedule = make_schedule(ScheduleOptions(lr=0.3), 100)
    assert [schedule(step) for step in (0, 1, 99)] == [0.3, 0.3, 0.3]


def test_linear_scaling_multiplies_every_phase():
    reference = make_schedule(PRETRAINING, 1_000_000)
    halved = ScheduleOptions(**{**vars(PRETRAINING), "reference_batch": 4096})
    scaled = make_schedule(halved, 1_000_000, global_batch=2048)
    for step in (0, 20_000, 35_200, 110_001):
        assert scaled(step) == pytest.approx(reference(step) / 2)
    assert linear_scale(512, 0) == 1.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr_policy": "cosin"}, "lr_policy is 'cosin': use one of"),
        ({"lr": -0.1}, "lr -0.1"),
        ({"lr_policy": "staircase"}, "lr_decay_step"),
        ({"warmup": 10, "lr_warmup_decay_step": 0}, "lr_warmup_decay_step"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ScheduleOptions(**options)


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(UserError, match="leaves no step"):
        make_schedule(COSINE, 10)
