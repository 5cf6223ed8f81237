"""What a start says of itself, and a resume of the flags that are not what they were."""

import logging

import pytest
from digit_records import write_records

from models.checkpoints import checkpoint
from models.training import overview
from models.training.metric_writer import Meter

SMALL = ("--resnet_size=14", "--image_size=32", "--batch_size=8", "--snapshot=1")


@pytest.fixture(scope="module")
def records(digits_folder, tmp_path_factory):
    return write_records(digits_folder, tmp_path_factory.mktemp("train") / "records", 16)


@pytest.fixture
def train(call_script, records, tmp_path, caplog, capsys):
    """`train(*flags)`: a run in the folder `run`; (exit code, what it logged, its last line)."""

    def call(*arguments: object, script: str = "train.py", folder: str = "run"):
        caplog.clear()
        folders = (f"--data_dir={records}", f"--model_dir={folder}", f"--log_dir={folder}/log")
        with caplog.at_level(logging.INFO):
            code = call_script(script, *folders, *SMALL, "--class_num=14", *arguments)
        return code, caplog.text, [*capsys.readouterr().err.splitlines(), ""][-2:]

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--width=4", "--width=8 then, 4 now"),
        ("--optimizer=sgd", "--optimizer=mom then, sgd now"),
        ("--ema_decay=0.9", "--ema_decay=0.0 then, 0.9 now"),
    ],
)
def test_a_flag_that_makes_a_checkpoint_unfit_is_named_with_both_values(train, flag, message):
    assert train("--width=8", "--max_iter=1")[0] == 0
    code, _, reported = train("--max_iter=2", flag)
    assert code == 1 and any(line.startswith("error: ") and message in line for line in reported)
    assert len("".join(reported)) < 400  # no list of tensors


@pytest.mark.slow
def test_other_flags_that_changed_are_listed(train):
    assert train("--width=8", "--max_iter=1")[0] == 0
    code, logged, _ = train("--max_iter=2", "--lr=0.01", "--image_size=48")
    assert code == 0
    (line,) = [line for line in logged.splitlines() if "changed since the checkpoint" in line]
    for change in ("--lr 0.1 -> 0.01", "--image_size 32 -> 48", "--max_iter 1 -> 2"):
        assert change in line
    assert "width" not in line and "a larger --max_iter" not in logged


@pytest.mark.slow
def test_a_run_at_its_end_says_so(train):
    assert train("--width=8", "--max_iter=1")[0] == 0
    code, logged, _ = train("--max_iter=1")
    assert code == 0 and "complete; a larger --max_iter or --epochs continues it" in logged
    assert "trained to step 1: run/model.ckpt-1" in logged


@pytest.mark.slow
def test_a_start_takes_the_width_of_the_pretrained_weights(train, tmp_path):
    assert train("--width=8", "--max_iter=1", "--mask_thres=0.6")[0] == 0
    finetune = {"script": "finetune.py", "folder": "fine"}
    code, logged, _ = train("--pretrain_ckpt=run", "--max_iter=1", "--loss=bce", **finetune)
    assert code == 0 and "weights from run/model.ckpt-1" in logged
    made = checkpoint.find(tmp_path / "fine")
    assert checkpoint.describe(made).width == 8
    assert checkpoint.read(made).meta()["flags"]["loss"] == "bce"
    reported = train("--pretrain_ckpt=run", "--width=4", folder="other")[2]
    assert any("has width 8, --width is 4" in line for line in reported)


@pytest.mark.slow
def test_a_start_says_what_it_does_and_the_checkpoint_what_was_used(train, tmp_path):
    code, logged, _ = train("--width=8", "--max_iter=3")
    assert code == 0
    for reported in (
        "ResNet-14 of width 8, ",
        "parameters, 14 classes, 32 x 32 pixels, on CPU, ",
        "8 images per step; 16 records",
        "checkpoints in run, log in run/log",
        "weights from random values",
        "the first step took",
        "s: the 1 left take about 0:00:0",
        "next: python evaluate.py --model_dir=run --val_dir=RECORDS",
    ):
        assert reported in logged
    flags = checkpoint.read(checkpoint.find(tmp_path / "run")).meta()["flags"]
    assert flags["loss"] == "multi_label" and flags["width"] == 8
    assert "label_mode" not in flags and "trainable" not in flags


@pytest.mark.parametrize(("seconds", "warns"), [(40.0, True), (0.001, False)])
def test_a_run_that_will_take_long_on_a_cpu_warns(caplog, seconds, warns):
    meter = Meter(10)
    meter.steps, meter.last_seconds = 2, seconds
    overview.log_pace(meter, 1000, rank=0)
    assert (
        "a step takes 40 s: the 1000 left take about 11:06:40; to finish sooner" in caplog.text
    ) == warns
