"""Sources of images: what they hold, in what order, and what is said of those that hold none."""

import io
import os
import sys
from collections import Counter

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.input import image_source
from data.input.image_source import LoadError, count, images
from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter


def png(shade):
    buffer = io.BytesIO()
    Image.new("L", (4, 4), shade).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """b.png, a/c.PNG, `a/with blank.png` and a text file, in the working folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    for shade, name in enumerate(("b.png", "a/c.PNG", "a/with blank.png")):
        (tmp_path / name).write_bytes(png(shade))
    (tmp_path / "notes.txt").write_text("b.png\n")
    return tmp_path


def names(*sources, **span):
    return [image.name for image in images(sources, **span)]


def test_a_folder_gives_its_images_in_order_of_path(folder):
    assert names(".") == ["./a/c.PNG", "./a/with blank.png", "./b.png"]


def test_files_skipped_in_a_folder_are_counted(folder):
    for name in ("a/x.heic", "a/y.HEIC", "README", "a/z.avif", "w.mpo"):
        (folder / name).write_bytes(b"")
    skipped = Counter()
    assert count(["."], skipped) == 5
    assert skipped == {".heic": 2, ".txt": 1, "README": 1}


def test_files_and_globs_keep_the_order_in_which_they_are_given(folder):
    assert names("b.png", "a/*") == ["b.png", "a/c.PNG", "a/with blank.png"]
    assert names("**/*.png") == ["a/with blank.png", "b.png"]


def test_a_file_whose_name_looks_like_a_glob_is_a_file(folder):
    (folder / "x[1].png").write_bytes(png(9))
    assert names("x[1].png") == ["x[1].png"]


def test_a_image_without_a_suffix_is_told_from_a_list_by_its_bytes(folder):
    (folder / "b.png").rename("image")
    assert names("image") == ["image"]


def test_a_list_gives_paths_and_labels(folder):
    rows = ["\ufeffb.png 7", "a/c.PNG\tn01  3:1   4:0.5\r", "", "a/with blank.png", "b.png"]
    (folder / "list.txt").write_text("\n".join(rows))
    found = list(images(["list.txt"]))
    assert [(p.name, p.label) for p in found] == [
        ("b.png", "7"),
        ("a/c.PNG", "n01 3:1 4:0.5"),
        ("a/with blank.png", ""),
        ("b.png", ""),
    ]
    assert [p.load().data for p in found] == [png(0), png(1), png(2), png(0)]


def test_paths_of_a_list_are_also_looked_for_beside_it(folder, monkeypatch):
    (folder / "list.txt").write_text("b.png\n")
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    (found,) = images(["../list.txt"])
    assert (found.name, found.load().data) == ("b.png", png(0))


def test_names_that_are_not_utf8_go_through_unharmed(folder):
    raw = b"caf\xe9.png"
    with open(raw, "wb") as file:
        file.write(png(5))
    (folder / "list.txt").write_bytes(raw + b"\n")
    (found,) = images(["list.txt"])
    assert os.fsencode(found.name) == raw
    assert found.load().data == png(5)


def test_standard_input_is_a_list(folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"b.png\t7\na/c.PNG\n")))
    assert [(p.name, p.label) for p in images(["-"])] == [("b.png", "7"), ("a/c.PNG", "")]


def test_records_give_their_own_names_and_labels(folder):
    examples = [
        encode_example("sparse", png(1), "one.png", 4, 4, [3, 5], [1.0, 0.5]),
        encode_example("single", png(2), "two.png", 4, 4, [8]),
        encode_example("dense", png(3), "three.png", 4, 4, [2], [0.25], class_num=4),
    ]
    with RecordWriter(folder / "x.tfrecord") as writer:
        for example in examples:
            writer.write(example)
    loaded = [image.load() for image in images(["x.tfrecord"])]
    assert [(p.name, p.label) for p in loaded] == [
        ("one.png", "3:1 5:0.5"),
        ("two.png", "8"),
        ("three.png", "2:0.25"),
    ]
    assert [p.data for p in loaded] == [png(1), png(2), png(3)]


def test_all_labels_of_a_record_are_named(folder):
    """As other programs write them: integers, or vectors, the first of which training reads."""
    vectors = [np.array(v, "<f4").tobytes() for v in ([0, 1, 0.5], [1, 0, 0])]
    labels = [{"int64_list": {"value": [3, 70000000]}}, {"bytes_list": {"value": vectors}}]
    with RecordWriter(folder / "x.tfrecord") as writer:
        for label in labels:
            example = tf.train.Example()
            example.features.feature["image"].bytes_list.value.append(png(1))
            example.features.feature["label"].CopyFrom(tf.train.Feature(**label))
            writer.write(example.SerializeToString())
    found = [image.load().label for image in images(["x.tfrecord"])]
    assert found == ["3 70000000", "1:1 2:0.5"]


def test_a_damaged_record_is_one_unreadable_image(folder):
    with RecordWriter(folder / "x.tfrecord") as writer:
        for shade in range(2):
            writer.write(encode_example("single", png(shade), f"{shade}.png", 4, 4, [shade]))
    data = bytearray((folder / "x.tfrecord").read_bytes())
    data[40] ^= 1
    (folder / "x.tfrecord").write_bytes(data)
    bad, good = images(["x.tfrecord"])
    assert bad.name == "x.tfrecord:0"
    with pytest.raises(LoadError, match="CRC"):
        bad.load()
    assert good.load().name == "1.png"


def test_spans_of_the_images_join_without_gap(folder):
    everything = names("b.png", "a", "b.png")
    assert len(everything) == count(["b.png", "a", "b.png"]) == 4
    spans = [names("b.png", "a", "b.png", start=s, stop=s + 2) for s in (0, 2)]
    assert spans[0] + spans[1] == everything


def test_what_cannot_be_read_is_one_line_about_one_image(folder):
    (folder / "empty.png").touch()
    os.mkfifo(folder / "pipe.png")  # to open it would be to wait for ever
    (folder / "list.txt").write_text("gone.png\na\npipe.png\nempty.png\n")
    problems = []
    for image in images(["list.txt"]):
        try:
            problems.append(image.load().data)
        except LoadError as error:
            problems.append(str(error))
    assert problems == ["No such file or directory", "is a folder", "not a file", b""]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([], "--images"),
        (["gone.txt"], "gone.txt: no such file"),
        (["*.bmp"], r"\*.bmp: no such file"),
        (["empty"], "empty: no images"),
        (["binary"], "binary:1: a zero byte"),
        (["long"], "long:1: too long"),
    ],
)
def test_sources_without_images_are_refused_by_name(folder, monkeypatch, sources, message):
    (folder / "empty").mkdir()
    (folder / "binary").write_bytes(b"x" * 2000 + b"\0\n")
    (folder / "long").write_bytes(b"x" * 2000)
    monkeypatch.setattr(image_source, "MAX_LINE_BYTES", 1999 if "long" in sources else 9999)
    with pytest.raises(UserError, match=message):
        names(*sources)


def test_standard_input_cannot_be_shared():
    with pytest.raises(UserError, match="standard input"):
        count(["-"])
