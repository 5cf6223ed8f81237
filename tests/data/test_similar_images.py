"""Neighbors among features, and the page that shows them."""

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from data import similar_images
from data.outputs import feature_files
from data.outputs.feature_files import Feature
from data.outputs.result_files import choose_format


def write(path, rows):
    """`rows` of name -> numbers, as extract_feature.py would write them."""
    chosen = choose_format(feature_files.formats("float32"), str(path))
    body = path.with_name("body")
    features = [Feature(name, "", np.array(values, np.float32)) for name, values in rows.items()]
    body.write_bytes(b"".join(map(chosen.encode, features)))
    chosen.finish(body, path)
    return str(path)


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Two cats, two cups of coffee, and their features by hand."""
    monkeypatch.chdir(tmp_path)
    cat, coffee = Image.fromarray(photographs.chelsea()), Image.fromarray(photographs.coffee())
    for name, image in (("cat", cat), ("coffee", coffee)):
        image.save(f"{name}.jpg")
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(f"{name} mirrored.jpg")
    rows = {"cat.jpg": [1, 0], "coffee.jpg": [0, 1]}
    rows |= {"cat mirrored.jpg": [1, 0.1], "coffee mirrored.jpg": [0.1, 1], "gone.jpg": [1, 1]}
    write(tmp_path / "features.npz", rows)
    return tmp_path


def test_the_page_puts_the_mirrored_image_first(images, capsys):
    arguments = ["--features", "features.npz", "--names", "cat.jpg", "--neighbors", "2"]
    assert similar_images.main(arguments) == 0
    page = (images / "similar.html").read_text()
    shown = [page.index(text) for text in ("<h2>cat.jpg", "0.995\ncat mirrored.jpg", "gone.jpg")]
    assert shown == sorted(shown)
    assert "coffee" not in page
    assert page.count("data:image/jpeg") == 2  # gone.jpg has no image
    assert "1 images with their neighbors among 5" in capsys.readouterr().out


def test_images_of_another_file_are_looked_for(images):
    write(images / "queries.npz", {"coffee.jpg": [0.0, 2.0]})
    assert similar_images.main(["--features", "features.npz", "--queries", "queries.npz"]) == 0
    page = (images / "similar.html").read_text()
    assert page.index("coffee mirrored.jpg") < page.index("gone.jpg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--features", "f.doc"], "must end in .npz, .npy, .txt, .parquet"),
        (["--features", "gone.npz"], "gone.npz"),
        (
            ["--features", "features.npz", "--names", "dog.jpg"],
            "--names dog.jpg: not among the 5 images",
        ),
        (["--features", "features.npz", "--queries", "wide.npz"], "queries have 3 numbers"),
        (["--features", "torn.npz"], "torn.npz does not hold features"),
    ],
)
def test_mistakes_end_in_one_line(images, capsys, arguments, message):
    write(images / "wide.npz", {"x.jpg": [1, 2, 3]})
    (images / "torn.npz").write_bytes((images / "features.npz").read_bytes()[:200])
    assert similar_images.main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
