"""COCO's JSON: boxes and classes, and files that break its form."""

import json

import dense_folders
import pytest
from dense_folders import bad_rows, coco_file, convert, photo, save, write
from plain_examples import read_plain

from data.common.errors import UserError
from data.dense import coco

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 1, "name": "person", "supercategory": "person"}]


def image(number, **others):
    return {"id": number, "file_name": f"a/{number}.jpg", "width": 60, "height": 40} | others


def box(number, bbox, category=18, **others):
    return {"image_id": number, "bbox": bbox, "category_id": category} | others


@pytest.fixture
def images(tmp_path):
    for number in range(4):
        save(tmp_path / f"images/a/{number}.jpg", photo(60, 40, number), quality=90)
    return tmp_path / "images"


def test_boxes_and_classes(tmp_path, images):
    annotations = [
        box(2, [1.5, 2, 10, 5], segmentation=[[1, 2, 3, 4, 5, 6]]),
        box(0, [0, 0, 60, 40], 1, iscrowd=1),
        box(2, [4, 3, 2, 1], 1, iscrowd=0),
    ]
    file = coco_file(tmp_path / "i.json", [image(2), image(0), image(1)], annotations, CATEGORIES)
    assert convert(tmp_path / "out", "--coco", file, "--images", images) == 0
    found = read_plain(tmp_path / "out/00000.tfrecords")
    assert [record["name"] for record in found] == [[b"a/2.jpg"], [b"a/0.jpg"], [b"a/1.jpg"]]
    assert found[0]["boxes"] == [2, 1.5, 7, 11.5, 3, 4, 4, 6]
    assert (found[0]["box_classes"], found[0]["box_difficult"]) == ([1, 0], [0, 0])
    assert (found[1]["box_classes"], found[1]["box_difficult"]) == ([0], [1])
    assert found[0]["label_index"] == [0, 1]
    assert found[2]["boxes"] == []
    assert (tmp_path / "out/classes.txt").read_text() == "person\ndog\n"


@pytest.mark.parametrize(
    ("entry", "annotation", "kind", "reason"),
    [
        (
            {"file_name": "../x.jpg"},
            {},
            "name",
            "file_name '../x.jpg' is not a path inside",
        ),
        ({"file_name": "/etc/passwd"}, {}, "name", "file_name '/etc/passwd' is not a path"),
        ({"file_name": 3}, {}, "name", "file_name 3 is not a path inside the folder"),
        ({"file_name": "\ud800.jpg"}, {}, "name", r"file_name '\ud800.jpg' is not a path"),
        ({"file_name": "a/no.jpg"}, {}, "missing", "no such file"),
        ({"file_name": "a"}, {}, "unreadable", "Is a directory"),
        ({"width": 61}, {}, "size", "annotated as 61 x 40 pixels, it has 60 x 40"),
        ({"width": "60"}, {}, "annotation", "height and width are (40, '60')"),
        ({}, {"bbox": [1, 2, 3]}, "annotation", "object 1: bbox is [1, 2, 3]"),
        ({}, {"bbox": [1, 2, 3, "4"]}, "annotation", "object 1: bbox is [1, 2, 3, '4']"),
        ({}, {"bbox": None}, "annotation", "object 1: bbox is None"),
        ({}, {"bbox": [1, 2, 3, 10**400]}, "annotation", "object 1: bbox is [1, 2, 3, 1000"),
        ({}, {"bbox": [1, 2, 0, 4]}, "box", "object 1: an empty box: x 1 to 1, y 2 to 6"),
        ({}, {"bbox": [1, 2, -3, 4]}, "box", "object 1: an empty box: x 1 to -2, y 2 to 6"),
        ({}, {"bbox": [70, 2, 3, 4]}, "box", "object 1: a box outside the image of 60 x 40"),
        (
            {},
            {"bbox": [float("nan"), 2, 3, 4]},
            "box",
            "object 1: a non-finite box: x nan to nan, ",
        ),
        ({}, {"bbox": [1, 2, 1e39, 4]}, "box", "object 1: a non-finite box: x 1 to inf"),
        ({}, {"category_id": 7}, "class", "object 1: category_id 7 is not in"),
        ({}, {"category_id": [1]}, "class", "object 1: category_id [1] is not in"),
    ],
)
def test_bad_entries_are_listed(tmp_path, images, entry, annotation, kind, reason):
    annotations = [box(3, [1, 2, 3, 4]) | annotation, box(0, [0, 0, 9, 9])]
    file = coco_file(tmp_path / "i.json", [image(3, **entry), image(0)], annotations, CATEGORIES)
    assert convert(tmp_path / "out", "--coco", file, "--images", images) == 0
    ((where, _, found, said),) = bad_rows(tmp_path / "out")
    assert (where, found) == ("i.json: image 3", kind)
    assert said.startswith(reason)
    assert len(read_plain(tmp_path / "out/00000.tfrecords")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"i.json: not JSON: Expecting property name"),
        ("[" * 100_000, r"i.json: not JSON: "),
        (b"\xff\xff", r"i.json: not JSON: "),
        ("[]", r"i.json: no list of images; expected COCO instances"),
        ('{"images": [], "annotations": {}}', r"i.json: no list of annotations"),
        ('{"images": [], "annotations": [], "categories": [3]}', r"no list of categories"),
        ('{"images": [], "annotations": [], "categories": []}', r"i.json: no images in it"),
    ],
)
def test_files_of_another_form_are_refused(tmp_path, images, text, message):
    file = write(tmp_path / "i.json", text)
    with pytest.raises(UserError, match=message) as error:
        coco.read(str(file), str(images))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("entries", "categories", "message"),
    [
        ([image(1), image(1)], CATEGORIES, r"images\[1\] has no unique id: 1"),
        ([image(None)], CATEGORIES, r"images\[0\] has no unique id: None"),
        ([image([1])], CATEGORIES, r"images\[0\] has no unique id: \[1\]"),
        ([image(1)], [{"id": 1}], r"categories\[0\] has no id and name: {'id': 1}"),
        ([image(1)], CATEGORIES[:1] * 2, r"two categories have the same id"),
        ([image(1)], [CATEGORIES[0], {"id": 2, "name": "dog"}], r"the class 'dog' is listed twice"),
        ([image(1)], [{"id": 2, "name": "a\nb"}], r"'a\\nb' is not a valid class name"),
        ([image(1)], [{"id": 2, "name": "\ud800"}], r"is not a valid class name"),
        ([image(1)], [], r"categories: 0 classes"),
    ],
)
def test_ids_and_names_are_checked(tmp_path, images, entries, categories, message):
    file = coco_file(tmp_path / "i.json", entries, [], categories)
    with pytest.raises(UserError, match=message):
        coco.read(str(file), str(images))


def test_annotations_without_an_image_are_reported(tmp_path, images, caplog):
    annotations = [box(9, [1, 2, 3, 4]), box([1], [1, 2, 3, 4])]
    file = coco_file(tmp_path / "i.json", [image(1)], annotations, CATEGORIES)
    found, _ = coco.read(str(file), str(images))
    assert len(found[0].objects.boxes) == 0
    assert "ignored 2 annotations whose image is not in the file" in caplog.text


def test_large_files_and_missing_folders_are_refused(tmp_path, images, monkeypatch):
    file = coco_file(tmp_path / "i.json", [image(1)], [], CATEGORIES)
    with pytest.raises(UserError, match=r"no: no such folder of images"):
        coco.read(str(file), str(tmp_path / "no"))
    monkeypatch.setattr(coco, "MAX_JSON_BYTES", 10)
    with pytest.raises(UserError, match=r"more than 10 bytes; split it"):
        coco.read(str(file), str(images))


def test_sizes_may_be_absent(tmp_path, images):
    entry = {"id": 1, "file_name": "a/1.jpg"}
    file = coco_file(tmp_path / "i.json", [entry], [box(1, [1, 2, 3, 4])], CATEGORIES)
    assert json.loads(file.read_text())["images"] == [entry]
    assert dense_folders.convert(tmp_path / "out", "--coco", file, "--images", images) == 0
    assert read_plain(tmp_path / "out/00000.tfrecords")[0]["boxes"] == [2, 1, 6, 4]
