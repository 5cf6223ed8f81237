"""Caltech-256's splits, linear classifier and table, on made-up class folders."""

import json
from pathlib import Path

import numpy as np
import pytest

from data import caltech256
from data.lists.rows import read_rows


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "256_ObjectCategories"
    for name, count in (("001.ak47", 9), ("002.yo-yo", 7), ("257.clutter", 4)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            (folder / name / f"{name[:3]}_{number:04}.jpg").write_bytes(b"")
    (folder / "002.yo-yo" / "RENAME2").write_bytes(b"")
    (folder / "002.yo-yo" / "greg").mkdir()
    (folder / "002.yo-yo" / "greg" / "002_0001.jpg").write_bytes(b"")
    return folder


def run(*arguments: object) -> int:
    return caltech256.main(list(map(str, arguments)))


def split(images: Path, *options: object) -> Path:
    output = images.parent / "out"
    assert run("split", "--images", images, "--output", output, "--train", 4, *options) == 0
    return output


def test_three_splits_without_the_clutter(images: Path, capsys) -> None:
    output = split(images)
    printed = capsys.readouterr().out
    assert "3 splits of 16 images in 2 classes: 8 to train on, 8 to test" in printed
    assert "1 images in folders of a class" in printed and "1 RENAME2" in printed
    trained = []
    for number in (1, 2, 3):
        folder = output / f"split{number}"
        assert (folder / "dictionary.txt").read_text() == "0\t001.ak47\n1\t002.yo-yo\n"
        train, test = (list(read_rows(folder / f"{part}_list.txt")) for part in ("train", "test"))
        assert sorted(row.classes[0] for row in train) == [0] * 4 + [1] * 4
        assert sorted(row.classes[0] for row in test) == [0] * 5 + [1] * 3
        names = {row.image for row in train + test}
        assert len(names) == 16 and "001.ak47/001_0008.jpg" in names
        trained.append({row.image for row in train})
    assert len(set(map(frozenset, trained))) == 3
    assert set((output / "all_list.txt").read_text().split()) == names
    split(images)  # the same again
    assert run("split", "--images", images, "--output", output, "--train", 5) == 1
    assert "give another --output" in capsys.readouterr().err


def test_a_folder_without_clutter_is_used_whole(images: Path, capsys) -> None:
    (images / "257.clutter").rename(images / "003.zebra")
    assert run("split", "--images", images, "--output", images.parent / "out", "--train", 3) == 0
    assert "no folder NNN.clutter to leave out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda f: f, ["--train", "7"], "class 002.yo-yo has 7 images: needs 7 to train on and"),
        (lambda f: f.parent, [], "has no class folders like 001.ak47"),
        (lambda f: f / "001.ak47", [], "has no class folders like 001.ak47"),
        (lambda f: f / "none", [], "256_ObjectCategories/none: no such folder"),
    ],
)
def test_wrong_folders_and_too_few_images(images: Path, capsys, change, options, message) -> None:
    output = images.parent / "out"
    assert run("split", "--images", change(images), "--output", output, *options) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not output.exists()


def test_other_folders_among_the_classes(images: Path, capsys) -> None:
    (images / "results").mkdir()
    assert run("split", "--images", images, "--output", images.parent / "out") == 1
    assert "results is not named like 001.ak47: move it out of" in capsys.readouterr().err


def write_features(images: Path, shift: float, names: list[str] | None = None) -> Path:
    """Features in which the classes differ by `shift`; one image is unreadable."""
    output, draw = images.parent / "out", np.random.default_rng(3)
    names = names or (output / "all_list.txt").read_text().split()
    features = draw.normal(0, 0.1, (len(names), 5)).astype(np.float32)
    features[:, 2] += [shift * name.startswith("002") for name in names]
    features[0] = np.nan
    path = images.parent / "features.npz"
    np.savez(path, features=features, names=np.array(names))
    return path


def test_the_linear_classifier_is_measured_on_each_split(images: Path, capsys) -> None:
    output = split(images)
    features = write_features(images, 3.0)
    assert run("linear", "--features", features, "--output", output) == 0
    for number in (1, 2, 3):
        found = json.loads((output / f"split{number}/linear.json").read_text())
        assert found["mean_class_accuracy"] == 1 and found["settings"]["C"] == 10
    (output / "split2/linear.json").write_text('{"mean_class_accuracy": 0.7}')
    assert run("linear", "--features", features, "--output", output) == 0
    assert "split2/linear.json is there already" in capsys.readouterr().out
    assert run("table", "--output", output) == 0
    assert json.loads((output / "results.json").read_text())["mean_class_accuracy"] == {
        "linear": {
            "splits": {"split1": 1, "split2": 0.7, "split3": 1},
            "mean": pytest.approx(0.9),
            "std": pytest.approx(np.sqrt(0.03)),
        }
    }
    rows = capsys.readouterr().out.splitlines()
    assert " ".join(rows[-2].split()) == "mean class recall split1 split2 split3 mean std"
    assert " ".join(rows[-1].split()) == "linear 1.0000 0.7000 1.0000 0.9000 0.1732"


def test_features_of_other_images(images: Path, capsys) -> None:
    output = split(images)
    features = write_features(images, 3.0, ["elsewhere/1.jpg"])
    assert run("linear", "--features", features, "--output", output) == 1
    assert "--features has no row for 00" in capsys.readouterr().err


def test_the_mean_recall_weighs_classes_alike() -> None:
    truth = np.array([0, 0, 0, 0, 2, 2])
    assert caltech256.mean_recall(np.array([0, 0, 0, 1, 2, 0]), truth) == (0.75 + 0.5) / 2


def test_the_table_shows_what_there_is(images: Path, capsys) -> None:
    output = split(images)
    assert run("table", "--output", output) == 1
    assert "no split in" in capsys.readouterr().err
    for number, value in ((1, 0.5), (3, 0.75)):
        folder = output / f"split{number}" / "report"
        folder.mkdir()
        metrics = {"top_1": 0.1, "mean_class_accuracy": value}
        (folder / "metrics.json").write_text(json.dumps({"evaluations": [{"metrics": metrics}]}))
    (output / "split2/linear.json").write_text('{"mean_class_accuracy": 0.7}')
    assert run("table", "--output", output) == 0
    rows = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()[-3:]]
    assert rows[0] == "mean class recall split1 split2 split3 mean std"
    assert rows[1] == "finetuned 0.5000 - 0.7500 0.6250 0.1768"
    assert rows[2] == "linear - 0.7000 - 0.7000 -"


def test_the_table_needs_splits(tmp_path: Path, capsys) -> None:
    assert run("table", "--output", tmp_path) == 1
    assert "has no splits: run `split` first" in capsys.readouterr().err
