"""Lists and dictionary of one's own pictures."""

from pathlib import Path

import pytest

from data import own_data
from data.listing.lists import read_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("cat", 60), ("dog", 40), ("yak", 1)):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "pictures" / name / f"{i}.jpg").write_bytes(b"")
    return tmp_path


def test_a_folder_is_split_without_loss_or_overlap(folder: Path, capsys) -> None:
    images, output = folder / "pictures", folder / "lists"
    assert own_data.main(["--images", str(images), "--output", str(output)]) == 0
    rows = {s: list(read_rows(output / f"{s}_list.txt")) for s in own_data.SPLITS}
    names = [row.image for part in rows.values() for row in part]
    assert len(names) == len(set(names)) == 101
    assert 3 <= len(rows["val"]) <= 20 and 3 <= len(rows["test"]) <= 20
    assert (output / "dictionary.txt").read_text() == "0\tcat\n1\tdog\n2\tyak\n"
    assert {row.classes for row in rows["train"]} == {(0,), (1,), (2,)}
    assert "yak" in capsys.readouterr().out


def test_more_pictures_leave_the_others_in_their_split(folder: Path) -> None:
    images = folder / "pictures"
    before = own_data.split(own_data.from_folder(images), 0.2, 0.2, 7)
    (images / "dog" / "new.png").write_bytes(b"")
    after = own_data.split(own_data.from_folder(images), 0.2, 0.2, 7)
    for part in own_data.SPLITS:
        was, now = ({row.image for row in rows[part]} for rows in (before, after))
        assert now - was <= {"dog/new.png"} and was <= now


def test_every_picture_that_can_be_decoded_counts(folder: Path) -> None:
    (folder / "pictures" / "dog" / "old.JFIF").write_bytes(b"")
    (folder / "pictures" / "dog" / "notes.txt").write_bytes(b"")
    found = {Path(row.image).name for row in own_data.from_folder(folder / "pictures")}
    assert "old.JFIF" in found and "notes.txt" not in found


def test_csv_with_several_labels_and_confidences(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("image,labels\ncat/0.jpg,cat; tail:0.5 ;time: noon:-1\ndog/1.jpg,\n")
    first, second = own_data.from_csv(table, folder / "pictures")
    assert first.confidences == {"cat": 1.0, "tail": 0.5, "time: noon": -1.0}
    assert second.confidences == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,labels\n", "no column 'image'"),
        ("image,labels\ncat/0.jpg,:0.5\n", "labels.csv:2: expected name"),
        ("image,labels\ncat/none.jpg,cat\n", "cat/none.jpg"),
        ("image,labels\n", "no row"),
        ("image,labels\ncat/0.jpg,cat\ncat/0.jpg,dog\n", "several rows of cat/0.jpg"),
        ("labels,image\ncat,cat/0.jpg\ndog\n", "labels.csv:3: the image name is missing"),
        ("image,labels\n,cat\n", "labels.csv:2: the image name is missing"),
        ("image,labels\n cat/0.jpg,cat\n", "labels.csv:2: the image name ' cat/0.jpg' begins"),
        ('"image"x,labels\n', "labels.csv: after line 0: "),
        ("image,labels\ncat/0.jpg,cat,tail\n", "labels.csv:2: more cells than columns"),
        (
            'image,labels\ncat/0.jpg,"cat\ndog/1.jpg,dog\n',
            "labels.csv: after line 1: unexpected end of data",
        ),
        ("image,labels\ncat/0.jpg,\u017e\ndog/1.jpg,caf\xe9\n", "labels.csv:2: not UTF-8"),
    ],
)
def test_bad_tables_end_in_one_line(folder: Path, capsys, text: str, message: str) -> None:
    table = folder / "labels.csv"
    table.write_text(text, encoding="cp1252")  # as Excel writes it
    options = ["--images", str(folder / "pictures"), "--output", str(folder / "out")]
    assert own_data.main([*options, "--csv", str(table)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", [" owl", "ow\nl", b"\xff".decode(errors="surrogateescape")])
def test_folders_that_no_list_can_name(folder: Path, capsys, name: str) -> None:
    (folder / "pictures" / name).mkdir()
    (folder / "pictures" / name / "0.jpg").write_bytes(b"")
    options = ["--images", str(folder / "pictures"), "--output", str(folder / "out")]
    assert own_data.main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'pictures'}: ") and error.count("\n") == 1


def test_an_empty_class_is_named(folder: Path, capsys) -> None:
    (folder / "pictures" / "owl").mkdir()
    options = ["--images", str(folder / "pictures"), "--output", str(folder / "out")]
    assert own_data.main(options) == 1
    assert "class owl is empty" in capsys.readouterr().err
