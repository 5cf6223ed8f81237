"""docs/extending.md, applied to a copy of the project: what it adds is trained and evaluated."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from digit_records import write_records

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "extending.md"
BLOCK = re.compile(
    r"^```python\n# (?P<file>\S+\.py)"
    r"(?:, (?P<side>above|below|at the end of) `(?P<anchor>[^`\n]+)`)?:\n"
    r"(?P<lines>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
NETWORK = ("--width=8", "--image_size=32", "--class_num=14", "--batch_size=8", "--max_iter=1")


def apply(project: Path) -> list[str]:
    """Applies the document's blocks in their order; the files that it touches."""
    text, touched = DOCUMENT.read_text(encoding="utf-8"), []
    for block in BLOCK.finditer(text):
        path = project / block["file"]
        touched.append(block["file"])
        if block["anchor"] is None:
            assert not path.exists(), path
            path.write_text(block["lines"], encoding="utf-8")
            continue
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        found = [n for n, line in enumerate(lines) if line.startswith(block["anchor"])]
        assert len(found) == 1, f"{block['file']}: {len(found)} lines begin with {block['anchor']}"
        number, added = found[0], block["lines"]
        if block["side"] == "above":
            added += "\n\n"
        elif block["side"] == "below":
            number += 1
        else:
            number = next(n for n in range(number + 1, len(lines)) if lines[n][0] in ")]}")
        lines.insert(number, added)
        path.write_text("".join(lines), encoding="utf-8")
    assert len(touched) == text.count("```python"), "a block names no file"
    return touched


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A copy of the project, extended."""
    folder = tmp_path_factory.mktemp("extending") / "project"
    folder.mkdir()
    for name in ("data", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for script in ROOT.glob("*.py"):
        shutil.copy(script, folder)
    apply(folder)
    return folder


def run(project: Path, script: str, *arguments: object) -> subprocess.CompletedProcess:
    command = [sys.executable, script if script == "-c" else project / script, *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"}
    return subprocess.run(
        list(map(str, command)), cwd=project, env=environment, capture_output=True, text=True
    )


def succeed(project: Path, script: str, *arguments: object) -> subprocess.CompletedProcess:
    done = run(project, script, *arguments)
    assert done.returncode == 0, done.stderr
    return done


def train(project: Path, script: str, folder: str, *arguments: object) -> dict[str, float]:
    """One step and the evaluation after it; its metrics."""
    outputs = f"--model_dir={folder}", f"--log_dir={folder}/log"
    succeed(project, script, *NETWORK, *outputs, *arguments)
    lines = (project / folder / "log/training.jsonl").read_text().splitlines()
    return json.loads(lines[-1])


@pytest.fixture(scope="module")
def records(digits_folder: Path, project: Path) -> tuple[str, str]:
    folder = write_records(digits_folder, project / "records", 24)
    return f"--data_dir={folder}", f"--val_dir={folder}"


def test_the_document_touches_as_few_files_as_it_says(tmp_path):
    for package in ("data", "models"):
        shutil.copytree(ROOT / package, tmp_path / package)
    shutil.copy(ROOT / "flags.py", tmp_path)
    touched = apply(tmp_path)
    assert sorted(set(touched)) == [
        "data/input/augment.py",
        "flags.py",
        "models/architecture.py",
        "models/backbones.py",
        "models/losses.py",
        "models/metrics/definitions.py",
        "models/plain.py",
    ]


ERASED = """
import numpy as np
from data.input import augment
seeds = np.array([[3, 1], [3, 2]])
params = augment.draw_params(np.full((2, 20), 0.5, np.float32), seeds, augment.Augmentation())
image = np.empty((16, 16, 3), np.float32)
augment.augment(np.full((16, 16, 3), 255, np.uint8), params[0], image)
print((image == 0).all(-1).nonzero()[0].tolist() == sorted([6, 7, 8, 9] * 4))
"""


@pytest.mark.slow
def test_augmentation_changes_the_pixels_that_it_should(project):
    """Uniform numbers of 1/2: the square of 4 pixels in the middle of 16."""
    assert succeed(project, "-c", ERASED).stdout == "True\n"


@pytest.mark.slow
def test_loss_metrics_and_depth_in_training_and_finetuning(project, records):
    assert "|focal>" in succeed(project, "finetune.py", "--help").stdout
    first = train(
        project, "train.py", "first", "--loss=focal", "--focus=1.5", "--resnet_size=26", *records
    )
    assert {"worst_ap", "hit_at_5", "hit_at_10"} <= first.keys()
    start = "--pretrain_ckpt=first", "--best_metric=worst_ap"
    train(project, "finetune.py", "second", "--loss=focal", *start, *records)
    assert (project / "second/best").is_dir()
    meta = json.loads((project / "second/model.ckpt-1.json").read_text())
    assert meta["flags"]["resnet_size"] == 26 and meta["flags"]["focus"] == 2.0
    succeed(project, "evaluate.py", "--pretrain_ckpt=second", records[1], "--result=report")
    numbers = json.loads((project / "report/metrics.json").read_text())
    assert "worst_ap" in numbers["evaluations"][0]["metrics"]
    assert numbers["definitions"]["hit_at_5"]["meaning"].endswith("among the best 5")


@pytest.mark.slow
def test_backbone_in_training_and_prediction_and_refused_by_exports(project, records):
    train(project, "train.py", "plain", "--backbone=plain", *records)
    resumed = ("--model_dir=plain", "--log_dir=plain/log", "--max_iter=2", "--backbone=plain")
    done = succeed(project, "train.py", *NETWORK, *resumed, *records)
    assert "resuming plain/model.ckpt-1" in done.stderr
    succeed(project, "evaluate.py", "--pretrain_ckpt=plain", records[1], "--result=plain/report")
    refused = run(project, "export.py", "--model_dir=plain", "--export_dir=plain/export")
    assert refused.returncode == 1
    assert "the checkpoint holds a PlainNet: export.py exports only ResNet" in refused.stderr
    listed = succeed(project, "export.py", "--model_dir=plain", "--list").stdout
    assert "plain-101, width 8, 14 classes" in listed
