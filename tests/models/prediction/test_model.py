"""The Python API: the same numbers as the scripts, from files, bytes, pixels and images."""

import functools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.common.errors import UserError
from models.prediction.model import Model


@pytest.fixture(scope="module")
def model(thin_checkpoint) -> Model:
    return Model.load(thin_checkpoint, label_mode="multi")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> list[str]:
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(5)
    for number in range(3):
        pixels = rng.integers(0, 255, (70, 90, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return sorted(map(str, folder.iterdir()))


@pytest.mark.slow
def test_predictions_are_those_of_the_script(model, files, thin_checkpoint, run_script, tmp_path):
    script = "image_classification.py"
    flags = f"--model_dir={thin_checkpoint}", "--label_mode=multi", "--top_k_pred=3"
    assert run_script(script, *flags, "--result=out.jsonl", *files).returncode == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    written = {row["image"]: row["predictions"] for row in map(json.loads, lines)}
    found = model.predict(files, top_k=3)
    assert [prediction.image for prediction in found] == files
    for prediction in found:
        expected = written[prediction.image]
        assert [label.index for label in prediction.labels] == [row["index"] for row in expected]
        probabilities = [label.probability for label in prediction.labels]
        np.testing.assert_allclose(
            probabilities, [row["probability"] for row in expected], atol=1e-6
        )


def test_files_folders_bytes_pixels_and_images_are_the_same(model, files, tmp_path):
    expected = model.probabilities(files)
    assert expected.shape == (3, 11) and ((expected > 0) & (expected < 1)).all()
    images = [Image.open(path) for path in files]
    folder = files[0].rpartition("/")[0]
    kinds = [
        [folder],
        [Path(path).read_bytes() for path in files],
        [np.asarray(image) for image in images],
        images,
    ]
    for kind in kinds:
        np.testing.assert_array_equal(model.probabilities(kind), expected)


def test_a_checkpoint_and_its_dictionary_may_be_at_urls(s3, thin_checkpoint, files, model):
    shutil.copytree(thin_checkpoint, s3.folder / "bucket/run")
    (s3.folder / "bucket/names.txt").write_text("".join(f"{n}\tname {n}\n" for n in range(11)))
    dictionary = "s3://bucket/names.txt"
    found = Model.load("s3://bucket/run", dictionary, label_mode="multi")
    assert found.classes.names[10] == "name 10"
    np.testing.assert_array_equal(found.probabilities(files), model.probabilities(files))
    with pytest.raises(UserError, match=r"s3://bucket/none"):
        Model.load("s3://bucket/none")


def test_an_unreadable_image_has_no_numbers_and_its_reason(model, files):
    mixed = [files[0], b"not an image", files[1]]
    features = model.features(mixed)
    assert features.shape == (3, 256)
    assert np.isnan(features).all(axis=1).tolist() == [False, True, False]
    first, second, _ = model.predict(mixed)
    assert len(first.labels) == 5 and first.problem == ""
    assert second.labels == () and second.problem and second.image == "image 1"


def test_features_of_length_one_and_of_a_stage(model, files):
    plain, scaled = (model.features(files, l2_normalize=way) for way in (False, True))
    lengths = np.linalg.norm(plain, axis=1, keepdims=True)
    np.testing.assert_allclose(scaled, plain / lengths, rtol=1e-5)
    assert model.features(files, "stage1").shape == (3, 64)


def test_evaluation_of_a_list(model, files, tmp_path):
    rows = [f"{path}\t{number}:1\n" for number, path in enumerate(files)]
    (tmp_path / "list.txt").write_text("".join(rows))
    found = model.evaluate([str(tmp_path / "list.txt")])
    assert found.metrics["images"] == 3
    scores = model.probabilities(files)
    # The average precision of a class with one positive is one over its place.
    places = [1 + (scores[:, c] > scores[c, c]).sum() for c in range(3)]
    assert found.metrics["map_macro"] == pytest.approx(np.mean([1 / p for p in places]))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("cat.jpg", "give a list of images"),
        ([np.zeros((4, 4), np.uint8)], r"image 0 is uint8 \[4, 4\]"),
        (["gone.jpg"], "gone.jpg"),
    ],
)
def test_mistakes_are_named(model, images, message):
    with pytest.raises(UserError, match=message):
        model.predict(images)


def test_a_label_mode_that_is_none(thin_checkpoint):
    with pytest.raises(UserError, match="label_mode is 'many'"):
        Model.load(thin_checkpoint, label_mode="many")


def test_probabilities_without_the_weight_of_positives(model, files, thin_checkpoint, tmp_path):
    for path in thin_checkpoint.glob("model.ckpt-7.[!j]*"):  # as released, without a JSON
        (tmp_path / path.name).symlink_to(path)
    released = functools.partial(Model.load, tmp_path, label_mode="multi", image_size=64)
    raw = model.probabilities(files).astype(np.float64)
    expected = raw / (raw + 12 * (1 - raw))
    found = released(probabilities="corrected").probabilities(files)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(UserError, match="--calibrate"):
        released(probabilities="calibrated")
