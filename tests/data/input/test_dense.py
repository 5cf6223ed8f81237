"""Input for detection and segmentation: geometry, order, resumption, bad records."""

import dataclasses
import io
import itertools
from fractions import Fraction

import numpy as np
import pytest
import tensorflow as tf
from dense_folders import mask, photo
from PIL import Image

from data.common.errors import UserError
from data.common.images import Jpeg
from data.common.sharding import StepShard
from data.dense.annotation import Annotation
from data.dense.records import encode_dense
from data.input import dense, dense_images
from data.input.dense import (
    DetectionImages,
    DetectionInput,
    DetectionInputOptions,
    SegmentationImages,
    SegmentationInput,
    SegmentationInputOptions,
)
from data.tfrecords.records import RecordWriter

NONE = np.zeros(0, np.int64)
SIZES = [(40, 60), (60, 40), (50, 50), (30, 90), (64, 33)]  # height, width
ALONE = StepShard(micro_batch=2, first=0, count=1, total=1)


def jpeg(image):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return Jpeg(buffer.getvalue(), *image.size)


def write(path, name, image, annotation):
    with RecordWriter(path) as writer:
        for row in zip(name, image, annotation, strict=True):
            writer.write(encode_dense(*row))


def objects(number, height, width):
    """One to three boxes, the last of which is difficult where there are three."""
    count = number % 3 + 1
    boxes = [[n, 2 * n, height - n, width - 3 * n] for n in range(count)]
    difficult = [0] * count if count < 3 else [0, 0, 1]
    classes = np.arange(count) + number
    arrays = np.array(boxes, np.float32), classes, np.array(difficult, np.int64)
    return Annotation(classes.tolist(), *arrays)


@pytest.fixture
def boxes(tmp_path):
    """Two files with five images of different sizes."""
    names, images, found = [], [], []
    for number, (height, width) in enumerate(SIZES):
        names.append(f"{number}.jpg")
        images.append(jpeg(photo(width, height, number)))
        found.append(objects(number, height, width))
    write(tmp_path / "boxes/a", names[:2], images[:2], found[:2])
    write(tmp_path / "boxes/b", names[2:], images[2:], found[2:])
    return tmp_path / "boxes"


def detection(folder, step_shard=ALONE, **options):
    values = {"class_num": 20, "min_side": 64, "max_side": 100, "num_preprocess_threads": 2}
    return DetectionInput(DetectionInputOptions(str(folder), **values | options), step_shard)


def take(batches, count):
    found = list(itertools.islice(batches, count))
    batches.close()
    return [type(batch)(*(np.array(part) for part in batch)) for batch in found]


def same(first, second):
    assert len(first) == len(second)
    for one, other in zip(first, second, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_detection_batches(boxes):
    found = detection(boxes, flip_probability=0)
    assert found.records == 5
    for batch in take(found.batches(), 5):
        for row, (height, width) in enumerate(batch.sizes):
            number = int(batch.classes[row, 0])
            of_record = SIZES[number]
            factor = min(64 / min(of_record), 100 / max(of_record))
            assert (height, width) == tuple(round(side * factor) for side in of_record)
            kept = batch.classes[row] >= 0
            given = objects(number, *of_record)
            boxes_there = given.boxes[given.difficult == 0]
            scale = np.float32([height / of_record[0], width / of_record[1]] * 2)
            assert np.array_equal(batch.boxes[row][kept], boxes_there * scale)
            assert batch.classes[row][kept].tolist() == given.classes[given.difficult == 0].tolist()
            assert not batch.boxes[row][~kept].any()
            assert not batch.images[row, height:].any()
            assert not batch.images[row, :, width:].any()
            assert np.abs(batch.images[row, :height, :width]).min(axis=-1).max() > 0.05
        assert batch.images.shape == (2, *(-(-batch.sizes.max(0) // 32) * 32), 3)
        assert batch.boxes.shape == (2, 8, 4)
        dtypes = [part.dtype for part in batch]
        assert dtypes == [np.float32, np.int32, np.float32, np.int32, np.int64]
    assert batch.sample_index.tolist() == [8, 9]


def test_many_boxes_are_padded_to_a_multiple(tmp_path):
    arrays = np.tile(np.float32([1, 2, 30, 40]), (9, 1)), np.full(9, 3), np.zeros(9, int)
    write(tmp_path / "a", ["a"], [jpeg(photo(60, 40))], [Annotation([3], *arrays)])
    (batch,) = take(detection(tmp_path, StepShard(1, 0, 1, 1)).batches(), 1)
    assert batch.boxes.shape == (1, 16, 4)
    assert (batch.classes[0] == 3).sum() == 9


def test_flips_exchange_left_and_right(boxes):
    plain = take(detection(boxes, flip_probability=0).batches(), 5)
    mirrored = take(detection(boxes, flip_probability=1).batches(), 5)
    for one, other in zip(plain, mirrored, strict=True):
        for row, (height, width) in enumerate(one.sizes):
            image = one.images[row, :height, :width]
            assert np.array_equal(other.images[row, :height, :width], image[:, ::-1])
            kept = one.classes[row] >= 0
            y1, x1, y2, x2 = one.boxes[row][kept].T
            right = np.float32(width)
            expected = np.stack([y1, right - x2, y2, right - x1], 1)
            assert np.array_equal(other.boxes[row][kept], expected)
            assert (other.boxes[row][kept][:, 3] <= width).all()
    plain, half = (
        take(detection(boxes, flip_probability=p, min_side=8, max_side=9).batches(), 50)
        for p in (0, 0.5)
    )
    flips = [
        not np.array_equal(one.images[row], other.images[row])
        for one, other in zip(plain, half, strict=True)
        for row in range(2)
    ]
    assert 30 < sum(flips) < 70


def test_a_flip_moves_a_marked_pixel_with_its_box(tmp_path):
    pixels = np.zeros((64, 96, 3), np.uint8)
    pixels[10:20, 70:90] = 255
    image = Image.fromarray(pixels)
    box = np.float32([[10, 70, 20, 90]]), np.array([1]), np.array([0])
    write(tmp_path / "a", ["a"], [jpeg(image)], [Annotation([1], *box)])
    for probability in (0, 1):
        (batch,) = take(
            detection(
                tmp_path, StepShard(1, 0, 1, 1), flip_probability=probability, min_side=128,
                max_side=192,
            ).batches(), 1
        )  # fmt: skip
        y1, x1, y2, x2 = batch.boxes[0, 0].astype(int)
        assert (y1, x1, y2, x2) == ((20, 140, 40, 180) if not probability else (20, 12, 40, 52))
        inside = batch.images[0, y1 + 4 : y2 - 4, x1 + 4 : x2 - 4]
        assert inside.min() > 0.8
        assert batch.images[0, y1 + 10, x2 + 4 :].max() < -0.8
        assert batch.images[0, y1 + 10, : x1 - 4].max() < -0.8


@pytest.fixture
def masks(tmp_path):
    names, images, found = [], [], []
    for number, (height, width) in enumerate(SIZES):
        values = np.random.default_rng(number).integers(0, 4, (height, width))
        names.append(f"{number}.jpg")
        images.append(jpeg(photo(width, height, number)))
        found.append(Annotation([1], np.zeros((0, 4), np.float32), NONE, NONE, mask=mask(values)))
    write(tmp_path / "masks/a", names, images, found)
    return tmp_path / "masks"


def segmentation(folder, step_shard=ALONE, **options):
    values = {"class_num": 4, "crop_size": 48, "num_preprocess_threads": 2}
    return SegmentationInput(SegmentationInputOptions(str(folder), **values | options), step_shard)


def test_segmentation_batches(masks):
    found = take(segmentation(masks).batches(), 20)
    for batch in found:
        assert batch.images.shape == (2, 48, 48, 3)
        assert batch.masks.shape == (2, 48, 48)
        assert [part.dtype for part in batch] == [np.float32, np.int32, np.int64]
        assert set(np.unique(batch.masks)) <= {0, 1, 2, 3, 255}
        assert np.array_equal(batch.masks == 255, (batch.images == 0).all(-1))
    shares = np.concatenate([(batch.masks == 255).mean((1, 2)) for batch in found])
    assert (shares == 0).any()
    assert (shares > 0.3).any()


def coordinates(height, width):
    """An image whose pixels are their places, and a mask of the same."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, 0 * rows], -1).astype(np.uint8), rows, columns


@pytest.mark.parametrize("place", [(0, 0), (0.999, 0.5), (0.3, 0.7)])
@pytest.mark.parametrize("size", [(100, 120), (30, 120), (100, 20), (48, 48), (10, 9)])
@pytest.mark.parametrize("factor", [0.5, 0.77, 1.0, 1.31, 2.0])
def test_image_and_mask_are_resized_and_cropped_alike(size, place, factor):
    pixels, rows, columns = coordinates(*size)
    image, down = dense_images.cropped(pixels, rows.astype(np.uint8), factor, 48, place)
    _, across = dense_images.cropped(pixels, columns.astype(np.uint8), factor, 48, place)
    whole = [round(side * factor) for side in size]
    first = [int(part * (max(0, side - 48) + 1)) for part, side in zip(place, whole, strict=True)]
    below, right = (min(48, side) for side in whole)
    # The center of pixel i of n resized ones lies at (i + 1/2) / n of the side.
    y, x = (
        (start + np.arange(count) + Fraction(1, 2)) * side / resized
        for start, count, side, resized in zip(first, (below, right), size, whole, strict=True)
    )
    assert np.array_equal(down[:below, :right], np.floor(y)[:, None] + 0 * x)
    assert np.array_equal(across[:below, :right], 0 * y[:, None] + np.floor(x))
    assert (down[below:] == 255).all()
    assert (down[:, right:] == 255).all()
    assert not image[below:].any()
    assert not image[:, right:].any()
    of_rows, of_columns = (
        np.clip(position.astype(float) - 0.5, 0, side - 1)
        for position, side in zip((y, x), size, strict=True)
    )
    found = (image[:below, :right] + 1) * 127.5
    assert np.allclose(found[..., 0], of_rows[:, None] + 0 * of_columns, atol=1e-3)
    assert np.allclose(found[..., 1], 0 * of_rows[:, None] + of_columns, atol=1e-3)


def test_a_crop_is_of_the_resized_image():
    pixels = np.asarray(photo(61, 47))
    crop, _ = dense_images.cropped(pixels, pixels[..., 0], 1.7, 48, (0.5, 0.5))
    whole = tf.image.resize(pixels, [80, 104])[16:64, 28:76]
    assert np.allclose(crop, whole * (2 / 255) - 1, atol=1e-5)


def test_a_segmentation_flip_is_of_image_and_mask(masks):
    plain = take(segmentation(masks, flip_probability=0).batches(), 5)
    mirrored = take(segmentation(masks, flip_probability=1).batches(), 5)
    for one, other in zip(plain, mirrored, strict=True):
        assert np.array_equal(other.images, one.images[:, :, ::-1])
        assert np.array_equal(other.masks, one.masks[:, :, ::-1])


@pytest.mark.parametrize("make", [detection, segmentation])
def test_batches_are_a_function_of_seed_and_index(make, boxes, masks):
    folder = boxes if make is detection else masks
    straight = take(make(folder).batches(), 12)
    same(take(make(folder, num_preprocess_threads=5).batches(), 12), straight)
    same(take(make(folder).batches(6), 9), straight[3:])
    other = take(make(folder, random_seed=7).batches(), 12)
    images = [batch.images for batch in straight]
    assert not all(np.array_equal(a, b.images) for a, b in zip(images, other, strict=True))


@pytest.mark.parametrize("make", [detection, segmentation])
@pytest.mark.parametrize("workers", [2, 4])
def test_workers_share_the_same_samples(make, workers, boxes, masks):
    folder = boxes if make is detection else masks
    whole = take(make(folder, StepShard(1, 0, 4, 4)).batches(), 12)
    count = 4 // workers
    parts = [
        take(make(folder, StepShard(1, rank * count, count, 4)).batches(), 3 * count)
        for rank in range(workers)
    ]
    steps = [parts[rank][step * count + n]
             for step in range(3) for rank in range(workers) for n in range(count)]  # fmt: skip
    same(steps, whole)


def test_every_record_is_seen_once_an_epoch(boxes):
    found = take(detection(boxes, StepShard(1, 0, 1, 1), file_shuffle_buffer=1).batches(), 10)
    numbers = [int(batch.classes[0, 0]) for batch in found]
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == list(range(5))


def test_bad_records_are_replaced(tmp_path, caplog):
    small = jpeg(photo(60, 40))
    annotations = [objects(n, 40, 60) for n in range(4)]
    nan = annotations[2]._replace(boxes=annotations[2].boxes * np.float32(np.nan))
    images = [small, Jpeg(b"\xff\xd8", 60, 40), small, small]
    write(tmp_path / "a", "abcd", images, [*annotations[:2], nan, annotations[3]])
    found = take(detection(tmp_path, StepShard(1, 0, 1, 1)).batches(), 8)
    assert {int(batch.classes[0, 0]) for batch in found} == {0, 3}
    assert "a: record 1: the image cannot be decoded: " in caplog.text
    assert "a: record 2: a box is empty or not finite" in caplog.text
    with pytest.raises(UserError, match=r"2 unreadable records .* raise --max_bad_records=1"):
        take(detection(tmp_path, max_bad_records=1).batches(), 8)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.zeros((40, 61)), r"the mask has 61 x 40 pixels, the image 60 x 40"),
        (np.full((40, 60), 4), r"the mask has class 4, out of range [0, 4)"),
        (None, r"the mask cannot be decoded: not an image of a known format"),
    ],
)
def test_bad_masks_are_replaced(tmp_path, caplog, values, reason):
    png = b"no" if values is None else mask(values)
    found = [Annotation([1], np.zeros((0, 4), np.float32), NONE, NONE, mask=content)
             for content in (mask(np.ones((40, 60))), png)]  # fmt: skip
    write(tmp_path / "a", "ab", [jpeg(photo(60, 40))] * 2, found)
    take(segmentation(tmp_path).batches(), 4)
    options = SegmentationInputOptions(str(tmp_path), 4)
    (image,) = SegmentationImages(options).images()
    assert image.name == "a"
    assert len(caplog.records) == 2
    assert all(f"a: record 1: {reason}" in record.getMessage() for record in caplog.records)


def test_records_of_the_other_task_are_refused(boxes, masks):
    with pytest.raises(UserError, match=r"record 0: no boxes in it; data/dense_records.py"):
        detection(masks)
    with pytest.raises(UserError, match=r"record 0: no mask in it; data/dense_records.py"):
        segmentation(boxes)
    with pytest.raises(UserError, match=r"class 0 is out of range \[0, 0\)"):
        DetectionImages(DetectionInputOptions(str(boxes), 0))


def test_options_are_checked():
    with pytest.raises(UserError, match=r"--min_side=700 is not in 1..--max_side=600"):
        DetectionInputOptions("a", min_side=700, max_side=600)
    with pytest.raises(UserError, match=r"--scale_min=2 to --scale_max=1 is not a valid range"):
        SegmentationInputOptions("a", scale_min=2, scale_max=1)
    assert dataclasses.is_dataclass(DetectionInputOptions)


def test_detection_images(boxes):
    images = DetectionImages(DetectionInputOptions(str(boxes), 20, min_side=64, max_side=100))
    assert images.records == 5
    found = list(images.images())
    assert [image.name for image in found] == [f"{n}.jpg" for n in range(5)]
    assert [image.number for image in found] == list(range(5))
    for image, size in zip(found, SIZES, strict=True):
        given = objects(image.number, *size)
        assert image.size == size
        assert np.array_equal(image.boxes, given.boxes)
        assert image.difficult.tolist() == given.difficult.astype(bool).tolist()
        assert image.image.shape == (1, *(-(-side // 32) * 32 for side in image.sizes[0]), 3)
        height, width = image.sizes[0].numpy()
        of_network = np.float32([[0, 0, height, width]])
        assert np.allclose(of_network / image.scale, [[0, 0, *size]], rtol=1e-6)
    for size in (2, 3, 7):
        parts = [list(images.images(rank, size)) for rank in range(size)]
        assert sorted(image.number for part in parts for image in part) == list(range(5))
        assert [image.number for image in parts[1]] == list(range(1, 5, size))
    # Training without a flip sees the same pixels.
    (batch,) = take(detection(boxes, StepShard(1, 0, 1, 1), flip_probability=0).batches(), 1)
    image = found[int(batch.classes[0, 0])]
    assert np.array_equal(batch.images, image.image.numpy())


def test_segmentation_images(masks):
    options = SegmentationInputOptions(str(masks), 4)
    images = SegmentationImages(options)
    found = list(images.images())
    assert [image.size for image in found] == SIZES
    for number, image in enumerate(found):
        assert image.image.shape == (1, *SIZES[number], 3)
        values = np.random.default_rng(number).integers(0, 4, SIZES[number])
        assert np.array_equal(image.mask, values)
        assert image.mask.dtype == np.int32
        assert -1 <= image.image.numpy().min() < image.image.numpy().max() <= 1
    assert [image.number for image in images.images(1, 2)] == [1, 3]


def test_an_evaluation_ends_after_too_many_bad_records(tmp_path):
    write(tmp_path / "a", "abc", [jpeg(photo(60, 40)), *[Jpeg(b"x", 1, 1)] * 2],
          [objects(n, 40, 60) for n in range(3)])  # fmt: skip
    images = DetectionImages(DetectionInputOptions(str(tmp_path), 20, max_bad_records=1))
    with pytest.raises(UserError, match=r"2 unreadable records .*/a: record 2: not an image of"):
        list(images.images())


@pytest.mark.parametrize(
    ("size", "expected"),
    [((375, 500), (600, 800)), ((500, 375), (800, 600)), ((300, 900), (333, 1000)),
     ((1, 5000), (1, 1000)), ((600, 600), (600, 600))],
)  # fmt: skip
def test_sides(size, expected):
    image, scale = dense_images.resized(np.zeros((*size, 3), np.uint8), 600, 1000)
    assert image.shape == (*expected, 3)
    assert (
        scale.tolist()
        == np.float32([e / s for e, s in zip(expected, size, strict=True)] * 2).tolist()
    )


def test_draws_are_pinned():
    """Else a run would not resume as it began."""
    assert dense._draws(1234, 5, 2).tolist() == dense._draws(1234, 5, 4)[:2].tolist()
    assert dense._draws(1234, 5, 1) != dense._draws(1234, 6, 1)
    assert dense._draws(-1, 1 << 33, 1) != dense._draws(-1, 0, 1)
