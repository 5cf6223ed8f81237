"""data/deduplicate.py on a few real photographs: same bytes, same pixels, near, and leaks."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from data import deduplicate
from data.outputs.duplicates import COLUMNS

TRAIN = """cat.png\t3:1\t2:0.9
copy.png\t3:0.5\t1:0.7\t4:-1
cup.jpg\t5:1.0
cat.bmp\t4:0\t2:-1
gone.jpg\t5:1
cat.png\t7:1
broken line\t3:9

dim.png\t5:1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = tmp_path / "images"
    images.mkdir()
    cat, cup = (Image.fromarray(p()) for p in (photographs.chelsea, photographs.coffee))
    cat.save(images / "cat.png")
    cat.save(images / "cat.bmp")
    shutil.copy(images / "cat.png", images / "copy.png")
    cup.save(images / "cup.jpg")
    cup.point(lambda value: value * 0.9).save(images / "dim.png")
    (tmp_path / "train.txt").write_text(TRAIN)
    (tmp_path / "val.txt").write_text("cup.jpg\t5:1\nmoon.jpg\t6:1\ncup.jpg\t5:1\n")
    np.save("all.npy", np.array([[1, 0, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]], np.float32))
    (tmp_path / "all.npy.names.tsv").write_text("cat.png\ncup.jpg\ndim.png\nimages/moon.jpg\n")
    return tmp_path


def run(*arguments):
    given = ["--list", "train.txt", "--images", "images", "--output", "out", "--processes", "1"]
    return deduplicate.main([*given, *arguments])


def report():
    header, *lines = Path("out/duplicates.tsv").read_text().splitlines()
    assert header == "\t".join(COLUMNS)
    return [line.split("\t") for line in lines]


def test_same_bytes_pixels_and_names_are_left_out_within_a_list(folder, capsys):
    assert run() == 0
    assert (folder / "out/train.txt").read_text() == (
        "cat.png\t3:1\t2:0.9\ncup.jpg\t5:1.0\ngone.jpg\t5:1\ndim.png\t5:1\n"
    )
    assert [line[1:] for line in report()] == [
        ["copy.png", "train.txt", "cat.png", "1.0000", "bytes"],
        ["cat.bmp", "train.txt", "cat.png", "1.0000", "pixels"],
        ["cat.png", "train.txt", "cat.png", "1.0000", "name"],
    ]
    said = capsys.readouterr()
    assert "7 rows = 4 kept + 3 left out (1 by name, 1 by bytes, 1 by pixels): out/" in said.out
    assert said.out.endswith("pairs to look at: out/duplicates.html\n")
    assert "train.txt:7: " in said.err and "gone.jpg: No such file" in said.err


def test_bytes_alone_leave_other_formats_in(folder):
    assert run("--hash", "bytes") == 0
    assert [line[1] for line in report()] == ["copy.png", "cat.png"]


def test_labels_of_repeated_images_are_merged(folder, capsys):
    assert run("--merge_labels") == 0
    first, *others = (folder / "out/train.txt").read_text().splitlines()
    assert first.split("\t") == ["cat.png", "3:1", "2:0.9", "1:0.7", "4:0", "7:1"]
    assert others[0] == "cup.jpg\t5:1.0"  # nothing to merge: its text stays
    assert "labels of 1 rows merged" in capsys.readouterr().out


def test_unknown_stays_only_where_nobody_knows(folder):
    (folder / "train.txt").write_text("cat.png\t1:-1\t2:-1\ncopy.png\t1:-1\t2:0\n")
    assert run("--merge_labels") == 0
    assert (folder / "out/train.txt").read_text() == "cat.png\t1:-1\t2:0\n"


def test_a_leak_is_dropped_from_training_and_near_duplicates_with_it(folder, capsys):
    assert run("--val", "val.txt", "--features", "all.npy", "--hash", "pixels") == 0
    assert (folder / "out/val.txt").read_text() == "cup.jpg\t5:1\nmoon.jpg\t6:1\n"
    assert "cup" not in (folder / "out/train.txt").read_text()
    leaks = [line for line in report() if line[0] == "train.txt" and line[2] == "val.txt"]
    assert [line[1:] for line in leaks] == [
        ["cup.jpg", "val.txt", "cup.jpg", "1.0000", "name"],
        ["dim.png", "val.txt", "cup.jpg", "0.9950", "features"],
    ]
    said = capsys.readouterr()
    assert "val.txt: 3 rows = 2 kept + 1 left out (1 by name)" in said.out
    assert (
        "7 rows = 2 kept + 5 left out" in said.out and "; 2 of these repeat the other" in said.out
    )
    assert "3 rows without features" in said.err  # copy.png, cat.bmp, gone.jpg
    assert "rows are left out because their features are alike" in said.err


def test_the_lists_may_have_their_images_in_two_folders(folder):
    (folder / "held_out").mkdir()
    shutil.copy("images/cat.png", "held_out/moon.jpg")
    assert run("--val", "val.txt", "--val_images", "held_out") == 0
    leaks = [line[1:] for line in report() if line[2] == "val.txt" and line[0] == "train.txt"]
    assert ["cat.bmp", "val.txt", "moon.jpg", "1.0000", "pixels"] in leaks


def test_the_validation_list_can_lose_them(folder):
    assert run("--val", "val.txt", "--drop_from", "val", "--hash", "none") == 0
    assert (folder / "out/val.txt").read_text() == "moon.jpg\t6:1\n"
    assert "cup.jpg" in (folder / "out/train.txt").read_text()


def test_what_repeats_a_dropped_image_repeats_the_kept_one(folder):
    """copy.png has the bytes of cat.png, which is near dim.png; copy.png has no features."""
    (folder / "train.txt").write_text("dim.png\t1\ncat.png\t1\ncopy.png\t1\n")
    np.save("all.npy", np.array([[1, 0.1], [1, 0]], np.float32))
    (folder / "all.npy.names.tsv").write_text("images/cat.png\ndim.png\n")
    assert run("--features", "all.npy", "--hash", "bytes") == 0
    assert [line[1:] for line in report()] == [
        ["cat.png", "train.txt", "dim.png", "0.9950", "features"],
        ["copy.png", "train.txt", "dim.png", "0.9950", "features"],
    ]


@pytest.mark.slow
def test_the_page_shows_pairs_with_the_doubtful_first(folder, open_page):
    (folder / "images/<script>x.png").write_bytes((folder / "images/cat.png").read_bytes())
    with (folder / "train.txt").open("a") as file:
        file.write("<script>x.png\t1\n")
    features = "--features", "all.npy", "--hash", "pixels"
    assert run("--val", "val.txt", *features) == 0
    browser = open_page(folder / "out/duplicates.html")
    pairs = browser.find_elements("class name", "pair")
    text = [pair.text for pair in pairs]
    assert "left out: 0.9950, by features\ntrain.txt: dim.png" in text[0]
    assert any("train.txt: <script>x.png" in shown for shown in text)
    images = browser.find_elements("css selector", ".pair img")
    loaded = "return arguments[0].complete && arguments[0].naturalWidth > 0"
    assert all(browser.execute_script(loaded, image) for image in images if image.is_displayed())
    assert len(pairs) == len(report())


def test_the_page_may_be_shorter_than_the_report(folder):
    assert run("--pairs", "1") == 0
    page = (folder / "out/duplicates.html").read_text()
    assert page.count('class="pair"') == 1 and "Within train.txt: 3, 1 of them shown" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "."], "would overwrite train.txt"),
        (["--val", "images/../train.txt"], "are both called train.txt"),
        (["--images", "nowhere"], "no image can be read (cat.png: No such file"),
        (["--features", "other.npy"], "no image of the lists is in --features"),
        (["--list", "none.txt"], "none.txt"),
    ],
)
def test_mistakes_end_in_one_line(folder, capsys, arguments, message):
    np.save("other.npy", np.ones((1, 2), np.float32))
    (folder / "other.npy.names.tsv").write_text("other.jpg\n")
    assert run(*arguments) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error
