"""Real photographs the whole way: conversion, training of ResNet-50 at 224, labels, features."""

from pathlib import Path

import numpy as np
import pytest
import skimage.data
import sklearn.datasets
from PIL import Image

from data.tfrecords.records import read_records

# Photographs and the classes that a small dictionary has for them.
PHOTOGRAPHS = {
    "astronaut.png": (skimage.data.astronaut, (0, 1)),
    "cat.jpg": (skimage.data.chelsea, (2,)),
    "coffee.webp": (skimage.data.coffee, (3, 4)),
    "rocket.jpg": (skimage.data.rocket, (0, 5)),
    "temple.jpg": (lambda: sklearn.datasets.load_sample_image("china.jpg"), (6,)),
    "flower.bmp": (lambda: sklearn.datasets.load_sample_image("flower.jpg"), (7,)),
}
NAMES = ("space", "person", "cat", "cup", "table", "rocket", "temple", "flower")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """A folder with the images, their list and the dictionary."""
    for name, (load, _) in PHOTOGRAPHS.items():
        Image.fromarray(load()).save(tmp_path / name)
    rows = (
        "\t".join([name, *(f"{c}:1" for c in classes)])
        for name, (_, classes) in PHOTOGRAPHS.items()
    )
    (tmp_path / "list.txt").write_text("".join(f"{row}\n" for row in rows))
    names = "".join(f"{number}\t{name}\n" for number, name in enumerate(NAMES))
    (tmp_path / "dictionary.txt").write_text(names)
    return tmp_path


@pytest.mark.slow
def test_photographs_become_records_a_network_labels_and_features(photographs, run_script) -> None:
    def run(script: str, *arguments: str) -> None:
        done = run_script(script, *arguments, cwd=photographs)
        assert done.returncode == 0, done.stderr

    run("data/tfrecord.py", "-idx", "list.txt", "-im", ".", "-tfs", "records", "-cls", "8")
    shards = [p for p in (photographs / "records").iterdir() if "tfrecord" in p.suffixes[0]]
    assert sum(1 for s in shards if s.suffix != ".idx" for _ in read_records(s)) == 6
    network = ("--resnet_size=50", "--class_num=8", "--image_size=224")
    training = ("--batch_size=3", "--max_iter=3", "--lr=0.001", "--log_interval=1")
    folders = ("--data_dir=records", "--model_dir=model", "--log_dir=log")
    run("train.py", *folders, *network, *training)
    labels = ("--label_mode=multi", "--dictionary=dictionary.txt", "--top_k_pred=8")
    run("image_classification.py", "--model_dir=model", "--images=list.txt", *labels)
    text = (photographs / "label_pred.txt").read_text()
    assert text.count("+++ the predictions of") == len(PHOTOGRAPHS)
    assert all(text.count(f"{c} {name}: ") == 6 for c, name in enumerate(NAMES))
    run("extract_feature.py", "--pretrain_ckpt=model", "--images=list.txt", "--result=f.txt")
    features = [line.split("\t") for line in (photographs / "f.txt").read_text().splitlines()]
    assert [Path(name).name for name, *_ in features] == list(PHOTOGRAPHS)
    values = np.array([row[-1].split() for row in features], np.float64)
    assert values.shape == (6, 2048) and np.isfinite(values).all() and (values >= 0).all()
    assert len(np.unique(values, axis=0)) == 6
