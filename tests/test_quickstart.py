"""example/quickstart.sh from the installed state, training cut short: every script takes part."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24


def quickstart(folder: Path) -> str:
    """Runs it into a folder; what it printed."""
    command = [
        ROOT / "example" / "quickstart.sh",
        f"--max_iter={STEPS}",
        "--warmup=4",
        "--eval_interval=12",
    ]
    environment = os.environ | {"OUT": str(folder)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, quickstart(folder)


def test_training_is_recorded(first):
    lines = (first[0] / "log" / "training.jsonl").read_text().splitlines()
    held_out = [record for line in lines if (record := json.loads(line))["kind"] == "val"]
    assert [record["step"] for record in held_out] == [12, STEPS]
    assert all(0 < record["map_macro"] < 1 for record in held_out)


def test_pictures_are_drawn(first):
    for name in ("curves.png", "predictions.png"):
        with Image.open(first[0] / name) as image:
            assert image.format == "PNG" and min(image.size) > 500


def test_each_held_out_image_has_labels_and_features(first):
    images = (first[0] / "digits" / "val_im_list.txt").read_text().splitlines()
    predictions = (first[0] / "label_pred.txt").read_text()
    assert predictions.count("+++ the predictions of ") == len(images) == 382
    with np.load(first[0] / "features.npz") as features:
        rows = [array for array in features.values() if array.ndim == 2]
        assert [array.shape for array in rows] == [(382, 1024)]
        assert np.isfinite(rows[0]).all() and rows[0].std() > 0


def test_the_closing_table_names_what_was_made(first):
    folder, printed = first
    table = printed[printed.index("what was made") :]
    names = (
        "digits",
        "checkpoint",
        "curves.png",
        "predictions.png",
        "label_pred.txt",
        "features.npz",
    )
    for name in names:
        assert f"{folder}/{name}" in table and (folder / name).exists()
    assert f"at step {STEPS}" in table


def test_a_second_start_finds_everything_done(first):
    folder, printed = first
    kept = sorted(folder.glob("checkpoint/*")) + sorted(folder.glob("*/*.tfrecord"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert "== installing" not in printed
    quickstart(folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
