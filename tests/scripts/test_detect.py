"""detect.py from records to drawn boxes: training, resume, evaluation, prediction, bad input."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from dense_folders import convert, photo, save, voc_folder, xml
from PIL import Image

from data.common.command import INTERRUPTED
from data.outputs.result_files import ShardWriter
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--resnet_size=14", "--width=4", "--min_side=48", "--max_side=64")
HEADS = ("--anchor_scales=0.5,1,2", "--rpn_channels=8", "--rpn_samples=16", "--regions=16")
PROPOSALS = ("--proposals=40", "--test_proposals=20")
SIZES = (*NETWORK, *HEADS, *PROPOSALS)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Records of eight images with a cat or a dog each, and one difficult object."""
    root = tmp_path_factory.mktemp("voc")
    boxes = [("cat", 5, 5, 25, 25), ("dog", 30, 10, 58, 38), ("dog", 1, 1, 9, 9, True)]
    texts = {f"i{n}": xml(boxes[n % 2 : n % 2 + 2]) for n in range(8)}
    names = root / "names.txt"
    names.write_text("cat\ndog\n")
    voc = voc_folder(root / "voc", texts)
    assert convert(root / "records", "--voc", voc, "--split", "trainval", "--classes", names) == 0
    return root / "records"


def train(call_script, records, steps, *more):
    data = f"--data_dir={records}", "--model_dir=run", "--log_dir=run/log"
    return call_script(
        "detect.py", "--mode=train", *data, *SIZES, f"--max_iter={steps}", "--lr=0.01", *more
    )


@pytest.mark.slow
def test_trains_resumes_evaluates_and_predicts(call_script, records, tmp_path, capsys):
    schedule = "--batch_size=2", "--snapshot=2", "--trainable=detection/*,stages_3_*"
    assert train(call_script, records, 4, *schedule) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/log/training.jsonl").open()]
    parts = {"loss_rpn_objectness", "loss_rpn_boxes", "loss_region_classes", "loss_region_boxes"}
    assert parts <= rows[-1].keys() or any(parts <= row.keys() for row in rows)
    weights = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("*-4.data*")}
    for path in (tmp_path / "run").glob("*-4.*"):
        path.unlink()
    assert train(call_script, records, 4, *schedule) == 0
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "run").glob("*-4.data*")
    } == weights
    capsys.readouterr()
    # Sizes of the network and of its images are those of the checkpoint.
    shared = f"--val_dir={records}", "--model_dir=run", *PROPOSALS
    assert call_script("detect.py", "--mode=val", *shared) == 0
    printed = capsys.readouterr().out
    found = dict(re.findall(r"(\w+): ([\d.]+)", printed))
    assert {"voc07_ap", "voc_ap"} <= found.keys()
    by_class = {line.split()[0]: line.split()[1:] for line in printed.splitlines() if line}
    assert by_class["class"] == ["objects", "voc07_ap", "voc_ap"]
    aps = [float(by_class[name][2]) for name in ("cat", "dog")]
    assert np.mean(aps) == pytest.approx(float(found["voc_ap"]), abs=1e-5)

    save(tmp_path / "own/a.jpg", photo(90, 60, 3))
    save(tmp_path / "own/b.png", photo(30, 120, 4))
    (tmp_path / "own/bad.jpg").write_bytes(b"no image")
    flags = "--model_dir=run", "--result=found.json", "--draw_dir=drawn", "--draw_threshold=0"
    assert call_script("detect.py", *flags, *PROPOSALS, "own") == 0
    document = json.loads((tmp_path / "found.json").read_text())
    assert [c["name"] for c in document["categories"]] == ["cat", "dog"]
    images = {image["file_name"]: image for image in document["images"]}
    assert images.keys() == {"own/a.jpg", "own/b.png", "own/bad.jpg"}
    assert (images["own/b.png"]["width"], images["own/b.png"]["height"]) == (30, 120)
    assert "problem" in images["own/bad.jpg"] and "problem" not in images["own/a.jpg"]
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}
    assert document["annotations"]
    for found in document["annotations"]:
        x, y, width, height = found["bbox"]
        right, bottom = sizes[found["image_id"]]
        assert -0.01 <= x <= x + width <= right + 0.01
        assert -0.01 <= y <= y + height <= bottom + 0.01
        assert found["category_id"] in (1, 2) and 0 <= found["score"] <= 1
    drawn = np.asarray(Image.open(tmp_path / "drawn/own/b.png.jpg"))
    assert drawn.shape == (120, 30, 3)
    assert not (tmp_path / "drawn/own/bad.jpg.jpg").exists()


def tensors(folder: Path) -> dict[str, np.ndarray]:
    reader = checkpoint.read(checkpoint.find(folder))
    return {name: reader.tensor(name) for name in reader.shapes}


@pytest.mark.slow
def test_a_killed_run_ends_bit_for_bit_where_the_straight_one_does(records, tmp_path):
    def command(folder: Path) -> list[str]:
        data = f"--data_dir={records}", f"--model_dir={folder}", f"--log_dir={folder}/log"
        schedule = "--max_iter=12", "--snapshot=4", "--lr=0.01", "--batch_size=2"
        flags = "--mode=train", "--deterministic", *data, *SIZES, *schedule
        return [sys.executable, str(ROOT / "detect.py"), *flags]

    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert subprocess.run(command(straight)).returncode == 0
    process = subprocess.Popen(command(killed))
    while not (killed / "model.ckpt-4.index").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.ckpt-12.index").exists()
    resumed = subprocess.run(command(killed), capture_output=True, text=True)
    assert resumed.returncode == 0 and "resuming" in resumed.stderr, resumed.stderr
    one, other = tensors(straight), tensors(killed)
    assert one.keys() == other.keys() and int(one["global_step"]) == 12
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@pytest.mark.slow
def test_an_interrupted_prediction_ends_in_the_same_file(
    call_script, records, tmp_path, monkeypatch
):
    assert train(call_script, records, 1, "--batch_size=1") == 0
    for number in range(4):
        save(tmp_path / f"own/{number}.jpg", photo(60, 40 + number, number))
    flags = "--model_dir=run", *PROPOSALS, "own"
    assert call_script("detect.py", *flags, "--result=whole.json") == 0
    append, appended = ShardWriter.append, []

    def append_until_interrupted(*arguments):
        append(*arguments)
        appended.append(arguments)
        if len(appended) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", append_until_interrupted)
        assert call_script("detect.py", *flags, "--result=cut.json") == INTERRUPTED
    assert not (tmp_path / "cut.json").exists()
    assert call_script("detect.py", *flags, "--result=cut.json") == 0
    assert (tmp_path / "cut.json").read_bytes() == (tmp_path / "whole.json").read_bytes()


@pytest.mark.slow
def test_mistakes_are_one_line(run_script, records, tmp_path):
    for arguments, message in {
        ("--mode=train", f"--data_dir={records}", "--anchor_scales=8,x"): (
            "--anchor_scales=8,x: use numbers above 0"
        ),
        ("--mode=train", f"--data_dir={tmp_path}"): "no record files",
        ("--model_dir=none", "image.jpg"): "no checkpoint",
        ("--image_size=224", "image.jpg"): "detect.py does not read --image_size",
        ("--result=x.txt", "image.jpg"): "must end in .json, .jsonl",
    }.items():
        done = run_script("detect.py", *arguments)
        assert done.returncode == 1
        assert message in done.stderr.splitlines()[-1], done.stderr
        assert "Traceback" not in done.stderr
