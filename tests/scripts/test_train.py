"""train.py and finetune.py as users start them: exact resume, and mistakes in one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from digit_records import write_records

from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--resnet_size=14", "--width=8", "--image_size=32", "--class_num=14", "--batch_size=8")


@pytest.fixture(scope="module")
def records(digits_folder: Path, tmp_path_factory) -> Path:
    return write_records(digits_folder, tmp_path_factory.mktemp("train") / "records", 60)


def train_command(records: Path, folder: Path, *arguments: str) -> list[str]:
    common = (f"--data_dir={records}", f"--model_dir={folder}", f"--log_dir={folder}/log")
    return [sys.executable, str(ROOT / "train.py"), *common, *NETWORK, *arguments]


def final_tensors(folder: Path) -> dict[str, np.ndarray]:
    reader = checkpoint.read(checkpoint.find(folder))
    return {name: reader.tensor(name) for name in reader.shapes}


@pytest.mark.slow
def test_a_killed_deterministic_run_ends_bit_for_bit_where_the_straight_one_does(
    records: Path, tmp_path: Path
) -> None:
    arguments = (
        "--deterministic",
        "--max_iter=12",
        "--snapshot=4",
        "--log_interval=1",
        "--lr=0.01",
    )
    straight = subprocess.Popen(train_command(records, tmp_path / "straight", *arguments))
    killed = train_command(records, tmp_path / "killed", *arguments)
    process = subprocess.Popen(killed)
    while not list((tmp_path / "killed").glob("model.ckpt-4.index")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "killed").glob("model.ckpt-12.index"))
    resumed = subprocess.run(killed, capture_output=True, text=True)
    assert resumed.returncode == 0 and "resuming" in resumed.stderr
    assert straight.wait() == 0
    one, other = final_tensors(tmp_path / "straight"), final_tensors(tmp_path / "killed")
    assert one.keys() == other.keys() and int(one["global_step"]) == 12
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.slow
def test_finetuning_starts_from_the_pretrained_weights_but_not_the_logits(
    digits_folder: Path, records: Path, tmp_path: Path
) -> None:
    pretrained = tmp_path / "pretrained"
    # Statistics that the frozen layers can be trusted with, after so few steps.
    settled = ("--max_iter=8", "--lr=1e-4", "--batch_norm_decay=0.5")
    subprocess.run(train_command(records, pretrained, *settled), check=True, capture_output=True)
    single = write_records(digits_folder, tmp_path / "single", 30, "single")
    command = train_command(
        single,
        tmp_path / "tuned",
        f"--pretrain_ckpt={pretrained}",
        "--class_num=16",
        "--FixBlock2",
        "--freeze_batch_norm",
        "--max_iter=2",
        "--lr_decay_step=10",
        "--lr=1e-4",
        f"--val_dir={single}",
    )
    command[1] = str(ROOT / "finetune.py")
    command.remove("--resnet_size=14")  # the checkpoint says
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "top_1 " in done.stderr
    before, after = final_tensors(pretrained), final_tensors(tmp_path / "tuned")
    weights = [n for n in after if "Momentum" not in n and "logits" not in n and "/" in n]
    changed = {n for n in weights if not np.array_equal(before[n], after[n])}
    trains = ("stages_2_", "stages_3_", "global_pool")
    assert changed and all(n.startswith(trains) for n in changed)
    assert {n for n in weights if n.startswith(trains) and "moving" not in n} == changed
    assert after["logits/dense/bias"].shape == (16,)


def mistake(run_script, script: str, *arguments: str) -> str:
    """The one-line error of a run that must fail without a traceback."""
    done = run_script(script, *NETWORK, *arguments)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--data_format=NCWH", "<NHWC|NCHW>"),
        ("--log_interval=0", "log_interval"),
        ("--weigth_decay=0", "weight_decay"),
        ("positional", "'positional'"),
    ],
)
def test_a_wrong_flag_ends_the_process_with_its_name(
    run_script, argument: str, message: str
) -> None:
    assert message in mistake(run_script, "train.py", argument)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data_dir=none"], "none: no such folder"),
        (["--data_dir=empty"], "empty: no record files"),
        (["--data_dir={records}", "--val_dir=absent"], "absent: no such folder"),
        (["--data_dir={records}", "--class_num=5"], "is out of range [0, 5): check --class_num"),
        (["--data_dir={records}", "--data_format=NCHW"], "use NHWC"),
        (["--data_dir={records}", "--restore"], "no checkpoint in --model_dir"),
        (["--val_dir={records}", "--mode=val"], "no checkpoint in --model_dir"),
        (["--data_dir={records}", "--pretrain_ckpt=gone"], "gone"),
        (["--data_dir={records}", "--best_metric=mAP"], "needs --val_dir"),
        (["--data_dir={records}", "--val_dir={records}", "--best_metric=mAP"], "map_macro"),
        (["--data_dir=imageless"], "record 0: no image in it"),
        (["--data_dir={records}", "--epochs=2", "--max_iter=9"], "--epochs and --max_iter both"),
    ],
)
def test_a_mistake_ends_in_a_line_that_names_it(
    call_script, records: Path, tmp_path: Path, capsys, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "imageless").mkdir()
    with RecordWriter(tmp_path / "imageless" / "one") as writer:
        writer.write(encode_example("sparse", b"", "nothing", 1, 1, [0], [1.0]))
    arguments = [text.format(records=records) for text in arguments]
    assert call_script("train.py", *NETWORK, *arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


@pytest.mark.slow
def test_checkpoints_that_do_not_fit_are_named(run_script, records: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    common = (f"--data_dir={records}", f"--model_dir={folder}", "--max_iter=1")
    assert run_script("train.py", *NETWORK, *common).returncode == 0
    other = mistake(run_script, "train.py", *common, "--class_num=20")
    assert "--class_num=14 then, 20 now" in other
    sizes_of_the_checkpoint = ("--width=8", "--image_size=32", "--batch_size=8", "--mode=val")
    folders = (f"--val_dir={records}", f"--model_dir={folder}")
    assert "map_macro: " in run_script("train.py", *sizes_of_the_checkpoint, *folders).stdout
    deeper = mistake(run_script, "train.py", *common, "--resnet_size=50")
    assert "--resnet_size=14 then, 50 now" in deeper
    data = folder / "model.ckpt-1.data-00000-of-00001"
    os.truncate(data, data.stat().st_size // 2)
    assert "model.ckpt-1" in mistake(run_script, "train.py", *common)


@pytest.mark.slow
def test_keras_half_of_tensorflows_import_waits_until_it_is_wanted() -> None:
    program = "import sys, train, tensorflow as tf; print('keras' in sys.modules, tf.keras.Model)"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("False <class 'keras.")
