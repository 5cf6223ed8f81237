"""Which process of a job this is, under each launcher, and jobs that MPI does not join."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from data.common.errors import UserError
from data.common.processes import VARIABLES, Process, process_group, this_process
from data.common.sharding import Shard
from models.distributed import launch
from models.distributed.base import DistributedOptions

ROOT = Path(__file__).resolve().parents[3]
HOROVODRUN = {"HOROVOD_SIZE": "4", "HOROVOD_RANK": "3", "HOROVOD_LOCAL_RANK": "1"}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
}
MPIEXEC = {"PMI_SIZE": "4", "PMI_RANK": "1", "MPI_LOCALRANKID": "1"}
SRUN = {
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}
SBATCH = SALLOC | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}


@pytest.fixture
def started(monkeypatch):
    """`started(variables)`: no launcher's variables but these are set."""

    def start(variables):
        for name in [*sum(VARIABLES.values(), ()), "SLURM_NTASKS", "SLURM_JOB_ID"]:
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return start


@pytest.mark.parametrize(
    ("variables", "process"),
    [
        ({}, Process()),
        (HOROVODRUN, Process("horovodrun", 3, 4, 1)),
        (MPIRUN, Process("mpirun", 2, 4, 0)),
        (MPIEXEC, Process("mpiexec", 1, 4, 1)),
        (SRUN, Process("srun", 2, 4, 0)),
        (SALLOC, Process()),
        (SBATCH, Process()),
        (MPIRUN | SRUN, Process("mpirun", 2, 4, 0)),
        (SRUN | {"HOROVOD_SIZE": "1"}, Process("horovodrun", 0, 1, 0)),
        (SALLOC | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, Process("srun", 0, 1, 0)),
    ],
)
def test_each_launcher_says_who_we_are(started, variables, process):
    started(variables)
    assert this_process() == process


UNCLEAR = pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"SLURM_STEP_NUM_TASKS": "x"}, "SLURM_STEP_NUM_TASKS=x is not a whole number"),
        (SRUN | {"SLURM_PROCID": "-1"}, "SLURM_PROCID=-1 is not a whole number"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE=4 says that mpiexec started this process, but PMI_RANK is"),
        (MPIRUN | {"OMPI_COMM_WORLD_RANK": "4"}, "RANK=4 is not below OMPI_COMM_WORLD_SIZE=4"),
    ],
)


@UNCLEAR
def test_variables_that_do_not_say_who_we_are_are_refused(started, variables, message):
    started(variables)
    command = [sys.executable, "data/tfrecord.py", "--verify", "--tfrecords=x"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@UNCLEAR
def test_training_refuses_them_too(started, call_script, capsys, variables, message):
    started(variables)
    assert call_script("train.py") == 1
    assert message in capsys.readouterr().err


def test_parts_are_the_tasks_of_a_step(started):
    started(SRUN)
    assert process_group() == (Shard(2, 4), None)
    assert not process_group().collects
    started(SBATCH)
    assert process_group().collects


def test_a_part_of_the_command_line_goes_first(started):
    started(SRUN)
    group = process_group("1/3")
    assert group == (Shard(1, 3), None)
    assert not group.collects
    group.wait()  # for nobody


@pytest.mark.slow
def test_processes_that_mpi_does_not_join_are_refused(started):
    started(MPIEXEC)
    with pytest.raises(UserError, match="mpiexec started 4 processes, but MPI joins 1: "):
        process_group()


def test_processes_that_horovod_does_not_join_are_refused(started):
    started(SRUN)
    with pytest.raises(UserError, match="srun started 4 processes, but Horovod connects 1: "):
        launch.start(DistributedOptions())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["horovodrun", "srun"])
def test_two_tasks_share_a_list_without_overlap(tmp_path, launcher):
    images, rows = tmp_path / "images", []
    images.mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(images / f"{number}.png")
        rows.append(f"{number}.png\t{number}:1\n")
    (tmp_path / "list.txt").write_text("".join(rows))
    script = [sys.executable, ROOT / "data/tfrecord.py", "--shard_size=1"]
    command = [*script, "-idx", tmp_path / "list.txt", "-im", images, "-tfs"]
    size, rank, _ = VARIABLES[launcher]
    shared, alone = tmp_path / "shared", tmp_path / "alone"
    for number in range(2):
        environment = os.environ | {size: "2", rank: str(number)}
        output = subprocess.check_output(
            [*command, shared], env=environment, text=True, timeout=100
        )
        assert f"part {number}/2 is done; once all are, run the same command again" in output
        assert len(list(shared.glob("*.tfrecords"))) == 3 * (number + 1)
    assert not (shared / "manifest.json").exists()
    for folder in (shared, alone):
        subprocess.run([*command, folder], check=True, timeout=100)
    shards = sorted(path.name for path in alone.iterdir())
    assert shards == sorted(path.name for path in shared.iterdir())
    assert all((shared / name).read_bytes() == (alone / name).read_bytes() for name in shards)


def test_a_script_that_does_not_share_its_work_is_refused():
    command = [sys.executable, ROOT / "data/label_statistics.py", "--help"]
    done = subprocess.run(command, env=os.environ | SRUN, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: srun started 4 processes, and each would do all of the work:"
        " start label_statistics.py alone\n"
    )
