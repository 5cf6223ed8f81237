"""From scores to labels, the files they are written to, and the script from end to end."""

import csv
import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from skimage import data as photographs

from data.common.command import INTERRUPTED
from data.common.errors import UserError
from data.input.image_batches import to_image
from data.lists.hierarchy import Hierarchy
from data.outputs.prediction_files import FORMATS
from data.outputs.prediction_html import heated
from data.outputs.predictions import Label, LabelSelector, Prediction
from data.outputs.result_files import ShardWriter, choose_format
from models.devices import DeviceOptions
from models.prediction import image_job
from models.prediction.inference import NetworkOptions

# 0 thing > 1 animal > 2 cat, 3 dog;  4 tool, a root of its own
TREE = "index\tid\tparent\tname\n0\tr\t-1\tthing\n1\ta\t0\tanimal\n2\tc\t1\tcat, tabby\n"
TREE += "3\td\t1\tdog\n4\tt\t-1\ttool\n"
SCORES = np.array([0.9, 0.8, 0.7, 0.2, 0.6], np.float32)


@pytest.fixture
def hierarchy(tmp_path):
    (tmp_path / "tree.txt").write_text(TREE)
    return Hierarchy.read(tmp_path / "tree.txt")


@pytest.fixture
def photos(tmp_path):
    """A cat, a gray photograph and a broken file, in that order."""
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.fromarray(photographs.chelsea()).save(folder / "a cat.jpg")
    Image.fromarray(photographs.camera()).save(folder / "gray.png")
    (folder / "torn.jpg").write_bytes((folder / "a cat.jpg").read_bytes()[:5000])
    return folder


def chosen(labels, scores=SCORES):
    return [label.index for label in labels.choose(scores)]


def at(threshold, classes=5):
    return np.full(classes, threshold, np.float32)


def test_the_best_classes_come_first_and_equals_by_index(hierarchy):
    assert chosen(LabelSelector(hierarchy.names, 3, at(0))) == [0, 1, 2]
    ties = np.array([0.1, 0.5, 0.5, 0.5, 0.2], np.float32)
    assert chosen(LabelSelector(hierarchy.names, 2, at(0)), ties) == [1, 2]


def test_a_threshold_counts_what_reaches_it(hierarchy):
    assert chosen(LabelSelector(hierarchy.names, 9, at(0.7))) == [0, 1, 2]
    per_class = np.array([1, 0, 0.71, 0.1, 0.7], np.float32)
    assert chosen(LabelSelector(hierarchy.names, 9, per_class)) == [1, 3]
    assert chosen(LabelSelector(hierarchy.names, 9, at(0.95))) == []


def test_only_the_most_specific_labels_on_request(hierarchy):
    labels = LabelSelector(hierarchy.names, 9, at(0.5), "specific", hierarchy)
    assert chosen(labels) == [2, 4]  # cat for animal and thing; tool stands alone
    assert chosen(labels, np.array([0.9, 0.8, 0.1, 0.1, 0.1], np.float32)) == [1]


def test_paths_lead_from_the_root_to_the_label(hierarchy):
    labels = LabelSelector(hierarchy.names, 3, at(0.65), "path", hierarchy)
    assert [label.name for label in labels.choose(SCORES)] == [
        "thing",
        "thing > animal",
        "thing > animal > cat, tabby",
    ]


def test_what_needs_a_hierarchy_or_a_threshold_says_so(hierarchy):
    with pytest.raises(UserError, match="--dictionary"):
        LabelSelector(hierarchy.names, 5, at(0.5), "path")
    with pytest.raises(UserError, match="--threshold"):
        LabelSelector(hierarchy.names, 5, at(0), "specific", hierarchy)


SHARK = Label(2, "great white shark, man-eater", 0.61253)
ROWS = [
    Prediction("a\n.jpg", "7", (SHARK, Label(0, "x", 0.1))),
    Prediction(os.fsdecode(b"caf\xe9.jpg"), os.fsdecode(b"th\xe9"), (), "truncated"),
    Prediction("none.jpg", "", ()),
]


def written(tmp_path, suffix):
    chosen_format = choose_format(FORMATS, f"x{suffix}")
    body, result = tmp_path / "body", tmp_path / f"x{suffix}"
    body.write_bytes(chosen_format.header + b"".join(map(chosen_format.encode, ROWS)))
    chosen_format.finish(body, result)
    return result


def test_the_released_text_to_the_letter(tmp_path):
    assert written(tmp_path, ".txt").read_bytes() == (
        b"+++ the predictions of a\\n.jpg is:\n"
        b"2 great white shark, man-eater: 0.613\n"
        b"0 x: 0.100\n"
        b"+++ the predictions of caf\xe9.jpg is:\n"
        b"unreadable: truncated\n"
        b"+++ the predictions of none.jpg is:\n"
    )


def test_csv_and_json_lines_hold_every_image(tmp_path):
    with open(written(tmp_path, ".csv"), newline="", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [(r["image"], r["rank"], r["index"], r["probability"]) for r in rows] == [
        ("a\n.jpg", "1", "2", "0.612530"),
        ("a\n.jpg", "2", "0", "0.100000"),
        (ROWS[1].image, "", "", ""),
        ("none.jpg", "", "", ""),
    ]
    lines = [json.loads(line) for line in written(tmp_path, ".jsonl").read_text().splitlines()]
    assert [line["image"] for line in lines] == [row.image for row in ROWS]
    assert [line["problem"] for line in lines] == [None, "truncated", None]
    assert lines[0]["predictions"][1] == {"index": 0, "name": "x", "probability": 0.1}


def test_parquet_holds_every_image(tmp_path):
    rows = pq.read_table(written(tmp_path, ".parquet")).to_pylist()
    assert [row["image"] for row in rows] == ["a\n.jpg", "caf?.jpg", "none.jpg"]
    assert rows[0]["predictions"][0]["name"] == "great white shark, man-eater"
    assert (rows[1]["label"], rows[1]["problem"]) == ("th?", "truncated")
    assert rows[1]["predictions"] == []


def test_an_unknown_suffix_names_the_known_ones():
    with pytest.raises(UserError, match=r"\.txt, \.csv, \.jsonl, \.parquet"):
        choose_format(FORMATS, "x.xml")


@pytest.mark.slow
def test_the_script_labels_photographs_and_reports_the_broken_one(
    call_script, thin_checkpoint, photos, tmp_path
):
    (tmp_path / "names.txt").write_text("".join(f"{c}\tname of {c}\n" for c in range(11)))
    common = ["image_classification.py", photos, "--dictionary=names.txt", "--top_k_pred=2"]
    assert call_script(*common, f"--model_dir={thin_checkpoint}") == 0
    lines = (tmp_path / "label_pred.txt").read_text().splitlines()
    heads = [i for i, line in enumerate(lines) if line.startswith("+++")]
    names = ("a cat.jpg", "gray.png", "torn.jpg")
    assert [lines[i] for i in heads] == [
        f"+++ the predictions of {photos}/{name} is:" for name in names
    ]
    assert heads == [0, 3, 6]
    assert all(re.fullmatch(r"\d+ name of \d+: 0\.\d{3}", line) for line in lines[1:3])
    assert lines[7].startswith("unreadable: ")
    # Both flags name the checkpoint; --strict turns the broken image into the exit code.
    strict = [*common, "--strict", f"--pretrain_ckpt={thin_checkpoint}", "--result=again.txt"]
    assert call_script(*strict) == 1
    assert (tmp_path / "again.txt").read_text().splitlines() == lines


@pytest.mark.slow
def test_multi_label_probabilities_stand_each_on_its_own(
    call_script, thin_checkpoint, photos, tmp_path
):
    arguments = ["image_classification.py", photos, f"--model_dir={thin_checkpoint}"]
    arguments += ["--top_k_pred=11", "--ten_crop"]
    totals = []
    for mode in ("single", "multi"):
        call_script(*arguments, f"--label_mode={mode}", f"--result={mode}.jsonl")
        rows = [json.loads(line) for line in (tmp_path / f"{mode}.jsonl").open()]
        totals.append([sum(p["probability"] for p in row["predictions"]) for row in rows[:2]])
    assert totals[0] == pytest.approx([1, 1], abs=1e-4)
    assert all(abs(total - 1) > 0.1 for total in totals[1])


@pytest.mark.parametrize("suffix", ["html", "png"])
def test_the_page_shows_images_with_their_labels(
    call_script, thin_checkpoint, photos, tmp_path, suffix
):
    call_script("image_classification.py", photos, f"--model_dir={thin_checkpoint}",
                f"--page=page.{suffix}", "--page_images=2")  # fmt: skip
    if suffix == "png":
        assert Image.open(tmp_path / "page.png").width > 2 * 224
        return
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2
    assert "a cat.jpg" in page
    assert "class " in page


@pytest.mark.slow
def test_heat_maps_are_next_to_the_images(call_script, thin_checkpoint, photos, tmp_path):
    arguments = [photos, f"--model_dir={thin_checkpoint}", "--page_images=3", "--explain=2"]
    call_script("image_classification.py", *arguments, "--ten_crop", "--page=page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * 3 + 1  # the third is unreadable
    assert page.count("why class ") == 2 * 2
    call_script("image_classification.py", *arguments, "--page=page.png")
    sheet = Image.open(tmp_path / "page.png")
    assert sheet.width > 6 * 224  # two images a row, each with its heat maps


def test_hot_places_are_red_on_gray():
    image = Image.new("RGB", (2, 1), (10, 200, 30))
    cold, hot = np.asarray(heated(image, np.array([[0.0, 1.0]])))[0].astype(int)
    assert len(set(cold)) == 1
    assert hot[0] > 180 and hot[2] < 60


@pytest.mark.slow
@pytest.mark.parametrize("done", [1, 3])
def test_the_page_of_a_resumed_run_is_that_of_an_undisturbed_one(
    call_script, thin_checkpoint, photos, tmp_path, monkeypatch, done
):
    arguments = ["image_classification.py", photos, f"--model_dir={thin_checkpoint}"]
    arguments += ["--page_images=2", "--batch_size=1"]
    call_script(*arguments, "--result=whole.txt", "--page=whole.html")
    append, batches = ShardWriter.append, itertools.count(1)

    def append_until_interrupted(*arguments):
        append(*arguments)
        if next(batches) == done:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ShardWriter, "append", append_until_interrupted)
        assert call_script(*arguments, "--page=page.html") == INTERRUPTED
    reports = map(Path.read_text, tmp_path.glob("label_pred.txt.partial/*.json"))
    assert sum(json.loads(report)["items"] for report in reports) == done
    assert call_script(*arguments, "--page=page.html") == 0
    for name in ("page.html", "label_pred.txt"):
        whole = tmp_path / name.replace("label_pred", "whole").replace("page", "whole")
        assert (tmp_path / name).read_bytes() == whole.read_bytes()


@pytest.mark.slow
def test_two_processes_under_mpirun_make_the_files_of_one(
    call_script, thin_checkpoint, photos, tmp_path
):
    """One batch in all: one process has no image, and yet header and page are there."""
    arguments = [photos, f"--model_dir={thin_checkpoint}", "--page_images=2"]
    mpirun = [Path(sys.executable).with_name("mpirun"), "--allow-run-as-root", "--oversubscribe"]
    script = [sys.executable, Path(__file__).parents[2] / "image_classification.py", *arguments]
    command = [*mpirun, "-np", 2, *script, "--result=two.csv", "--page=two.png"]
    subprocess.run(list(map(str, command)), cwd=tmp_path, check=True, timeout=120)
    call_script("image_classification.py", *arguments, "--result=one.csv", "--page=one.png")
    one, two = (list(csv.reader((tmp_path / f"{name}.csv").open())) for name in ("one", "two"))
    assert [row[:3] for row in two] == [row[:3] for row in one]
    assert two[0][0] == "image"
    assert Image.open(tmp_path / "two.png").size == Image.open(tmp_path / "one.png").size


@pytest.mark.parametrize(("size", "local_rank", "gpu"), [(1, 0, 1), (2, 0, 0), (2, 1, 1)])
def test_each_of_several_processes_has_a_gpu_of_its_own(
    thin_checkpoint, monkeypatch, size, local_rank, gpu
):
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", str(size))
    monkeypatch.setenv("OMPI_COMM_WORLD_RANK", str(local_rank))
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_RANK", str(local_rank))
    taken = Mock()
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [0, 1])
    monkeypatch.setattr(tf.config, "set_visible_devices", taken)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", Mock())
    image_job.load(str(thin_checkpoint), NetworkOptions(), DeviceOptions(visiable_gpu="1"))
    taken.assert_called_once_with(gpu, "GPU")


def test_a_crop_is_shown_in_the_colors_of_its_image():
    crop = np.array([[[-1, 0, 1], [-1.01, 200 / 127.5 - 1, 1.01]]], np.float32)
    assert np.asarray(to_image(crop)).tolist() == [[[0, 128, 255], [0, 200, 255]]]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--class_num=1000", "11 classes, --class_num is 1000"),
        ("--resnet_size=101", "depth 14, --resnet_size is 101"),
        ("--result=x.xml", "must end in"),
        ("--explain=1", "--explain needs --page"),
        ("--page=x.gif", "must end in .html or .png"),
        ("--show_labels=path", "--dictionary"),
        ("--images=gone", "gone: no such file"),
        ("--data_format=NCHW", "needs a GPU"),
    ],
)
def test_mistakes_end_in_one_line(call_script, thin_checkpoint, photos, capsys, flag, message):
    arguments = [f"--model_dir={thin_checkpoint}", photos, flag]
    assert call_script("image_classification.py", *arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert message in errors[0]
