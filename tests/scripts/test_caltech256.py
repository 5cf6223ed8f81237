"""example/finetune_caltech256.sh on a few digits in class folders, killed and started again."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from data import digits
from data.lists.rows import read_rows

SCRIPT = Path(__file__).resolve().parents[2] / "example/finetune_caltech256.sh"
FIRST_DIGIT = len(digits.ABOVE)
TINY = ("--resnet_size=14", "--width=8", "--log_interval=1")


@pytest.fixture(scope="module")
def images(digits_folder: Path, tmp_path_factory) -> Path:
    """Digits 0 to 2 in a folder each, 10 images of each, and the clutter, which is no image."""
    folder = tmp_path_factory.mktemp("caltech") / "classes"
    (folder / "004.clutter").mkdir(parents=True)
    (folder / "004.clutter" / "1.jpg").write_bytes(b"")
    for row in list(read_rows(digits_folder / "train_im_list.txt")):
        digit = row.classes[0] - FIRST_DIGIT
        target = folder / f"00{digit + 1}.digit-{digit}"
        target.mkdir(exist_ok=True) if digit < 3 else None
        if digit < 3 and len(list(target.iterdir())) < 10:
            shutil.copy(digits_folder / row.image, target)
    return folder


def start(images: Path, output: Path, **variables: str) -> subprocess.Popen:
    settings = {"IMAGES": str(images), "OUTPUT": str(output), "TRAIN": "6", "SPLITS": "2"}
    settings |= {"IMAGE_SIZE": "32", "BATCH": "4", "EPOCHS": "2", "CHECKPOINT": ""} | variables
    return subprocess.Popen(
        [SCRIPT, *TINY],
        env=os.environ | settings,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_from_class_folders_to_the_table(images: Path, tmp_path: Path) -> None:
    first = start(images, tmp_path)
    while not (tmp_path / "split2/model").exists():  # in the second split
        assert first.poll() is None, first.stdout.read()
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    report = tmp_path / "split1/report/metrics.json"
    before = report.stat().st_mtime_ns
    again = start(images, tmp_path)
    printed, _ = again.communicate()
    assert again.returncode == 0, printed
    assert report.stat().st_mtime_ns == before and "== split 1 is done" in printed
    found = json.loads((tmp_path / "results.json").read_text())["mean_class_accuracy"]
    metrics = json.loads(report.read_text())["evaluations"][0]
    assert metrics["step"] == 2 * 3 * 6 // 4 and metrics["metrics"]["images"] == 3 * 4
    splits = found["finetuned"]["splits"]
    assert splits.keys() == {"split1", "split2"}
    assert splits["split1"] == metrics["metrics"]["mean_class_accuracy"]

    linear = start(images, tmp_path, LINEAR="1", CHECKPOINT=str(tmp_path / "split1/model"))
    printed, _ = linear.communicate()
    assert linear.returncode == 0, printed
    both = json.loads((tmp_path / "results.json").read_text())["mean_class_accuracy"]
    assert both["finetuned"] == found["finetuned"] and len(both["linear"]["splits"]) == 2
    assert "\nlinear " in printed and both["linear"]["mean"] > 1 / 3
