"""VOC's folders: boxes and masks, splits, several years, bad and hostile files."""

import dense_folders
import numpy as np
import pytest
from dense_folders import bad_rows, convert, voc_folder, write, xml
from plain_examples import read_plain

from data.common.errors import UserError
from data.dense import voc

CAT = ("cat", 10, 5, 30, 20)


def records(output):
    return [e for shard in sorted(output.glob("*.tfrecords")) for e in read_plain(shard)]


def test_boxes_become_continuous_edges_counted_from_0(tmp_path):
    text = xml([("dog", 1, 1, 60, 40), ("person", 8, 3, 21.5, 9, True)])
    root = voc_folder(tmp_path / "VOC2007", {"000005": text})
    assert convert(tmp_path / "out", "--voc", root) == 0
    (record,) = records(tmp_path / "out")
    assert record["boxes"] == [0, 0, 40, 60, 2, 7, 9, 21.5]
    assert record["box_classes"] == [11, 14]
    assert record["box_difficult"] == [0, 1]
    assert (record["label_index"], record["label_value"]) == ([11, 14], [1.0, 1.0])
    assert record["image"] == [(root / "JPEGImages/000005.jpg").read_bytes()]
    assert (record["name"], record["width"], record["height"]) == ([b"000005.jpg"], [60], [40])
    assert "mask" not in record
    names = (tmp_path / "out/classes.txt").read_text().splitlines()
    assert (len(names), names[11], names[14]) == (20, "dog", "person")


def test_years_and_splits(tmp_path, capsys):
    first = voc_folder(tmp_path / "VOC2007", {"1": xml([CAT]), "2": xml([])})
    second = voc_folder(tmp_path / "VOC2012", {"2008_1": xml([CAT])})
    write(second / "ImageSets/Main/val.txt", "2008_1\n\n2008_1\n")
    assert convert(tmp_path / "out", "--voc", first, "--voc", second) == 0
    found = records(tmp_path / "out")
    assert [record["name"] for record in found] == [[b"1.jpg"], [b"2.jpg"], [b"2008_1.jpg"]]
    assert found[1]["boxes"] == found[1]["label_index"] == []
    assert "3 images in 1 shards" in capsys.readouterr().out
    assert convert(tmp_path / "val", "--voc", second, "--split", "val") == 0
    assert len(records(tmp_path / "val")) == 2


@pytest.mark.parametrize("below", ["", "Annotations"])
def test_own_xml_files(tmp_path, below):
    root = voc_folder(tmp_path / "mine", {"b": xml([("a tree", 2, 2, 5, 5)], None)}, None)
    if not below:
        (root / "Annotations/b.xml").rename(root / "b.xml")
        (root / "JPEGImages/b.jpg").rename(root / "b.jpg")
        for name in ("Annotations", "JPEGImages"):
            (root / name).rmdir()
    names = write(tmp_path / "names.txt", "bush\na tree\n")
    assert convert(tmp_path / "out", "--voc", root, "--classes", names) == 0
    assert records(tmp_path / "out")[0]["box_classes"] == [1]
    assert (tmp_path / "out/classes.txt").read_text() == "bush\na tree\n"
    with pytest.raises(UserError, match=r"has no ImageSets folder: omit --split train"):
        voc.box_images(str(root), "train")


BILLION_LAUGHS = """<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;&lol;">]>
<annotation><object><name>&lol2;</name></object></annotation>"""
EXTERNAL = """<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>
<annotation><object><name>&x;</name></object></annotation>"""
REMOTE_DTD = '<!DOCTYPE annotation SYSTEM "http://127.0.0.1:1/a.dtd"><annotation/>'
DOCTYPE = "the XML has a DOCTYPE, whose entities and references are not read"


@pytest.mark.parametrize(
    ("text", "kind", "reason"),
    [
        (BILLION_LAUGHS, "annotation", DOCTYPE),
        (EXTERNAL, "annotation", DOCTYPE),
        (REMOTE_DTD, "annotation", DOCTYPE),
        ("<annotation>&x;</annotation>", "annotation", "not XML: undefined entity: line 1, "),
        ("", "annotation", "not XML: no element found: line 1, column 0"),
        ("<annotation>", "annotation", "not XML: no element found"),
        (b"\xff\xd8\xff", "annotation", "not XML: not well-formed"),
        ("<a>" * 100_000, "annotation", "the XML has elements nested more than 64 deep"),
        ("<html/>", "annotation", "the XML is a 'html', expected an annotation"),
        (xml([("cat", "x", 1, 2, 2)]), "annotation", "bndbox/xmin is 'x', expected a number"),
        (xml([("cat", 1, 1, "inf", 2)]), "annotation", "bndbox/xmax is 'inf', expected a number"),
        ("<annotation><object><name>cat</name></object></annotation>", "annotation", "ymin is ''"),
        (xml([CAT], (60, "nan")), "annotation", "the XML: size/height is 'nan', expected a number"),
        (
            xml([CAT, ("unicorn", 1, 1, 9, 9)]),
            "class",
            "object 2: 'unicorn' is not one of the classes",
        ),
        (xml([CAT], (40, 60)), "size", "annotated as 40 x 60 pixels, it has 60 x 40"),
        (xml([CAT, ("dog", 5, 5, 4, 9)]), "box", "object 2: an empty box: x 4 to 4, y 4 to 9"),
        (xml([("dog", 9, 9, 5, 5)]), "box", "object 1: an empty box: x 8 to 5, y 8 to 5"),
        (
            xml([("dog", 61, 1, 70, 9)]),
            *("box", "object 1: a box outside the image of 60 x 40: x 60 to 70, y 0 to 9"),
        ),
        (xml([("dog", 1, -9, 9, 0)]), "box", "a box outside the image of 60 x 40"),
        (
            xml([("dog", 1, 1, "1e300", 9)]),
            "box",
            "object 1: a non-finite box: x 0 to inf, y 0 to 9",
        ),
    ],
)
def test_bad_annotations_are_listed(tmp_path, text, kind, reason):
    root = voc_folder(tmp_path / "VOC2007", {"bad": text, "good": xml([CAT])})
    assert convert(tmp_path / "out", "--voc", root) == 0
    ((where, image, found, said),) = bad_rows(tmp_path / "out")
    assert (where, image, found) == ("bad.xml", "bad.jpg", kind)
    assert reason in said
    assert len(records(tmp_path / "out")) == 1


def test_missing_and_large_files_are_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(voc, "MAX_XML_BYTES", 5000)
    good = xml([CAT])
    root = voc_folder(tmp_path / "VOC2007", dict.fromkeys("abcde", good) | {"f": good + 5000 * " "})
    (root / "JPEGImages/a.jpg").unlink()
    (root / "Annotations/b.xml").unlink()
    (root / "Annotations/c.xml").unlink()
    (root / "Annotations/c.xml").mkdir()
    dense_folders.save(root / "JPEGImages/d.png", dense_folders.photo(60, 40))
    (root / "JPEGImages/e.jpg").write_bytes((root / "JPEGImages/e.jpg").read_bytes()[:-200])
    assert convert(tmp_path / "out", "--voc", root) == 1
    assert [(where, kind, reason) for where, _, kind, reason in bad_rows(tmp_path / "out")] == [
        ("a.xml", "missing", "no image of that name"),
        ("b.xml", "missing", "no such annotation"),
        ("c.xml", "annotation", "the annotation is not a file"),
        ("d.xml", "ambiguous", "several images of that name: d.jpg, d.png"),
        ("e.xml", "truncated", bad_rows(tmp_path / "out")[4][3]),
        ("f.xml", "annotation", "the annotation has more than 5000 bytes"),
    ]


def test_boxes_that_reach_out_are_clipped_and_counted(tmp_path, capsys):
    text = xml([("cat", 0, 1, 61, 40), CAT, ("dog", 50, 30, 90, 90)])
    root = voc_folder(tmp_path / "VOC2007", {"1": text})
    assert convert(tmp_path / "out", "--voc", root) == 0
    assert records(tmp_path / "out")[0]["boxes"] == [0, 0, 40, 60, 4, 9, 20, 30, 29, 49, 40, 60]
    said = "2 boxes extended beyond their image and were clipped to it"
    assert said in capsys.readouterr().out
    assert convert(tmp_path / "out", "--voc", root) == 0  # nothing is done again
    assert said in capsys.readouterr().out
    assert convert(tmp_path / "out", "--verify") == 0


def test_a_turned_image_is_stored_upright_and_annotated_so(tmp_path):
    """Viewers turn it, and so the tools in which boxes are drawn."""
    upright, stored = xml([("cat", 1, 1, 10, 60)], (40, 60)), xml([CAT])
    root = voc_folder(tmp_path / "VOC2007", {"a": upright, "b": stored, "c": xml([CAT], None)})
    exif = dense_folders.Image.Exif()
    exif[0x0112] = 6
    for name in "abc":
        dense_folders.save(root / f"JPEGImages/{name}.jpg", dense_folders.photo(60, 40), exif=exif)
    assert convert(tmp_path / "out", "--voc", root) == 0
    found = records(tmp_path / "out")
    assert [(r["name"], r["width"], r["height"]) for r in found] == [
        ([b"a.jpg"], [40], [60]),
        ([b"c.jpg"], [40], [60]),
    ]
    assert bad_rows(tmp_path / "out")[0][3] == "annotated as 60 x 40 pixels, it has 40 x 60"


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "a/b", "..", "a\\b"])
def test_lists_cannot_leave_the_folder(tmp_path, name):
    root = voc_folder(tmp_path / "VOC2007", {"1": xml([CAT])})
    write(root / "ImageSets/Main/trainval.txt", f"1\n{name}\n")
    with pytest.raises(UserError, match=r".* in a list is not a file name"):
        voc.box_images(str(root), None)


def test_masks(tmp_path):
    root = voc_folder(tmp_path / "VOC2012", {"1": xml([CAT]), "2": xml([CAT])})
    values = np.zeros((40, 60))
    values[3:9, 4:] = 2
    values[9] = 255
    png = dense_folders.mask(values)
    write(root / "SegmentationClass/1.png", png)
    write(root / "SegmentationClassAug/1.png", dense_folders.mask(values * 0, mode="L"))
    write(root / "SegmentationClassAug/2.png", dense_folders.mask(values * 0 + 7, mode="L"))
    write(root / "ImageSets/Segmentation/train.txt", "1\n")
    write(root / "ImageSets/Segmentation/trainaug.txt", "1\n2\n")
    arguments = ["--voc", root, "--tasks", "masks"]
    assert convert(tmp_path / "out", *arguments, "--split", "train") == 0
    (record,) = records(tmp_path / "out")
    assert (record["mask"], record["label_index"]) == ([png], [2])
    assert "boxes" not in record
    names = (tmp_path / "out/classes.txt").read_text().splitlines()
    assert (len(names), names[0], names[2]) == (21, "background", "bicycle")
    augmented = [*arguments, "--split", "trainaug", "--mask_folder", "SegmentationClassAug"]
    assert convert(tmp_path / "aug", *augmented) == 0
    assert [record["label_index"] for record in records(tmp_path / "aug")] == [[], [7]]


def test_missing_folders_and_lists(tmp_path):
    root = voc_folder(tmp_path / "VOC2007", {"1": xml([CAT])})
    with pytest.raises(UserError, match=r"Main/val.txt: no such list of names"):
        voc.box_images(str(root), "val")
    with pytest.raises(UserError, match=r"no such folder of images"):
        voc.box_images(str(root), None, images=str(tmp_path / "no"))
    write(root / "ImageSets/Segmentation/trainval.txt", "1\n")
    with pytest.raises(UserError, match=r"SegmentationClass: no such folder of masks"):
        voc.mask_images(str(root), None)
    write(root / "ImageSets/Segmentation/trainval.txt", "\n")
    with pytest.raises(UserError, match=r"trainval.txt: no name in it"):
        voc.mask_images(str(root), None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: no XML files in it"):
        voc.box_images(str(tmp_path / "empty"), None)
