"""Jobs that lose workers: ended, started again, or gone on with; and who reads which record."""

import itertools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import tensorflow as tf
from launching import Stage, executable

from data import tfrecord
from data.common.sharding import Shard, cut_step
from data.input.pipeline import Augmentation, InputOptions, TrainingInput
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter
from models.checkpoints import checkpoint
from models.checkpoints.folder import CheckpointFolder
from models.distributed.horovod_backend import is_lost_connection

STEPS = 400
SNAPSHOT = 50
GLOBAL_BATCH = 8
FLAGS = (
    "--resnet_size=14 --width=8 --class_num=14 --image_size=32 --batch_size=4 "
    f"--max_iter={STEPS} --snapshot={SNAPSHOT} --global_batch={GLOBAL_BATCH} --log_interval=10 "
    "--lr_policy=constant --lr=0.01 --shuffle_buffer=64 --threads=1 --num_preprocess_threads=1 "
    "--deterministic --data_dir=records --model_dir=out --log_dir=out/log"
)
# A dead worker ends the job within so many seconds.
SECONDS_TO_END = 60
LAUNCH_SECONDS = 240
NAMES_OF_HOSTS = ("localhost", "127.0.0.1")


@pytest.fixture(scope="module")
def make_stage(digits_folder, tmp_path_factory) -> Callable[[str], Stage]:
    """Makes a stage with a recipe that trains on the demo data set, in two workers' steps."""
    records = tmp_path_factory.mktemp("records")
    lists = ["--indexs", digits_folder / "val_im_list.txt", "--images", digits_folder]
    output = ["--tfrecords", records, "--num_class", 14, "--shard_size", 64]
    assert tfrecord.main(list(map(str, lists + output))) == 0

    def make(name: str) -> Stage:
        stage = Stage(tmp_path_factory.mktemp(name) / "project")
        (stage.root / "records").symlink_to(records)
        stage.recipe("small.sh", f"train.py {FLAGS}")
        return stage

    return make


@pytest.fixture(scope="module")
def undisturbed(make_stage) -> Stage:
    stage = make_stage("undisturbed")
    assert stage.run("example/train_distributed.sh", "example/small.sh") == 0, stage.output
    return stage


def wait_for(condition: Callable[[], object], stage: Stage, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, stage.output
        time.sleep(0.05)


def worker_with(job: psutil.Popen, **variables: str) -> psutil.Process:
    """The training process of a job whose environment has these variables."""
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            is_python = Path(process.exe()).name.startswith("python")
            if (
                is_python
                and "train.py" in process.cmdline()[1]
                and (variables.items() <= process.environ().items())
            ):
                return process
        except (psutil.Error, IndexError):
            continue
    raise AssertionError(f"no process with {variables}")


def is_running(job: psutil.Popen, **variables: str) -> bool:
    try:
        return bool(worker_with(job, **variables))
    except AssertionError:
        return False


def reached(stage: Stage, step: int) -> bool:
    return (stage.root / f"out/model.ckpt-{step}.index").exists()


def weights(stage: Stage) -> dict[str, np.ndarray]:
    latest = checkpoint.read(CheckpointFolder(stage.root / "out").latest())
    assert latest.tensor("global_step") == STEPS
    assert latest.meta()["progress"]["position"] == STEPS * GLOBAL_BATCH
    return {name: latest.tensor(name) for name in latest.shapes}


@pytest.mark.slow
def test_a_killed_worker_ends_the_job_and_the_restart_ends_where_it_would(
    make_stage, undisturbed
) -> None:
    stage = make_stage("killed")
    job = stage.start("example/train_distributed.sh", "--restarts=1", "example/small.sh")
    wait_for(lambda: reached(stage, 2 * SNAPSHOT), stage, LAUNCH_SECONDS)
    worker_with(job, HOROVOD_RANK="1").kill()
    wait_for(lambda: "== restart 1 of 1" in stage.output, stage, SECONDS_TO_END)
    assert "Process 1 exit with status code 137" in stage.output
    assert "worker 0 of 2 lost the connection to another worker" in stage.output
    assert not reached(stage, STEPS)
    assert job.wait() == 0, stage.output
    assert "resuming out/model.ckpt-" in stage.output
    expected, found = weights(undisturbed), weights(stage)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("message", "lost"),
    [
        ("HorovodAllreduce: Horovod has been shut down", True),
        ("[/x/third_party/gloo/gloo/transport/tcp/pair.cc:598] Connection closed by peer", True),
        ("OOM when allocating tensor", False),
    ],
)
def test_a_lost_worker_is_told_from_other_errors(message: str, lost: bool) -> None:
    assert is_lost_connection(tf.errors.UnknownError(None, None, message)) == lost


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "rank"),
    [
        (("example/train_distributed.sh", "--restarts=3"), "HOROVOD_RANK"),
        (("example/mpirun_train.sh",), "OMPI_COMM_WORLD_RANK"),
    ],
)
def test_sigterm_to_the_launcher_saves_a_checkpoint_however_long_a_step_takes(
    make_stage, launcher, rank
) -> None:
    stage = make_stage("stopped")
    command = *launcher, "example/small.sh"
    job = stage.start(*command)
    # They are far from their first step now: longer than horovodrun leaves them after a signal.
    wait_for(lambda: is_running(job, **{rank: "1"}), stage, LAUNCH_SECONDS)
    job.send_signal(signal.SIGTERM)
    assert job.wait(LAUNCH_SECONDS) == 143, stage.output
    assert "== restart" not in stage.output
    step = checkpoint.read(CheckpointFolder(stage.root / "out").latest()).tensor("global_step")
    assert 1 <= step < STEPS
    assert f"SIGTERM: stopped after step {step} and saved out/model.ckpt-{step}" in stage.output
    assert not list(stage.root.glob(".stop-*"))
    assert stage.run(*command, f"--max_iter={step + 2}") == 0, stage.output
    assert f"resuming out/model.ckpt-{step} at step {step}" in stage.output


@pytest.mark.slow
def test_an_elastic_job_goes_on_without_a_machine_and_keeps_its_batch(
    make_stage, undisturbed
) -> None:
    stage = make_stage("elastic")
    hosts = "".join(f"echo {name}:1\n" for name in NAMES_OF_HOSTS)
    discovery = executable(stage.root / "hosts.sh", hosts)
    job = stage.start(
        "example/train_distributed.sh", "example/small.sh", DISCOVERY=discovery, MIN_NP=1, NIC="lo"
    )
    wait_for(lambda: reached(stage, SNAPSHOT), stage, LAUNCH_SECONDS)
    worker_with(job, HOROVOD_HOSTNAME=NAMES_OF_HOSTS[1]).kill()
    assert job.wait() == 0, stage.output
    assert "2 worker(s) do 2 micro-batch(es) of 4 images = 8 images per step" in stage.output
    assert "1 worker(s) do 2 micro-batch(es) of 4 images = 8 images per step" in stage.output
    expected, found = weights(undisturbed), weights(stage)
    for name in ("logits/dense/kernel", "init/init_conv/conv2d/kernel"):
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(found[name], expected[name], atol=0.05 * scale, err_msg=name)


COUNTS = (1, 2, 3, 5, 8, 4, 7)
RECORDS = sum(COUNTS)


@pytest.fixture
def seven_files(tmp_path, digits_folder) -> InputOptions:
    """Seven files of unequal size; every record has a class of its own."""
    image = next((digits_folder / "images").iterdir()).read_bytes()
    classes = itertools.count()
    for number, count in enumerate(COUNTS):
        with RecordWriter(tmp_path / f"{number}.tfrecord") as writer:
            for _ in range(count):
                writer.write(encode_example("single", image, "", 40, 40, [next(classes)]))
    return InputOptions(
        str(tmp_path), 16, class_num=RECORDS, shuffle_buffer=8, file_shuffle_buffer=2
    )


def records_by_position(
    options: InputOptions, workers: int, start: int, steps: int
) -> dict[int, int]:
    """What all workers read in their steps: position -> record."""
    found = {}
    for rank in range(workers):
        step_shard = cut_step(6, 2, Shard(rank, workers))
        batches = TrainingInput(options, Augmentation(), step_shard).batches(start)
        for step in range(steps):
            first = (
                start + step * step_shard.global_batch + step_shard.first * step_shard.micro_batch
            )
            for i in range(step_shard.count):
                for j, record in enumerate(next(batches).label_index[:, 0].numpy().tolist()):
                    position = first + i * step_shard.micro_batch + j
                    assert position not in found
                    found[position] = record
    return found


@pytest.mark.slow
def test_every_record_is_read_once_an_epoch_by_any_number_of_workers(seven_files) -> None:
    whole = records_by_position(seven_files, workers=3, start=0, steps=15)
    assert sorted(whole) == list(range(3 * RECORDS))
    epochs = [[whole[p] for p in range(e * RECORDS, (e + 1) * RECORDS)] for e in range(3)]
    for records in epochs:
        assert sorted(records) == list(range(RECORDS))
    assert len({tuple(records) for records in epochs}) == 3  # another order every epoch
    # Taken up in the middle of an epoch, by the same number of workers, fewer (unevenly) and more.
    for workers in (3, 2, 1, 4):
        rest = records_by_position(seven_files, workers, start=42, steps=8)
        assert rest == {position: whole[position] for position in range(42, 90)}
