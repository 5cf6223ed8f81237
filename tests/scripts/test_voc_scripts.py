"""The recipes for PASCAL VOC, from a tiny VOCdevkit to their metrics."""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from dense_folders import mask, photo, save, voc_folder, write, xml

ROOT = Path(__file__).resolve().parents[2]
SMALL = ("--resnet_size=14", "--width=4", "--max_iter=2", "--pretrain_ckpt=")


def run(tmp_path, script: str, *flags: str, **variables: str) -> str:
    """A recipe's output, run where VOCdevkit is."""
    command = [ROOT / "example" / script, *SMALL, *flags]
    done = subprocess.run(
        command, cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_detection_trains_on_both_years_and_measures_on_the_test_set(tmp_path):
    texts = {f"{name}{n}": xml([("cat", 5, 5, 40, 35)]) for n in range(2) for name in "ab"}
    for year, split in (("VOC2007", "trainval"), ("VOC2012", "trainval")):
        mine = {f"{year}{name}": text for name, text in texts.items()}
        voc_folder(tmp_path / "VOCdevkit" / year, mine, split)
    voc_folder(tmp_path / "VOCdevkit/VOC2007", {"t0": xml([("dog", 5, 5, 40, 35)])}, "test")
    flags = "--min_side=48", "--max_side=64", "--anchor_scales=1,2", "--regions=8"
    output = run(tmp_path, "detect_voc2007.sh", *flags, "--proposals=20", TRAIN="07+12")
    assert "8 records" in output
    assert re.search(r"step 2  val .*voc07_ap [\d.]+", output)
    assert (tmp_path / "out/detect_voc07+12/model/model.ckpt-2.index").exists()


@pytest.mark.slow
def test_segmentation_trains_and_measures_on_the_val_set(tmp_path):
    voc = tmp_path / "VOCdevkit/VOC2012"
    values = np.zeros((40, 60), int)
    values[10:30, 10:30] = 8
    for name in ("a", "b", "v"):
        save(voc / f"JPEGImages/{name}.jpg", photo(60, 40, ord(name)))
        write(voc / f"SegmentationClass/{name}.png", mask(values))
    write(voc / "ImageSets/Segmentation/train.txt", "a\nb\n")
    write(voc / "ImageSets/Segmentation/val.txt", "v\n")
    flags = "--crop_size=33", "--aspp_filters=8", "--aspp_rates=1,2", "--batch_size=2"
    output = run(tmp_path, "segment_voc2012.sh", *flags, "--global_batch=2")
    assert "2 records" in output and "changed since the checkpoint" not in output
    assert re.search(r"^miou: [\d.]+$", output, re.MULTILINE)


def test_another_train_set_is_refused(tmp_path):
    done = subprocess.run(
        [ROOT / "example/detect_voc2007.sh"],
        cwd=tmp_path,
        env=os.environ | {"TRAIN": "08"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and "TRAIN=08: use 07 or 07+12" in done.stderr
