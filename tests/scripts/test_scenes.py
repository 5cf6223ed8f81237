"""example/scenes.sh as a user runs it: both tasks reach what it promises, on held-out scenes."""

import json
import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # its fixture trains three networks, some ten minutes

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "example" / "scenes.sh"
PROMISED_AP, PROMISED_MIOU = 0.8, 0.8
HELD_OUT = 100


def scenes(folder: Path) -> str:
    """Runs it into a folder; what it printed."""
    environment = os.environ | {"OUT": str(folder)}
    result = subprocess.run([SCRIPT], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert "== done in" in scenes(folder)
    return folder


def test_detection_reaches_what_the_script_promises(folder):
    lines = (folder / "log" / "detector" / "training.jsonl").read_text().splitlines()
    held_out = [record for line in lines if (record := json.loads(line))["kind"] == "val"]
    assert PROMISED_AP <= held_out[-1]["voc_ap"] < 1
    promise = f"AP of at least {PROMISED_AP} (IoU 0.5) and an mIoU of at least {PROMISED_MIOU};"
    assert promise in SCRIPT.read_text().replace("\n# ", " ")


def test_segmentation_reaches_what_the_script_promises(folder):
    found = re.search(r"miou: (\S+)", (folder / "masks_evaluation.txt").read_text())
    assert PROMISED_MIOU <= float(found[1]) < 1


def test_held_out_scenes_are_predicted_and_drawn(folder):
    found = json.loads((folder / "detections.json").read_text())
    assert len(found["images"]) == HELD_OUT and len(found["categories"]) == 5
    sure = [row for row in found["annotations"] if row["score"] > 0.5]
    assert HELD_OUT < len(sure) < 4 * HELD_OUT
    lines = (folder / "masks.jsonl").read_text().splitlines()
    masks = [Path(json.loads(line)["found"]["mask"]) for line in lines]
    assert len(masks) == HELD_OUT
    assert 3 <= len(np.unique(np.asarray(Image.open(masks[0])))) <= 6
    for name in ("drawn_boxes", "drawn_masks"):
        drawn = list((folder / name).rglob("*.jpg"))
        assert len(drawn) == HELD_OUT
        with Image.open(drawn[0]) as image:
            assert image.size == (160, 160)


def test_a_second_start_finds_everything_done(folder):
    kept = [*folder.glob("*/model.ckpt*"), *folder.glob("*/*/*.tfrecords")]
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert before
    scenes(folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == before
