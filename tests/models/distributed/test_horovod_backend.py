"""Two and four real processes train as one does: Gloo by horovodrun, MPI by mpirun."""

import logging
import time
from pathlib import Path

import distributed_checks
import numpy as np
import pytest
from launching import Stage

from data.common.errors import UserError
from data.common.sharding import Shard, StepOptions, arithmetic, cut_step, step_shard_of
from models.distributed.base import SingleProcess
from models.training.metric_writer import reported

pytestmark = pytest.mark.slow  # its fixtures run whole jobs

TOLERANCE = 1e-5
# Each case, and the case of one process that it must equal.
ON_TWO = {
    "pretraining": "pretraining",
    "pretraining_synchronized": "pretraining_synchronized",
    "pretraining_synchronized_recomputed": "pretraining_synchronized",
    "finetuning": "finetuning",
    "finetuning_synchronized": "finetuning_synchronized",
    "accumulated": "pretraining",
    "uneven": "pretraining",
    "no_group": "pretraining",
    "one_group": "pretraining",
}
ON_FOUR = {
    "pretraining": "pretraining",
    "finetuning": "finetuning",
    "accumulated": "pretraining",
}
# What must not equal it, and how far off it may be.
INEXACT = {"compressed": 0.05, "local": np.inf}
OWN_STATISTICS = ("own_batch_norm",)


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, np.ndarray]]:
    """What one process makes of the cases, every step being one batch."""
    cases = {name: distributed_checks.CASES[name] for name in set(ON_TWO.values())}
    # A process on its own needs no synchronized batch norm.
    return {
        name: distributed_checks.train(
            case._replace(batch_norm=case.batch_norm.replace("synchronized", "own")),
            SingleProcess(),
        )
        for name, case in cases.items()
    }


def launch(folder: Path, processes: int, controller: str, cases: list[str]) -> Stage:
    stage = Stage(folder)
    recipe = stage.recipe("checks.sh", f"tests/distributed_checks.py {folder} {' '.join(cases)}")
    launcher = "example/train_distributed.sh"
    code = stage.run(launcher, recipe, NP=processes, CONTROLLER=controller)
    assert code == 0, stage.output
    return stage


@pytest.fixture(scope="module")
def on_two(tmp_path_factory) -> Stage:
    cases = [*ON_TWO, *INEXACT, *OWN_STATISTICS]
    return launch(tmp_path_factory.mktemp("two") / "p", 2, "gloo", cases)


@pytest.fixture(scope="module")
def on_four(tmp_path_factory) -> Stage:
    return launch(tmp_path_factory.mktemp("four") / "p", 4, "mpi", list(ON_FOUR))


def saved(stage: Stage, name: str, rank: int = 0) -> dict[str, np.ndarray]:
    return dict(np.load(stage.root / f"{name}.{rank}.npz"))


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """The largest difference of a tensor's elements, relative to its largest element."""
    assert one.keys() == other.keys()
    return max(
        np.abs(one[name] - other[name]).max() / max(np.abs(other[name]).max(), 1e-30)
        for name in one
    )


@pytest.mark.parametrize("name", ON_TWO)
def test_two_workers_train_as_one_with_twice_the_batch(on_two, alone, name) -> None:
    assert distance(saved(on_two, name), alone[ON_TWO[name]]) < TOLERANCE


@pytest.mark.parametrize("name", ON_FOUR)
def test_four_workers_train_as_one_with_four_times_the_batch(on_four, alone, name) -> None:
    assert distance(saved(on_four, name), alone[ON_FOUR[name]]) < TOLERANCE


@pytest.mark.parametrize("name", INEXACT)
def test_what_is_not_the_same_differs(on_two, alone, name) -> None:
    assert TOLERANCE < distance(saved(on_two, name), alone["pretraining"]) < INEXACT[name]


@pytest.mark.parametrize("name", [*ON_TWO, *OWN_STATISTICS])
def test_all_workers_end_with_the_same_variables(on_two, name) -> None:
    assert distance(saved(on_two, name, 0), saved(on_two, name, 1)) == 0


def test_a_stall_is_reported_by_who_waits_and_who_is_waited_for(on_two, on_four) -> None:
    for stage, last in ((on_two, 1), (on_four, 3)):
        assert f"worker {last} has been waiting for its input for 1 s" in stage.output
        assert "worker 0 has been in step 0 for 1 s" in stage.output
    # Horovod 0.28 itself names the missing worker on MPI; on Gloo it does not.
    assert "Missing ranks:\n3: [" in on_four.output


def test_a_quick_block_is_not_reported(caplog) -> None:
    with caplog.at_level(logging.WARNING, "absl"), reported("waiting", 0.05):
        pass
    with reported("never", 0):
        time.sleep(0.1)
    assert caplog.records == []


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 12])
@pytest.mark.parametrize("largest", [1, 4, 5, 12])
def test_shards_make_up_the_step(size, largest) -> None:
    step_shards = [cut_step(12, largest, Shard(rank, size)) for rank in range(size)]
    assert {step_shard.global_batch for step_shard in step_shards} == {12}
    assert all(
        step_shard.micro_batch <= largest and step_shard.count >= 1 for step_shard in step_shards
    )
    taken = [step_shard.first + i for step_shard in step_shards for i in range(step_shard.count)]
    assert taken == list(range(step_shards[0].total))


def test_flags_of_a_step() -> None:
    assert step_shard_of(StepOptions(8, 2), Shard(1, 3)) == (8, 2, 2, 6)
    assert step_shard_of(StepOptions(8, 1, 48), Shard(1, 3)) == (8, 2, 2, 6)
    with pytest.raises(UserError, match="needs --global_batch"):
        step_shard_of(StepOptions(8), Shard(0, 2), elastic=True)
    with pytest.raises(UserError, match="leave out --accumulate_steps"):
        step_shard_of(StepOptions(8, 2, 48), Shard(0, 2))
    with pytest.raises(UserError, match="3 micro-batches in step"):
        step_shard_of(StepOptions(4, 1, 12), Shard(0, 2), in_step=True)
    with pytest.raises(UserError, match="5 workers cannot share --global_batch=4"):
        step_shard_of(StepOptions(4, 1, 4), Shard(0, 5))


def test_the_arithmetic_is_logged() -> None:
    step_shard = step_shard_of(StepOptions(32, 1, 4096), Shard(0, 128))
    assert arithmetic(step_shard, 128, 17_609_752, 257_958) == (
        "128 worker(s) do 128 micro-batch(es) of 32 images = 4096 images per step; "
        "17609752 records, 4299.3 steps per epoch, 257958 steps = 60.00 epochs"
    )
