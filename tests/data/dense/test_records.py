"""Records with boxes or masks: round trip, refusals, and the script that writes them."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from dense_folders import bad_rows, coco_file, convert, mask, photo, save, voc_folder, write, xml

from data import dense_records
from data.common import mirror
from data.common.errors import UserError
from data.common.images import Jpeg
from data.dense.annotation import Annotation, read_class_names
from data.dense.records import (
    classes_of_records,
    decode_boxes,
    decode_dense,
    decode_mask,
    encode_dense,
    write_class_names,
)
from data.tfrecords.examples import decode_example, decode_labels, encode_example
from data.tfrecords.record_source import RecordSource
from data.tfrecords.records import RecordError

BOXES = np.array([[0, 1.5, 20, 30.25], [1, 2, 3, 4]], np.float32)
NONE = np.zeros(0, np.int64)


def with_boxes(boxes=BOXES, classes=(3, 0), difficult=(0, 1)):
    arrays = np.asarray(boxes, np.float32), np.array(classes, int), np.array(difficult, int)
    return Annotation(sorted(set(classes)), *arrays)


def features(annotation=None):
    return decode_example(encode_dense("ä.jpg", Jpeg(b"jpeg", 40, 30), annotation or with_boxes()))


def test_boxes_come_back():
    sample = decode_dense(features(), 4)
    assert (sample.image, sample.name, sample.mask) == (b"jpeg", "ä.jpg".encode(), None)
    assert sample.boxes.tolist() == BOXES.tolist()
    assert sample.classes.tolist() == [3, 0]
    assert sample.difficult.tolist() == [False, True]
    dtypes = [array.dtype for array in (sample.boxes, sample.classes, sample.difficult)]
    assert dtypes == [np.float32, np.int32, bool]
    classes, values = decode_labels(features())
    assert (classes.tolist(), values.tolist()) == ([0, 3], [1, 1])


def test_images_without_objects_come_back():
    found = features(with_boxes(np.zeros((0, 4)), (), ()))
    sample = decode_boxes(found, 4)
    assert (sample.boxes.shape, sample.classes.shape) == ((0, 4), (0,))
    assert decode_labels(found)[0].size == 0


def test_masks_come_back():
    annotation = Annotation([2], np.zeros((0, 4), np.float32), NONE, NONE, mask=b"png")
    sample = decode_mask(features(annotation), 3)
    assert (sample.mask, sample.boxes.shape) == (b"png", (0, 4))
    with pytest.raises(UserError, match=r"no boxes in it; .* --tasks=boxes writes such records"):
        decode_boxes(features(annotation), 3)
    with pytest.raises(UserError, match=r"no mask in it; .* --tasks=masks writes such records"):
        decode_mask(features(), 4)


def test_other_records_are_refused():
    plain = encode_example("sparse", b"jpeg", "a", 1, 1, [1])
    with pytest.raises(UserError, match=r"neither boxes nor a mask in it"):
        decode_dense(decode_example(plain), 4)
    with pytest.raises(UserError, match=r"no image in it"):
        decode_dense(decode_example(b""), 4)
    with pytest.raises(UserError, match=r"class 3 is out of range \[0, 3\): check --class_num"):
        decode_dense(features(), 3)
    with pytest.raises(UserError, match=r"8 numbers in `boxes`, but 1 `box_classes`, 2 `box_diff"):
        decode_dense(features(with_boxes(classes=(3,))), 4)
    for box in ([0, 0, np.nan, 1], [0, 0, np.inf, 1], [0, 1, 5, 1]):
        with pytest.raises(RecordError, match=r"a box is empty or not finite"):
            decode_dense(features(with_boxes([box], (3,), (0,))), 4)


@pytest.mark.parametrize("text", ["a\n\nb\n", "a\na\n", "a\n b\n", "", "a\tb\n"])
def test_class_names_are_checked(tmp_path, text):
    write(tmp_path / "names.txt", text)
    with pytest.raises(UserError, match=r"names.txt(:\d)?: "):
        read_class_names(tmp_path / "names.txt")


def test_class_names_of_a_folder_stay(tmp_path):
    write_class_names(tmp_path, ["a", "ä b"])
    write_class_names(tmp_path, ["a", "ä b"])
    assert read_class_names(tmp_path / "classes.txt") == ["a", "ä b"]
    with pytest.raises(UserError, match=r"classes.txt has other classes: give another --tfrec"):
        write_class_names(tmp_path, ["a"])


@pytest.fixture
def root(tmp_path):
    """Seven images, of which one has a broken annotation."""
    texts = {
        f"{n}": xml([("cat", 1 + n, 2, 30, 20 + n), ("dog", 5, 5, 9, 9, n % 2)]) for n in range(7)
    }
    return voc_folder(tmp_path / "VOC2007", texts | {"4": "<annotation>"})


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_names_of_classes_are_found_next_to_records_at_urls(s3):
    write_class_names(s3.folder / "bucket" / "records", ["cat", "dog"])
    try:
        for url in ("s3://bucket/records/", "s3://bucket/records/train"):
            found = classes_of_records(url)
            assert found["class_num"] == 2
            assert read_class_names(found["dictionary"]) == ["cat", "dog"]
        assert classes_of_records("s3://bucket") == {}
    finally:
        mirror.close()


def test_a_record_source_reads_them(tmp_path, root):
    assert convert(tmp_path / "out", "--voc", root, "--shard_size", 3) == 0
    source = RecordSource(tmp_path / "out", 20, 0, parse=decode_boxes)
    assert source.counts.tolist() == [3, 2, 1]
    sample = source.read(4)
    assert sample.name == b"5.jpg"
    assert sample.boxes.tolist() == [[1, 5, 25, 30], [4, 4, 9, 9]]
    assert sample.difficult.tolist() == [False, True]
    assert source.class_counts()[[7, 11]].tolist() == [6, 6]
    # The same records train a multi-label classifier.
    assert RecordSource(tmp_path / "out", 20, 0).read(0).classes.tolist() == [7, 11]
    with pytest.raises(UserError, match=r"00000.tfrecords: record 0: class 7 is out of range"):
        RecordSource(tmp_path / "out", 7, 0, parse=decode_boxes)


def test_any_number_of_workers_writes_the_same_files(tmp_path, root):
    convert(tmp_path / "one", "--voc", root, "--shard_size", 2)
    convert(tmp_path / "three", "--voc", root, "--shard_size", 2, "--processes", 3)
    for part in ("0/2", "1/2"):
        convert(tmp_path / "parts", "--voc", root, "--shard_size", 2, "--part", part)
    convert(tmp_path / "parts", "--voc", root, "--shard_size", 2)
    expected = content(tmp_path / "one")
    assert content(tmp_path / "three") == content(tmp_path / "parts") == expected
    names = [f"0000{n}.tfrecords" for n in range(4)]
    others = ["bad_images.tsv", "classes.txt", "manifest.json"]
    assert sorted(expected) == sorted([*names, *(f"{name}.idx" for name in names), *others])
    assert convert(tmp_path / "one", "--verify") == 0


def test_changed_annotations_and_options_are_noticed(tmp_path, root):
    convert(tmp_path / "out", "--voc", root)
    with pytest.raises(UserError, match=r"was made from other rows or with other options"):
        dense_records.main.__wrapped__(
            ["--voc", str(root), "--quality", "80", "--tfrecords", str(tmp_path / "out")]
        )
    write(root / "Annotations/3.xml", xml([("cat", 1, 2, 3, 4)]))
    assert convert(tmp_path / "out", "--voc", root) == 1
    assert convert(tmp_path / "out", "--voc", root, "--start_index", 1) == 0


def test_bad_rows_are_tried_again(tmp_path, root):
    (root / "JPEGImages/2.jpg").rename(root / "2.jpg")
    arguments = ["--voc", root, "--shard_size", "4"]
    convert(tmp_path / "out", *arguments)
    assert [row[2] for row in bad_rows(tmp_path / "out")] == ["missing", "annotation"]
    (root / "2.jpg").rename(root / "JPEGImages/2.jpg")
    assert convert(tmp_path / "out", *arguments) == 0
    assert len(bad_rows(tmp_path / "out")) == 2
    assert convert(tmp_path / "out", *arguments, "--retry_bad") == 0
    assert [row[2] for row in bad_rows(tmp_path / "out")] == ["annotation"]


@pytest.mark.slow
def test_a_killed_conversion_continues(tmp_path):
    texts = {f"{n:03d}": xml([("cat", 1, 2, 30, 20)]) for n in range(60)}
    root = voc_folder(tmp_path / "VOC2007", texts)
    for path in (root / "JPEGImages").iterdir():
        save(path, photo(900, 600), quality=95)
        write(root / f"Annotations/{path.stem}.xml", xml([("cat", 1, 2, 30, 20)], (900, 600)))
    arguments = ["--voc", root, "--tfrecords", tmp_path / "out", "--shard_size", "2"]
    command = [sys.executable, dense_records.__file__, *arguments, "--processes", "2"]
    with subprocess.Popen(list(map(str, command)), start_new_session=True) as process:
        while not list((tmp_path / "out").glob("*.tfrecords")):
            assert process.poll() is None
            time.sleep(0.005)
        for child in [*psutil.Process(process.pid).children(), process]:
            child.send_signal(signal.SIGKILL)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out/.shards").glob("*.json")}
    assert len(made) < 30
    assert not (tmp_path / "out/manifest.json").exists()
    kept = {path.name.removesuffix(".json") for path in made}
    before = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept}
    assert convert(tmp_path / "out", "--voc", root, "--shard_size", 2) == 0
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in kept} == before
    convert(tmp_path / "whole", "--voc", root, "--shard_size", 2)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give one of --voc, --coco and --masks (or --verify)"),
        (["--voc", "a", "--coco", "b"], "give one of --voc, --coco and --masks"),
        (["--coco", "b"], "--images, the folder of images, is required"),
        (["--coco", "b", "--images", "c", "--split", "val"], "--split is for --voc"),
        (["--coco", "b", "--images", "c", "--tasks", "masks"], "--coco reads boxes, not polygons"),
        (["--coco", "b", "--images", "c", "--classes", "d"], "--coco already names its classes"),
        (["--masks", "b", "--images", "c", "--tasks", "boxes"], "--masks has no boxes"),
        (["--masks", "b", "--images", "c"], "needs --classes, a file of class names, background"),
        (["--voc", "a", "--shard_size", "0"], "--shard_size must be positive"),
        (["--voc", "a", "--quality", "0"], "--quality must be 1 to 100"),
    ],
)
def test_arguments_are_checked(arguments, message, capsys):
    with pytest.raises(SystemExit):
        dense_records.main([*arguments, "--tfrecords", "out"])
    assert message in capsys.readouterr().err


def test_mistakes_are_one_line(tmp_path, root, capsys):
    images = save(tmp_path / "images/a.jpg", photo(60, 40)) and tmp_path / "images"
    file = coco_file(tmp_path / "i.json", [{"id": 1, "file_name": "a.jpg"}], [], [])
    write(tmp_path / "names.txt", "background\n")
    write(tmp_path / "masks/a.png", mask(np.zeros((40, 60))))
    masks = ["--masks", tmp_path / "masks", "--images", images, "--classes", tmp_path / "names.txt"]
    for arguments, message in (
        (["--coco", file, "--images", images], "i.json: categories: 0 classes, expected 1 to"),
        (["--coco", tmp_path / "no.json", "--images", images], "No such file"),
        (masks, "names.txt: 1 classes; masks can have 2 to 255"),
        (["--voc", root, "--split", "no"], "no.txt: no such list of names"),
        (["--voc", root, "--classes", tmp_path / "names.txt"], ""),
    ):
        assert convert(tmp_path / "out", *arguments) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error


def test_help_needs_no_tensorflow():
    code = f"""import sys; sys.argv = ["x", "--help"]
import runpy
try: runpy.run_path({str(Path(dense_records.__file__))!r}, run_name="__main__")
except SystemExit: pass
assert "tensorflow" not in sys.modules"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--mask_folder" in done.stdout
