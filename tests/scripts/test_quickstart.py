"""example/quickstart.sh as a user runs it, and the other scripts on what it made."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow  # its fixtures run whole jobs

ROOT = Path(__file__).resolve().parents[2]
STEPS = 1200
PROMISED_MAP = 0.95


def quickstart(folder: Path) -> str:
    """Runs it into a folder; what it printed."""
    environment = os.environ | {"OUT": str(folder)}
    command = [ROOT / "example" / "quickstart.sh"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def first(tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("quickstart")
    return folder, quickstart(folder)


def test_training_reaches_what_the_script_promises(first):
    lines = (first[0] / "log" / "training.jsonl").read_text().splitlines()
    held_out = [record for line in lines if (record := json.loads(line))["kind"] == "val"]
    assert [record["step"] for record in held_out] == list(range(100, STEPS + 1, 100))
    assert PROMISED_MAP <= held_out[-1]["map_macro"] < 1
    promise = f"Expect: a held-out mAP of at least {PROMISED_MAP}"
    assert promise in (ROOT / "example" / "quickstart.sh").read_text()


def test_images_are_drawn(first):
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


def code_of_page() -> str:
    page = (ROOT / "docs" / "api.md").read_text()
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))


def code_of_notebook() -> str:
    cells = json.loads((ROOT / "docs" / "tour.ipynb").read_text())["cells"]
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def test_the_python_api_works_as_its_page_says(first, tmp_path):
    (tmp_path / "quickstart").symlink_to(first[0])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code_of_page()]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    labels, shape, features, names, metrics, *losses = done.stdout.splitlines()
    assert labels.startswith("[('seven', ") and "odd digit" in labels
    assert (shape, features) == ("(2, 14)", "(2, 1024)")
    assert names == "['even digit', 'odd digit'] 32 multi"
    assert PROMISED_MAP <= float(metrics.split()[0]) < 1
    assert len(losses) == 5 and all(np.isfinite(list(map(float, losses))))


def test_the_tour_runs_from_top_to_bottom(first):
    environment = os.environ | {"OUT": str(first[0]), "MPLBACKEND": "agg"}
    command = [sys.executable, "-c", code_of_notebook()]
    folder = ROOT / "docs"
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "digit_1415.jpg\n    1.000  zero" in done.stdout
    first_losses, last_losses = re.search(r"ten steps (.*), of the last (.*)", done.stdout).groups()
    assert float(last_losses) < 0.7 * float(first_losses)
    assert done.stdout.endswith("(2, 14)\n")


def test_a_second_start_finds_everything_done(first):
    folder, printed = first
    kept = sorted(folder.glob("checkpoint/*")) + sorted(folder.glob("*/*.tfrecords"))
    before = {path: path.stat().st_mtime_ns for path in kept}
    assert "== installing" not in printed
    quickstart(folder)
    assert {path: path.stat().st_mtime_ns for path in kept} == before


@pytest.fixture
def script(first, tmp_path):
    """Runs a script of example/ in an empty folder; it ends well; what it printed."""

    def run(name: str, *arguments: object, **environment: str) -> str:
        command = [ROOT / "example" / name, *map(str, arguments)]
        result = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    return run


@pytest.fixture(scope="module")
def images(first) -> list[Path]:
    digits = first[0] / "digits"
    lines = (digits / "val_im_list.txt").read_text().splitlines()
    return [digits / line.split("\t")[0] for line in lines[:5]]


@pytest.mark.parametrize("name", ["image_classification.sh", "multi_label_classification.sh"])
def test_the_classification_scripts_write_labels_and_a_page(first, script, images, tmp_path, name):
    """The names are the checkpoint's; the released one, which the second is for, has none."""
    script(name, f"--model_dir={first[0]}/checkpoint", *images)
    labels = (tmp_path / "label_pred.txt").read_text()
    assert labels.count("+++ the predictions of ") == len(images)
    assert " digit" in labels
    page = (tmp_path / "label_pred.html").read_text()
    assert all(image.name in page for image in images)


def test_the_feature_script_writes_a_row_a_image(first, script, images, tmp_path):
    script(
        "extract_feature.sh",
        f"--pretrain_ckpt={first[0]}/checkpoint",
        "--result=features.npy",
        *images,
    )
    assert np.load(tmp_path / "features.npy").shape == (len(images), 1024)


def test_the_similarity_script_shows_the_neighbors(first, script, images, tmp_path):
    script(
        "similar_images.sh",
        f"--pretrain_ckpt={first[0]}/checkpoint",
        *images,
        OUT="alike",
        QUERIES=str(images[0]),
    )
    page = (tmp_path / "alike" / "similar.html").read_text()
    assert all(image.name in page for image in images)


def test_the_export_script_checks_each_format(first, script, images, tmp_path):
    printed = script(
        "export.sh",
        f"--model_dir={first[0]}/checkpoint",
        f"--export_dir={tmp_path}/exported",
        *images,
    )
    differences = [float(value) for value in re.findall(r"max difference (\S+)", printed)]
    assert len(differences) >= 2 and max(differences) <= 1e-4
    for name in ("saved_model", "model.onnx", "model.safetensors", "README.md"):
        assert (tmp_path / "exported" / name).exists()


def test_the_evaluation_script_writes_a_report(first, script, tmp_path):
    script(
        "evaluate.sh",
        f"--pretrain_ckpt={first[0]}/checkpoint",
        f"--val_dir={first[0]}/val",
        f"--result={tmp_path}/evaluation",
    )
    reports = list((tmp_path / "evaluation").glob("*.json"))
    assert reports and "map_macro" in reports[0].read_text()
