"""Folders of masks, and masks that are none."""

import io
import zlib

import numpy as np
import pytest
from dense_folders import bad_rows, convert, mask, photo, save, write
from PIL import Image
from plain_examples import read_plain

from data.common.errors import UserError
from data.common.images import ImageError, class_indices
from data.dense import masks

VALUES = np.zeros((40, 60), np.uint8)
VALUES[3:9, 4:] = 1
VALUES[20:, 5:9] = 255


@pytest.fixture
def folder(tmp_path):
    save(tmp_path / "images/good.jpg", photo(60, 40))
    write(tmp_path / "masks/good.png", mask(VALUES))
    write(tmp_path / "names.txt", "background\ntree\n")
    return tmp_path


def run(folder, *arguments):
    return convert(
        folder / "out",
        *("--masks", folder / "masks", "--images", folder / "images"),
        *("--classes", folder / "names.txt", *arguments),
    )


@pytest.mark.parametrize("mode", ["P", "L"])
def test_a_mask_is_stored_as_it_is(folder, mode):
    png = mask(VALUES, mode)
    write(folder / "masks/good.png", png)
    write(folder / "masks/notes.txt", "")
    assert run(folder) == 0
    (record,) = read_plain(folder / "out/00000.tfrecords")
    assert record["mask"] == [png]
    assert record["label_index"] == [1]
    assert class_indices(png).tolist() == VALUES.tolist()
    assert (folder / "out/classes.txt").read_text() == "background\ntree\n"


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_palettes_of_few_bits_keep_their_indices(bits):
    values = VALUES % (1 << bits)
    assert class_indices(mask(values, bits=bits)).tolist() == values.tolist()


def save_as(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return buffer.getvalue()


def with_values(value):
    values = VALUES.copy()
    values[7, 8] = value
    return mask(values)


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (mask(VALUES.T), "size", "the mask has 40 x 60 pixels, the image 60 x 40"),
        (
            mask(np.zeros((2000, 3000))),
            "size",
            "the mask has 3000 x 2000 pixels, the image 60 x 40",
        ),
        (
            with_values(2),
            *("class", "the mask has 2, which is neither a class (0..1) nor 255 (ignored)"),
        ),
        (with_values(254), "class", "the mask has 254, which is neither"),
        (
            save_as(photo(60, 40), format="PNG"),
            *("mask", "the mask: PNG, RGB; expected a PNG with a palette or 8-bit grays"),
        ),
        (
            save_as(photo(60, 40), format="JPEG"),
            *("mask", "the mask: JPEG, RGB; expected a PNG"),
        ),
        (save_as(Image.new("I;16", (60, 40)), format="PNG"), "mask", "the mask: PNG, I;16; exp"),
        (mask(VALUES)[:-40], "mask", "the mask: "),
        (b"", "mask", "the mask: the file is empty"),
        (b"<html>", "mask", "the mask: not an image of a known format"),
    ],
)
def test_bad_masks_are_listed(folder, content, kind, reason):
    write(folder / "masks/bad.png", content)
    save(folder / "images/bad.jpg", photo(60, 40))
    assert run(folder) == 0
    ((where, image, found, said),) = bad_rows(folder / "out")
    assert (where, image, found) == ("bad.png", "bad.jpg", kind)
    assert said.startswith(reason)
    assert len(read_plain(folder / "out/00000.tfrecords")) == 1


def test_gray_pngs_that_pillow_scales_are_refused():
    png = bytearray(mask(VALUES % 4, "L"))
    png[24] = 2  # bits of a pixel
    crc = zlib.crc32(png[12:29]).to_bytes(4, "big")
    with pytest.raises(ImageError, match=r"PNG, L; expected a PNG with a palette or 8-bit grays"):
        class_indices(bytes(png[:29] + crc + png[33:]))


def test_masks_without_an_image_are_listed(folder):
    write(folder / "masks/alone.png", mask(VALUES))
    assert run(folder) == 0
    assert bad_rows(folder / "out") == [["alone.png", "alone", "missing", "no image of that name"]]


def test_missing_folders(tmp_path):
    with pytest.raises(UserError, match=r"masks: no such folder of masks"):
        masks.mask_images(str(tmp_path / "masks"), str(tmp_path), 2)
    with pytest.raises(UserError, match=r": no PNG files in it"):
        masks.mask_images(str(tmp_path), str(tmp_path), 2)
