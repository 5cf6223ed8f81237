"""The finetuning scripts of example/ on small real data, killed and started again."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from data import digits
from data.lists.rows import read_rows
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
FIRST_DIGIT = len(digits.ABOVE)
TINY = ("--resnet_size=14", "--width=8", "--log_interval=1")


@pytest.fixture(scope="module")
def images(digits_folder: Path, tmp_path_factory) -> Path:
    """Digits 0 to 2 in a folder each, 25 images of each, and a table of labels."""
    folder = tmp_path_factory.mktemp("own")
    lines = ["image,labels"]
    for row in list(read_rows(digits_folder / "train_im_list.txt")):
        digit = row.classes[0] - FIRST_DIGIT
        target = folder / "images" / f"digit {digit}"
        if digit < 3 and (not target.exists() or len(list(target.iterdir())) < 25):
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy(digits_folder / row.image, target)
            name = f"digit {digit}/{Path(row.image).name}"
            lines.append(f"{name},digit {digit};{'even' if digit % 2 == 0 else 'even:-1'}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def finetune_own(
    images: Path, output: Path, *options: str, steps: int = 6
) -> subprocess.CompletedProcess:
    """The script on a folder of images, with a tiny network."""
    command = [ROOT / "example/finetune_own_data.sh", "--images", images, *options]
    settings = {"OUTPUT": str(output), "IMAGE_SIZE": "32", "BATCH": "8", "STEPS": str(steps)}
    return subprocess.run(
        [*command, "--", *TINY, "--eval_interval=3", "--warmup=2", "--lr=0.001"],
        env=os.environ | settings,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_flag_of_training_in_the_place_of_options_is_told_where_it_goes(tmp_path: Path) -> None:
    done = finetune_own(tmp_path, tmp_path / "out", "--lr=0.01")
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert "unrecognized arguments: --lr=0.01\n" in done.stderr
    assert done.stderr.endswith(f"sh --images {tmp_path} -- --lr=0.01\n")


@pytest.mark.slow
def test_own_images_added_later_are_learned_without_starting_over(
    images: Path, tmp_path: Path
) -> None:
    own, output = tmp_path / "own", tmp_path / "out"
    for digit in ("1", "2"):  # an image as a class and its subclass
        shutil.copytree(images / "images" / f"digit {digit}", own / "digit" / digit)
    assert finetune_own(own, output, "--nested").returncode == 0
    (before,) = (output / "records").glob("train-*")
    assert checkpoint.describe(checkpoint.find(output / "model")).class_num == 3
    shutil.copy(next((own / "digit/1").iterdir()), own / "digit/1/added.jpg")
    refused = finetune_own(own, output, "--nested")
    assert refused.returncode and "--update for images added since" in refused.stderr
    done = finetune_own(own, output, "--nested", "--update", steps=8)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stderr and "model.ckpt-6 at step 6" in done.stderr
    assert checkpoint.describe(checkpoint.find(output / "model")).step == 8
    (after,) = (output / "records").glob("train-*")
    assert after != before


@pytest.mark.slow
@pytest.mark.parametrize("with_table", [False, True])
def test_own_images_become_a_network_and_its_report(
    images: Path, tmp_path: Path, with_table: bool
) -> None:
    table = ["--csv", str(images / "labels.csv")] if with_table else []
    done = finetune_own(images / "images", tmp_path, *table)
    assert done.returncode == 0, done.stderr
    best = checkpoint.find(tmp_path / "model/best")
    assert checkpoint.describe(best).class_num == (4 if with_table else 3)
    dictionary = (tmp_path / "lists/dictionary.txt").read_text().splitlines()
    names = checkpoint.read(best).meta()["classes"]["names"]
    assert [f"{c}\t{name}" for c, name in enumerate(names)] == dictionary
    # Statistics of few steps: the flag's own 0.997 is for runs of 100,000.
    assert checkpoint.read(best).meta()["flags"]["batch_norm_decay"] == 0.9
    assert ("positive records of 4 classes" in done.stderr) == with_table
    report = {path.suffix for path in (tmp_path / "report").iterdir()}
    assert {".json", ".csv", ".html"} <= report


def kill_when(process: subprocess.Popen, file: Path) -> None:
    """Kills a process and its children as soon as a file is there."""
    while not file.exists():
        assert process.poll() is None, f"ended before {file}"
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_the_two_phases_go_on_after_a_kill_in_each(digits_folder: Path, tmp_path: Path) -> None:
    with RecordWriter(tmp_path / "records") as writer:
        for row in list(read_rows(digits_folder / "train_im_list.txt"))[:12]:
            jpeg = (digits_folder / row.image).read_bytes()
            label = [row.classes[0] - FIRST_DIGIT]
            writer.write(encode_example("single", jpeg, row.image, 40, 40, label))

    def start(folder: Path) -> subprocess.Popen:
        command = [ROOT / "example/finetune_imagenet_224_299.sh", *TINY, "--class_num=10"]
        command += ["--dictionary="]  # not the recipe's, of ImageNet's classes
        command += [f"--data_dir={tmp_path / 'records'}", "--pretrain_ckpt=", "--deterministic"]
        command += [f"--model_dir={folder}", f"--log_dir={folder}/log", "--lr=1e-4"]
        command += ["--batch_size=2", "--global_batch=4", "--snapshot=2"]
        steps = {"STEPS_224": "6", "STEPS": "12", "BATCH_299": "2"}
        return subprocess.Popen(
            command, env=os.environ | steps, start_new_session=True, stderr=subprocess.DEVNULL
        )

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert start(straight).wait() == 0
    for step in (2, 8):
        kill_when(start(killed), killed / f"model.ckpt-{step}.index")
        assert not (killed / "model.ckpt-12.index").exists()
    assert start(killed).wait() == 0
    one, other = (checkpoint.read(checkpoint.find(folder)) for folder in (straight, killed))
    assert int(one.tensor("global_step")) == 12
    for name in one.shapes:
        np.testing.assert_array_equal(one.tensor(name), other.tensor(name), err_msg=name)
    sizes = {
        step: checkpoint.read(f"{killed}/model.ckpt-{step}").meta()["flags"]["image_size"]
        for step in (6, 12)
    }
    assert sizes == {6: 224, 12: 299}
