"""segment.py from records to masks: training, evaluation, prediction."""

import json
import re

import numpy as np
import pytest
from dense_folders import convert, mask, photo, save, write
from PIL import Image

SIZES = ("--resnet_size=14", "--width=4", "--crop_size=33", "--aspp_filters=8", "--aspp_rates=1,2")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of six images whose left half is a cat, with a border that is ignored."""
    root = tmp_path_factory.mktemp("masks")
    values = np.zeros((40, 60), int)
    values[:, :30], values[:, 29:31] = 1, 255
    for number in range(6):
        save(root / f"images/{number}.jpg", photo(60, 40, number))
        write(root / f"masks/{number}.png", mask(values))
    names = root / "names.txt"
    names.write_text("background\ncat\n")
    sources = "--masks", root / "masks", "--images", root / "images", "--classes", names
    assert convert(root / "records", *sources) == 0
    return root / "records"


@pytest.mark.slow
def test_trains_evaluates_and_predicts(call_script, records, tmp_path, capsys):
    shared = f"--data_dir={records}", "--model_dir=run", "--log_dir=run/log", *SIZES
    schedule = "--batch_size=3", "--max_iter=3", "--lr=0.01", "--batch_norm_decay=0.5"
    held_out = (f"--val_dir={records}",)
    assert call_script("segment.py", "--mode=train", *shared, *schedule, *held_out) == 0
    capsys.readouterr()
    measured = {}
    for stride in ("16", "8"):
        flags = "--mode=val", f"--output_stride={stride}", "--test_scales=1,1.5", "--test_flip"
        assert call_script("segment.py", *flags, "--model_dir=run", *held_out) == 0
        printed = capsys.readouterr().out
        measured[stride] = dict(re.findall(r"(\w+): ([\d.]+)", printed))
        assert re.search(r"^class +pixels +iou$\s^background +\d+ +\S+$", printed, re.MULTILINE)
        assert {"miou", "pixel_accuracy", "mean_accuracy"} <= measured[stride].keys()

    save(tmp_path / "own/a.jpg", photo(51, 70, 3))
    (tmp_path / "own/bad.jpg").write_bytes(b"no image")
    places = "--result=list.jsonl", "--masks_dir=masks", "--draw_dir=drawn"
    assert call_script("segment.py", "--model_dir=run", *places, "own") == 0
    rows = [json.loads(line) for line in (tmp_path / "list.jsonl").open()]
    assert [row["image"] for row in rows] == ["own/a.jpg", "own/bad.jpg"]
    assert rows[1]["found"] is None and rows[1]["problem"]
    made = Image.open(tmp_path / rows[0]["found"]["mask"])
    assert made.mode == "P" and made.size == (51, 70)
    values = np.asarray(made)
    pixels = {name: int((values == k).sum()) for k, name in enumerate(["background", "cat"])}
    assert rows[0]["found"]["pixels"] == {name: n for name, n in pixels.items() if n}
    assert made.getpalette()[:9] == [0, 0, 0, 128, 0, 0, 0, 128, 0]
    assert Image.open(tmp_path / "drawn/own/a.jpg.jpg").size == (51, 70)
