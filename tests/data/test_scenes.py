"""data/scenes.py: boxes and masks are exact, parts share nothing, and a seed makes the same."""

import numpy as np
import pytest
from PIL import Image

from data import scenes
from data.dense.annotation import read_class_names
from data.dense.voc import box_images, mask_images
from data.lists.hierarchy import read_names
from data.lists.rows import read_rows

CLASSES = 4
SIDE = 128


def write(folder, seed=1):
    counts = ("--scenes", "6", "3", "--crops", "12", "5", "--classes", CLASSES, "--side", SIDE)
    arguments = ("--output", folder, *counts, "--seed", seed)
    assert scenes.main([str(argument) for argument in arguments]) == 0
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("scenes"))


def test_the_folder_is_one_of_voc(folder):
    objects = read_class_names(folder / "objects.txt")
    regions = read_class_names(folder / "regions.txt")
    assert objects == ["zero", "one", "two", "three"] and regions == ["background", *objects]
    for part, count in (("train", 6), ("val", 3)):
        with_boxes = box_images(str(folder), part, objects)
        with_masks = mask_images(str(folder), part, len(regions))
        assert len(with_boxes) == len(with_masks) == count
        assert not any(image.problem for image in (*with_boxes, *with_masks))
        for boxed, masked in zip(with_boxes, with_masks, strict=True):
            mask = np.asarray(Image.open(masked.where))
            annotation = boxed.annotation(mask.shape)
            assert 2 <= len(annotation.boxes) <= 4 and not any(annotation.difficult)
            assert {*annotation.classes} == {*np.unique(mask)[1:] - 1}
            covered = np.zeros_like(mask)
            for (y1, x1, y2, x2), cls in zip(annotation.boxes, annotation.classes, strict=True):
                own = slice(int(y1), int(y2)), slice(int(x1), int(x2))
                covered[own] = 1
                shown = mask[own] == cls + 1
                edges = shown[0], shown[-1], shown[:, 0], shown[:, -1]
                assert all(edge.any() for edge in edges)
            assert not mask[covered == 0].any()


def test_a_mask_is_where_an_object_covers_the_photograph():
    source = scenes.material("train", 10)
    made = scenes.scene(source, SIDE, scenes.SIZES, (2, 4), np.random.default_rng(7))
    plain = scenes.background(source.photographs, SIDE, np.random.default_rng(7))
    assert (made.image[made.mask > 0] != plain[made.mask > 0]).any(-1).mean() > 0.99
    # Outside, there are but the soft edges.
    assert (made.image[made.mask == 0] == plain[made.mask == 0]).all(-1).mean() > 0.9


def test_a_cut_out_shows_ink_on_paper():
    digit = scenes.material("train", 10).digits[0]
    found = scenes.cut_out(digit, 60, np.random.default_rng(1))
    assert abs(max(found.alpha.shape) - 60) <= 6 and found.pixels.shape[:2] == found.alpha.shape
    brightness = found.pixels[found.alpha == 1].mean(-1)
    assert brightness.min() < scenes.DARK[1] and brightness.max() >= scenes.LIGHT[0]


def test_parts_share_neither_digits_nor_photographs():
    train, val = (scenes.material(part, 10) for part in scenes.PARTS)
    assert (len(train.digits), len(val.digits)) == (1415, 382)
    for left, right in zip(train.photographs, val.photographs, strict=True):
        assert left.shape[1] + right.shape[1] == 640


def test_crops_are_listed_with_their_class(folder):
    assert read_names(folder / "crops" / "dictionary.txt")[3] == "three"
    for part, count in (("train", 12), ("val", 5)):
        rows = list(read_rows(folder / "crops" / f"{part}_list.txt", CLASSES))
        assert len(rows) == count and all(len(row.classes) == 1 for row in rows)
        for row in rows:
            with Image.open(folder / "crops" / row.image) as image:
                assert image.format == "JPEG" and 48 <= image.width == image.height < 80


def test_a_seed_makes_the_same_files(folder, tmp_path):
    again, other = write(tmp_path / "again"), write(tmp_path / "other", seed=2)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in paths:
        name = path.relative_to(folder)
        assert (again / name).read_bytes() == path.read_bytes()
    name = "JPEGImages/val_0000.jpg"
    assert (other / name).read_bytes() != (folder / name).read_bytes()


def test_a_scene_too_small_for_objects_is_refused(tmp_path, capsys):
    assert scenes.main(["--output", str(tmp_path), "--side", "80"]) == 1
    assert "--side 80: must be at least 96 pixels" in capsys.readouterr().err
