"""Lists and dictionary of one's own images."""

import os
from collections import Counter
from pathlib import Path

import pytest

from data import own_data
from data.lists.hierarchy import Hierarchy
from data.lists.rows import read_rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, count in (("cat", 60), ("dog", 40), ("yak", 1)):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "images" / name / f"{i}.jpg").write_bytes(b"")
    return tmp_path


def test_a_folder_is_split_without_loss_or_overlap(folder: Path, capsys) -> None:
    images, output = folder / "images", folder / "lists"
    assert own_data.main(["--images", str(images), "--output", str(output)]) == 0
    rows = {s: list(read_rows(output / f"{s}_list.txt")) for s in own_data.SPLITS}
    names = [row.image for part in rows.values() for row in part]
    assert len(names) == len(set(names)) == 101
    assert 3 <= len(rows["val"]) <= 20 and 3 <= len(rows["test"]) <= 20
    assert (output / "dictionary.txt").read_text() == "0\tcat\n1\tdog\n2\tyak\n"
    assert {row.classes for row in rows["train"]} == {(0,), (1,), (2,)}
    assert "yak" in capsys.readouterr().out


def test_more_images_leave_the_others_in_their_split(folder: Path) -> None:
    images = folder / "images"
    before = own_data.split(own_data.from_folder(images, Counter()), 0.2, 0.2, 7)
    (images / "dog" / "new.png").write_bytes(b"")
    after = own_data.split(own_data.from_folder(images, Counter()), 0.2, 0.2, 7)
    for part in own_data.SPLITS:
        was, now = ({row.image for row in rows[part]} for rows in (before, after))
        assert now - was <= {"dog/new.png"} and was <= now


def test_every_image_that_can_be_decoded_counts(folder: Path) -> None:
    images = folder / "images"
    (images / "dog" / "old.JFIF").write_bytes(b"")
    (images / "dog" / "notes.txt").write_bytes(b"")
    found = {Path(row.image).name for row in own_data.from_folder(folder / "images", Counter())}
    assert "old.JFIF" in found and "notes.txt" not in found


def test_csv_with_several_labels_and_confidences(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text("image,labels\ncat/0.jpg,cat; tail:0.5 ;time: noon:-1\ndog/1.jpg,\n")
    first, second = own_data.from_csv(table, folder / "images")[None]
    assert first.confidences == {"cat": 1.0, "tail": 0.5, "time: noon": -1.0}
    assert second.confidences == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,labels\n", "no column 'image'"),
        ("image,labels\ncat/0.jpg,:0.5\n", "labels.csv:2: expected name"),
        ("image,labels\ncat/none.jpg,cat\n", "cat/none.jpg"),
        ("image,labels\n", "no row"),
        ("image,labels\ncat/0.jpg,cat\ncat/0.jpg,dog\n", "several rows for cat/0.jpg"),
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
    options = ["--images", str(folder / "images"), "--output", str(folder / "out")]
    assert own_data.main([*options, "--csv", str(table)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", [" owl", "ow\nl", b"\xff".decode(errors="surrogateescape")])
def test_folders_that_no_list_can_name(folder: Path, capsys, name: str) -> None:
    (folder / "images" / name).mkdir()
    (folder / "images" / name / "0.jpg").write_bytes(b"")
    options = ["--images", str(folder / "images"), "--output", str(folder / "out")]
    assert own_data.main(options) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {folder / 'images'}: ") and error.count("\n") == 1


def test_an_empty_class_is_named(folder: Path, capsys) -> None:
    (folder / "images" / "owl").mkdir()
    options = ["--images", str(folder / "images"), "--output", str(folder / "out")]
    assert own_data.main(options) == 1
    assert "class owl is empty" in capsys.readouterr().err


def lay(root: Path, *names: str) -> Path:
    """Empty files below a folder; returns it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def whole(splits: dict[str, list[str]]) -> list[str]:
    return sorted(name for names in splits.values() for name in names)


def listed(output: Path) -> dict[str, list[str]]:
    return {
        split: [row.image for row in read_rows(output / f"{split}_list.txt")]
        for split in own_data.SPLITS
    }


def made(images: Path, output: Path, *more: str) -> dict[str, list[str]]:
    """The names in the lists, by split."""
    assert own_data.main(["--images", str(images), "--output", str(output), *more]) == 0
    return listed(output)


CLASSES = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(6)]


@pytest.mark.parametrize(
    "left",
    [
        [".ipynb_checkpoints/1-checkpoint.jpg", "cat/.ipynb_checkpoints/1-checkpoint.jpg"],
        ["__MACOSX/cat/._1.jpg", ".DS_Store", "cat/._1.jpg", "cat/.DS_Store"],
        ["@eaDir/cat/x.jpg", "cat/@eaDir/1.jpg/SYNOPHOTO_THUMB_XL.jpg", "#recycle/1.jpg"],
        ["Thumbs.db", "cat/Thumbs.db", "$RECYCLE.BIN/1.jpg", "System Volume Information/1.jpg"],
        ["lost+found/1.jpg", ".git/1.jpg", "cat/.hidden.jpg"],
    ],
)
def test_what_systems_leave_is_no_class_and_no_image(tmp_path, capsys, left: list[str]) -> None:
    images = lay(tmp_path / "images", *CLASSES, *left)
    found = made(images, tmp_path / "lists")
    assert whole(found) == CLASSES
    assert (tmp_path / "lists/dictionary.txt").read_text() == "0\tcat\n1\tdog\n"
    printed = capsys.readouterr().out
    assert "that are not images (" in printed
    assert all(Path(path).parts[0] in printed for path in left if "/" not in path)


def test_files_that_are_no_images_are_reported(tmp_path, capsys) -> None:
    others = ("cat/1.heic", "dog/notes.txt", "1.jpg")
    made(lay(tmp_path / "images", *CLASSES, *others), tmp_path / "lists")
    assert (
        "skipped 3 files and folders that are not images"
        " (1 files next to the folders, 1 .heic, 1 .txt)" in capsys.readouterr().out
    )


def test_links_are_followed_but_not_in_circles(tmp_path, capsys) -> None:
    elsewhere = lay(tmp_path / "elsewhere", "a.jpg", "more/b.jpg")
    images = lay(tmp_path / "images", *CLASSES)
    (images / "owl").symlink_to(elsewhere)
    (images / "cat" / "again").symlink_to(elsewhere / "more")
    (elsewhere / "more" / "up").symlink_to("..")
    (images / "dog" / "gone.jpg").symlink_to("nowhere.jpg")
    found = whole(made(images, tmp_path / "lists"))
    linked = ["owl/a.jpg", "owl/more/b.jpg", "cat/again/b.jpg", "cat/again/up/a.jpg"]
    assert found == sorted([*CLASSES, *linked])
    printed = capsys.readouterr().out
    assert "links to a folder above them" in printed and "1 links to nothing" in printed


@pytest.mark.parametrize("names", [("train", "val", "test"), ("Train", "valid"), ("train",)])
def test_given_splits_are_kept(tmp_path, names: tuple[str, ...]) -> None:
    images = lay(tmp_path / "images", *(f"{name}/{image}" for name in names for image in CLASSES))
    found = made(images, tmp_path / "lists", "--val_fraction", "0.3", "--test_share", "0.3")
    assert (tmp_path / "lists/dictionary.txt").read_text() == "0\tcat\n1\tdog\n"
    for split, name in zip(own_data.SPLITS, names, strict=False):
        if split != "train":
            assert found[split] == [f"{name}/{image}" for image in CLASSES]
    assert all(found.values()) and len(whole(found)) == 12 * len(names)


@pytest.mark.parametrize(
    ("more", "message"),
    [("owl/1.jpg", "and owl next to them"), ("test/1.jpg", "test has no subfolders")],
)
def test_splits_that_are_not_clear_are_refused(tmp_path, capsys, more: str, message: str) -> None:
    names = [f"{split}/{image}" for split in ("train", "val") for image in CLASSES]
    images = lay(tmp_path / "images", *names, more)
    assert own_data.main(["--images", str(images), "--output", str(tmp_path / "lists")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("per_class", [1, 2, 5])
def test_few_images_leave_no_split_empty_that_can_be_filled(tmp_path, capsys, per_class) -> None:
    images = lay(tmp_path / "p", *(f"{name}/{i}.jpg" for name in "ab" for i in range(per_class)))
    for seed in range(40):
        found = made(images, tmp_path / str(seed), "--seed", str(seed))
        assert {os.path.dirname(image) for image in found["train"]} == {"a", "b"}
        assert bool(found["val"]) == bool(found["test"]) == (per_class > 1)
    if per_class == 1:
        assert "no image for val: training needs them all" in capsys.readouterr().out


def test_other_lists_are_not_written_over(tmp_path, capsys) -> None:
    images = lay(tmp_path / "images", *CLASSES)
    before = made(images, tmp_path / "lists")
    assert made(images, tmp_path / "lists") == before
    lay(images, "ant/1.jpg")
    capsys.readouterr()
    assert own_data.main(["--images", str(images), "--output", str(tmp_path / "lists")]) == 1
    error = capsys.readouterr().err
    assert "dictionary.txt was made from other images" in error and error.count("\n") == 1
    assert listed(tmp_path / "lists") == before
    assert made(images, tmp_path / "lists", "--replace")["train"][0] == "ant/1.jpg"


def test_folders_below_a_class_are_its_subclasses(tmp_path) -> None:
    names = ["animal/dog/pug/1.jpg", "animal/dog/2.jpg", "animal/cat/3.jpg", "thing/dog/4.jpg"]
    images = lay(tmp_path / "images", *names, "loose.jpg")
    fractions = "--val_fraction=0", "--test_fraction=0"
    made(images, tmp_path / "lists", "--nested", *fractions)
    hierarchy = Hierarchy.read(tmp_path / "lists/dictionary.txt")
    assert hierarchy.names == ("animal", "cat", "dog", "pug", "thing", "dog")
    assert hierarchy.parents.tolist() == [-1, 0, 0, 2, -1, 4]
    rows = {row.image: row.classes for row in read_rows(tmp_path / "lists/train_list.txt")}
    assert {image: sorted(classes) for image, classes in rows.items()} == dict(
        zip(names, ([0, 2, 3], [0, 2], [0, 1], [4, 5]), strict=True)
    )


def tabled(path: Path, rows: list[str], header: str = "file,tags,part") -> Path:
    path.write_text("\n".join([header, *rows, ""]))
    return path


COLUMNS = ("--image_column=file", "--labels_column=tags")


def test_columns_and_splits_may_be_named(tmp_path) -> None:
    images = lay(tmp_path / "images", *CLASSES)
    rows = [
        f"{name},{name[:3]};pet,{part}"
        for name, part in zip(CLASSES, 4 * ["train", "VAL", "test"], strict=True)
    ]
    table = str(tabled(tmp_path / "all.csv", rows))
    found = made(images, tmp_path / "a", "--csv", table, *COLUMNS, "--split_column=part")
    assert found == {part: sorted(CLASSES[i::3]) for i, part in enumerate(own_data.SPLITS)}
    assert (tmp_path / "a/dictionary.txt").read_text() == "0\tcat\n1\tdog\n2\tpet\n"


def test_splits_may_be_files(tmp_path, capsys) -> None:
    images = lay(tmp_path / "images", *CLASSES)
    rows = [f"{name},{name[:3]}," for name in CLASSES]
    train, val = tabled(tmp_path / "train.csv", rows[::2]), tabled(tmp_path / "val.csv", rows[1::2])
    files = "--csv", str(train), "--val_csv", str(val), *COLUMNS, "--test_fraction=0"
    found = made(images, tmp_path / "lists", *files)
    assert found == {"train": CLASSES[::2], "val": CLASSES[1::2], "test": []}
    again = ["--images", str(images), "--output", str(tmp_path / "b"), *files]
    assert own_data.main([*again[:-1], "--test_csv", str(val)]) == 1
    assert "is in two of the CSV files" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (
            ["cat/0.jpg,cat,later"],
            ["--split_column=part"],
            "csv:2: the split is 'later': use train",
        ),
        (["cat/0.jpg,cat,val"], ["--split_column=part"], "has no row of the split train"),
        (["cat/0.jpg,cat,val"], ["--split_column=set"], "has no column 'set' in its first line"),
    ],
)
def test_splits_that_no_row_has(tmp_path, capsys, rows, options, message) -> None:
    images = lay(tmp_path / "images", *CLASSES)
    table = str(tabled(tmp_path / "all.csv", rows))
    arguments = ["--images", str(images), "--output", str(tmp_path / "x"), "--csv", table]
    assert own_data.main([*arguments, *COLUMNS, *options]) == 1
    assert message in capsys.readouterr().err


def test_images_added_later_are_taken_in(tmp_path, capsys) -> None:
    images, output = lay(tmp_path / "images", *CLASSES), tmp_path / "lists"
    before = made(images, output)
    lay(images, "cat/new.jpg")
    after = made(images, output, "--update")
    assert whole(after) == sorted([*CLASSES, "cat/new.jpg"])
    assert all(set(before[part]) <= set(after[part]) for part in own_data.SPLITS)
    lay(images, "owl/1.jpg")
    arguments = ["--images", str(images), "--output", str(output), "--update"]
    assert own_data.main(arguments) == 1
    assert "would change in more than new images" in capsys.readouterr().err
    assert listed(output) == after
