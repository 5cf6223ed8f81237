"""The input of evaluations: which images, their labels, and the pixels that the network gets."""

import io
import time

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image

from data.common.errors import UserError
from data.input import exif_ops, preprocess
from data.input.evaluation import EvaluationImages
from data.input.image_batches import Preparation
from data.tfrecords import records
from data.tfrecords.examples import KINDS, encode_example
from data.tfrecords.reading import ReadOptions
from data.tfrecords.record_source import RecordSource
from models.metrics.evaluators import MultiLabelEvaluator
from models.training.validation import LabelMeasure

CLASSES = 16
SIZE = 16
PHOTO = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg"))


def encoded(image, kind="JPEG", **options):
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def odd_images():
    """One of each kind that decoders and pipelines have disagreed about."""
    photo = PHOTO.crop((100, 50, 190, 110))
    transparent = photo.copy()
    transparent.putalpha(photo.convert("L"))
    for turn in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turn
        yield encoded(photo, exif=exif)
    yield encoded(photo.convert("L"))
    yield encoded(photo.convert("CMYK"))
    yield encoded(photo, progressive=True, subsampling=0)
    yield encoded(transparent, "PNG")
    yield encoded(photo.convert("P"), "PNG")
    yield encoded(photo.convert("L"), "PNG")
    yield encoded(photo.resize((3, 2)))
    yield encoded(photo.resize((1, 1)), "PNG")


def write(path, images, kind="sparse", labels=None):
    with records.RecordWriter(path) as writer:
        for number, image in enumerate(images):
            classes, values = (labels or {}).get(number, ([number % CLASSES], [1.0]))
            name = f"{number}.jpg"
            example = encode_example(kind, image, name, 90, 60, classes, values, CLASSES)
            writer.write(example)
    return path


def held_out(data_dir, max_bad_records=0):
    return EvaluationImages((), str(data_dir), CLASSES, max_bad_records)


def batches(data_dir, batch_size=4, rank=0, size=1, max_bad_records=0):
    images = held_out(data_dir, max_bad_records)
    return list(images.batches(Preparation(SIZE), batch_size, 2, rank, size))


@pytest.mark.slow
def test_pixels_are_those_of_the_reference(tmp_path):
    """In records, in a list and in TensorFlow's own operations, which an exported network runs."""
    images = list(odd_images())
    write(tmp_path / "records", images)
    rows = []
    for number, image in enumerate(images):
        (tmp_path / f"{number}").write_bytes(image)
        rows.append(f"{number}\t{number % CLASSES}:1\n")
    (tmp_path / "list.txt").write_text("".join(rows))
    listed = EvaluationImages([str(tmp_path / "list.txt")], "", CLASSES, 0)
    of_list = listed.batches(Preparation(SIZE), 4, 2)
    of_records = batches(tmp_path / "records")
    for found in (of_list, of_records):
        crops = np.concatenate([batch.crops[:, 0] for batch in found])
        for image, crop in zip(images, crops, strict=True):
            upright = exif_ops.upright(preprocess.decode(tf.constant(image)), image)
            expected = preprocess.inference_crops(upright, SIZE)[0]
            np.testing.assert_array_equal(crop, expected)


def test_while_training_the_network_gets_what_evaluate_gives_it(tmp_path):
    write(tmp_path / "records", odd_images())
    seen = []

    class Network:
        class_num = CLASSES

        def __call__(self, images, training):
            assert not training
            tf.py_function(lambda images: seen.append(images.numpy()), [images], [])
            return tf.tile(images[:, 0, :1, 0], [1, CLASSES])

    images, prepare = held_out(tmp_path / "records"), Preparation(SIZE)
    measure = LabelMeasure(
        Network(),
        tf.sigmoid,
        lambda: images.batches(prepare, 5, 2),
        lambda: MultiLabelEvaluator(CLASSES),
    )
    first, again = measure(), measure()
    assert first == again
    expected = np.concatenate([batch.crops[:, 0] for batch in batches(tmp_path / "records")])
    np.testing.assert_array_equal(np.concatenate(seen), np.concatenate([expected, expected]))


@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (3, 4), (3, 40)])
def test_each_record_is_evaluated_once(tmp_path, size, batch_size):
    write(tmp_path / "records", [encoded(PHOTO.resize((20, 20)))] * 17)
    read = [batches(tmp_path / "records", batch_size, rank, size) for rank in range(size)]
    sample_index = [p for found in read for batch in found for p in batch.sample_index]
    assert sorted(sample_index) == list(range(17))


def test_records_of_slow_storage_are_read_ahead_by_several_threads(tmp_path, monkeypatch):
    write(tmp_path / "records", [b"no image"] * 80)
    size = (tmp_path / "records").stat().st_size / 2**20
    reading = ReadOptions("blocks", block_mib=size / 40, readers=4)
    running, most, loads = [], [0], []
    load = RecordSource._read_block

    def load_slowly(source, number):
        running.append(number)
        most[0] = max(most[0], len(running))
        time.sleep(0.01)
        running.remove(number)
        loads.append(number)
        return load(source, number)

    monkeypatch.setattr(RecordSource, "_read_block", load_slowly)
    images = EvaluationImages((), str(tmp_path), CLASSES, 99, reading=reading)
    loads.clear()  # of the look at the first record
    assert list(images.batches(Preparation(SIZE), 4, 1, rank=1, size=2)) == []
    assert most[0] == 4 and len(images.left_out) == 40
    assert len(loads) == len(set(loads)) <= 31  # of the 4 records of each second batch


def test_three_kinds_of_label_mix_and_agree(tmp_path):
    for kind in KINDS:
        write(tmp_path / kind, [encoded(PHOTO.resize((20, 20)))] * 4, kind)
    index = np.concatenate([batch.label_index for batch in batches(tmp_path)])
    value = np.concatenate([batch.label_value for batch in batches(tmp_path)])
    assert index[:, 0].tolist() == [0, 1, 2, 3] * 3 and (index[:, 1:] == -1).all()
    assert value[:, 0].tolist() == [1.0] * 12 and not value[:, 1:].any()


def test_unknown_labels_of_dense_records_stay_unknown(tmp_path):
    image = encoded(PHOTO.resize((20, 20)))
    write(tmp_path / "dense", [image], "dense", {0: ([2, 7], [-1, 0.25])})
    (batch,) = batches(tmp_path)
    assert batch.label_index[0, :3].tolist() == [2, 7, -1]
    assert batch.label_value[0, :3].tolist() == [-1, 0.25, 0]


def with_bad(folder):
    """Six records: 1 is no image, 4 has a damaged payload."""
    good = encoded(PHOTO.resize((20, 20)))
    path = write(folder / "a", [good, b"no image", good, good, good, good])
    with open(path, "r+b") as file:
        file.seek(int(records.read_index(path).offsets[4]) + 100)
        file.write(b"\x00\x00\x00")
    return folder


def test_bad_records_are_left_out_counted_and_logged_once(tmp_path, caplog):
    images, prepare = held_out(with_bad(tmp_path), max_bad_records=2), Preparation(SIZE)
    for _ in range(3):
        found = list(images.batches(prepare, 4, 2))
        sample_index = [p for batch in found for p in batch.sample_index]
        assert sample_index == [0, 2, 3, 5] and images.readable == 4
        assert [number for number, _, _ in images.left_out] == [1, 4]
    assert len(caplog.records) == 2
    assert "a: record 4: its payload" in caplog.text
    with pytest.raises(UserError, match=r"2 images cannot be read.*--max_bad_records=1"):
        batches(tmp_path, max_bad_records=1)


def test_nothing_but_bad_records_is_an_error(tmp_path):
    write(tmp_path / "a", [b"garbage"] * 3)
    with pytest.raises(UserError, match="none of the 3 images could be read"):
        batches(tmp_path, max_bad_records=3)
