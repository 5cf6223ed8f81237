"""The input pipeline on real photographs: who reads what, once and again, bad records or not."""

import io
import itertools

import numpy as np
import pytest
import sklearn.datasets
import tensorflow as tf
from PIL import Image, ImageOps

from data.common.errors import UserError
from data.common.sharding import Shard, StepOptions, StepShard, step_shard_of
from data.input import augment, pipeline, sampler
from data.input.augment import Augmentation
from data.input.evaluation import EvaluationImages
from data.input.pipeline import InputOptions, TrainingInput
from data.tfrecords import records
from data.tfrecords.examples import encode_example
from data.tfrecords.reading import ReadOptions
from data.tfrecords.record_source import find_files

COUNTS = [5, 1, 17, 8, 2, 3, 29]  # 65 records in 7 files
TOTAL = sum(COUNTS)
CLASSES = TOTAL  # the first class of a record is its number


def jpeg(number, size=(40, 30), mode="RGB", **options):
    """A part of a photograph that no other number shows."""
    photo = Image.fromarray(sklearn.datasets.load_sample_image("china.jpg")).convert(mode)
    left, top = 9 * (number % 40), 50 * (number // 40)
    data = io.BytesIO()
    photo.crop((left, top, left + size[0], top + size[1])).save(data, "JPEG", **options)
    return data.getvalue()


def labels(number):
    count = 1 + number % 2
    return [number, number // 2][:count], [1.0, 0.5][:count]


def write(path, numbers, kind="sparse", images=None):
    with records.RecordWriter(path) as writer:
        for number in numbers:
            classes, confidences = ([number], [1.0]) if kind == "single" else labels(number)
            image = (images or {}).get(number, None) or jpeg(number)
            writer.write(encode_example(kind, image, "", 40, 30, classes, confidences, CLASSES))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("records")
    ends = list(itertools.accumulate(COUNTS))
    for file, (count, end) in enumerate(zip(COUNTS, ends, strict=True)):
        write(path / f"shard-{file}.tfrecord", range(end - count, end))
    return path


@pytest.fixture(params=["records", "blocks", "blocks in memory"])
def reading(request, monkeypatch):
    monkeypatch.setattr(sampler, "ROUNDS", 0)  # so that few records make blocks of several
    size = 30 if request.param == "blocks in memory" else 3  # records of a block, about
    mib = size * len(jpeg(0)) / 2**20
    return ReadOptions(request.param.split()[0], mib, shuffle_blocks=5, readers=2)


def options(data_dir, **values):
    few = {"image_size": 16, "batch_size": 4, "class_num": CLASSES, "num_preprocess_threads": 2}
    small = {"file_shuffle_buffer": 2, "shuffle_buffer": 8}
    return InputOptions(**({"data_dir": str(data_dir)} | few | small | values))


def train(data_dir, count, start=0, rank=0, size=1, augmentation=None, accumulate=1, **values):
    given = options(data_dir, **values)
    step_shard = step_shard_of(StepOptions(given.batch_size, accumulate), Shard(rank, size))
    source = TrainingInput(given, augmentation or Augmentation(), step_shard)
    return list(itertools.islice(source.batches(start), count))


def numbers(batches):
    return [number for batch in batches for number in batch.label_index[:, 0].numpy().tolist()]


@pytest.mark.slow
def test_three_workers_read_every_record_once_an_epoch(folder, reading):
    steps = 3 * TOTAL // (3 * 5)
    step_shards = [
        train(folder, steps, rank=rank, size=3, batch_size=5, reading=reading) for rank in range(3)
    ]
    read = [number for step in zip(*step_shards, strict=True) for number in numbers(step)]
    epochs = [read[epoch * TOTAL : (epoch + 1) * TOTAL] for epoch in range(3)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(TOTAL))] * 3
    assert epochs[0] != epochs[1] != epochs[2]


@pytest.mark.slow
def test_resuming_in_mid_epoch_with_other_workers_misses_and_repeats_nothing(folder):
    read = [n for rank in range(2) for n in numbers(train(folder, 3, rank=rank, size=2))]
    start = len(read)
    rest = -(-(TOTAL - start) // 3)
    step_shards = [train(folder, rest, start, rank, 3, batch_size=1) for rank in range(3)]
    after = [number for step in zip(*step_shards, strict=True) for number in numbers(step)]
    assert sorted(read + after[: TOTAL - start]) == list(range(TOTAL))


@pytest.mark.slow
def test_resuming_blocks_with_other_workers_and_the_same_step(folder, reading):
    read = [
        n for batch in train(folder, 3, batch_size=6, reading=reading) for n in numbers([batch])
    ]
    steps, start = 9, len(read)  # 54 of 47 records that are left
    given = options(folder, batch_size=2, reading=reading)
    pieces = [[] for _ in range(steps)]
    for rank in range(2):  # 3 micro-batches of 2 images: two of the first worker
        shard = step_shard_of(StepOptions(2, global_batch=6), Shard(rank, 2))
        batches = TrainingInput(given, Augmentation(), shard).batches(start)
        for piece in pieces:
            piece += numbers(itertools.islice(batches, shard.count))
    after = [number for piece in pieces for number in piece]
    assert after == numbers(train(folder, steps, start, batch_size=6, reading=reading))
    assert sorted(read + after[: TOTAL - start]) == list(range(TOTAL))


@pytest.mark.slow
def test_a_restart_gives_the_same_batches(folder, reading):
    straight = train(folder, 6, reading=reading)
    resumed = train(folder, 3, start=3 * 4, num_preprocess_threads=1, reading=reading)
    for batch, again in zip(straight[3:], resumed, strict=True):
        for part, part_again in zip(batch, again, strict=True):
            np.testing.assert_array_equal(part, part_again)


@pytest.mark.slow
def test_an_image_does_not_depend_on_the_number_of_workers(folder, reading):
    alone = np.concatenate([batch.images for batch in train(folder, 2, reading=reading)])
    shared = [
        train(folder, 2, rank=rank, size=2, batch_size=2, reading=reading) for rank in range(2)
    ]
    together = np.concatenate([b.images for step in zip(*shared, strict=True) for b in step])
    np.testing.assert_array_equal(alone, together)
    assert len(np.unique(alone.reshape(8, -1), axis=0)) == 8


@pytest.mark.slow
def test_the_seed_changes_order_and_augmentation(folder):
    assert numbers(train(folder, 2)) != numbers(train(folder, 2, random_seed=7))


@pytest.mark.slow
def test_accumulation_cuts_a_step_into_micro_batches(folder):
    parts = train(folder, 4, accumulate=2)
    whole = train(folder, 2, batch_size=8)
    for step, big in enumerate(whole):
        pair = parts[2 * step : 2 * step + 2]
        np.testing.assert_array_equal(np.concatenate([b.images for b in pair]), big.images)
        np.testing.assert_array_equal(
            np.concatenate([b.label_index for b in pair]), big.label_index
        )
        for part in pair:
            np.testing.assert_array_equal(part.global_label_index, big.label_index)
            np.testing.assert_array_equal(part.global_label_value, big.label_value)


@pytest.mark.slow
def test_shards_of_unequal_size_make_the_same_step(folder):
    (whole,) = train(folder, 1, batch_size=12)
    step_shards = [StepShard(4, 0, 2, 3), StepShard(4, 2, 1, 3)]
    parts = [
        batch
        for step_shard in step_shards
        for batch in itertools.islice(
            TrainingInput(options(folder), Augmentation(), step_shard).batches(), step_shard.count
        )
    ]
    assert numbers(parts) == numbers([whole])
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), whole.images)
    assert [len(part.global_label_index) for part in parts] == [8, 8, 4]


def test_batches_are_what_the_contract_says(folder):
    (batch,) = train(folder, 1)
    assert batch.images.shape == (4, 16, 16, 3)
    assert batch.images.dtype == tf.float32
    assert -1 <= batch.images.numpy().min() < batch.images.numpy().max() <= 1
    for number, index, value in zip(numbers([batch]), *batch[1:3], strict=True):
        classes, confidences = labels(number)
        assert index.numpy().tolist() == classes + [-1] * (8 - len(classes))
        assert value.numpy().tolist() == confidences + [0] * (8 - len(classes))
    assert batch.label_index.dtype == tf.int32


@pytest.mark.parametrize("turn", range(1, 9))
def test_training_turns_images_as_evaluation_does(tmp_path, turn):
    exif = Image.Exif()
    exif[0x0112] = turn
    data = jpeg(0, (48, 32), exif=exif, quality=95)
    whole = Augmentation(area_min=1, flip_probability=0, rotate_probability=0, color_probability=0)
    _, cropped = augment.crop_function(whole, 1)(tf.constant([data]), np.zeros((1, 2), np.int64))
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    assert cropped.shape == upright.shape
    assert np.abs(cropped.numpy().astype(int) - upright).max() <= 8  # INTEGER_FAST where stored so


def with_bad(tmp_path):
    """Ten records: 3 has a damaged payload, 6 a cut JPEG, 7 garbage; a second file is cut short."""
    bad = {6: jpeg(6)[:400], 7: b"no image at all"}
    path = write(tmp_path / "a", range(10), images=bad)
    index = records.read_index(path)
    with open(path, "r+b") as file:
        file.seek(int(index.offsets[3]) + 100)
        file.write(b"\x00\x00\x00")
    cut = write(tmp_path / "b", range(10, 13))
    with open(cut, "r+b") as file:
        file.truncate(int(records.read_index(cut).offsets[2]) + 50)
    return tmp_path


@pytest.mark.slow
def test_bad_records_are_named_counted_once_and_replaced(tmp_path, caplog):
    folder = with_bad(tmp_path)
    batches = train(folder, 6, augmentation=Augmentation(area_min=1, aspect_min=0.1, aspect_max=9))
    assert set(numbers(batches)) == set(range(12)) - {3, 6, 7}
    messages = "\n".join(record.message for record in caplog.records)
    for expected in (
        "a: record 3: its payload",
        "a: record 6: the image",
        "a: record 7: the image",
    ):
        assert messages.count(expected) == 1, messages
    assert "b: record 2 at byte" in messages
    assert len(caplog.records) == 4


@pytest.mark.slow
def test_a_bad_record_changes_its_own_slot_alone(tmp_path, folder):
    (tmp_path / "good").mkdir()
    write(tmp_path / "good" / "a", range(10))
    write(tmp_path / "good" / "b", range(10, 12))
    (tmp_path / "bad").mkdir()
    good = train(tmp_path / "good", 3)
    bad = train(with_bad(tmp_path / "bad"), 3)
    expected, shown = numbers(good), numbers(bad)
    rejected = {3, 6, 7}
    for slot, number in enumerate(expected):
        following = next(n for n in [*expected[slot:], shown[slot]] if n not in rejected)
        assert shown[slot] == (following if number in rejected else number)


@pytest.mark.slow
def test_too_many_bad_records_end_the_run(tmp_path):
    folder = with_bad(tmp_path)
    with pytest.raises(UserError, match=r"3 unreadable .*a: record \d: .*--max_bad_records=2"):
        train(folder, 6, max_bad_records=2)


@pytest.mark.slow
def test_nothing_but_bad_records_is_an_error(tmp_path):
    write(tmp_path / "a", range(3), images=dict.fromkeys(range(3), b"garbage"))
    with pytest.raises(UserError, match="none of the 3 records can be read"):
        train(tmp_path, 1)


def test_a_png_under_the_name_of_a_jpeg_is_read(tmp_path):
    data = io.BytesIO()
    Image.open(io.BytesIO(jpeg(0))).save(data, "PNG")
    write(tmp_path / "a", [0], images={0: data.getvalue()})
    assert train(tmp_path, 1, batch_size=1)[0].images.shape == (1, 16, 16, 3)


def test_synthetic_input_reads_nothing():
    batches = train("/nowhere", 3, synthetic=True, accumulate=2)
    assert batches[0].images.shape == (4, 16, 16, 3)
    assert batches[0].global_label_index.shape == (8, 9)
    assert all(len(set(row)) == 9 for row in batches[0].global_label_index.numpy().tolist())
    assert batches[0].global_label_value.numpy().sum(axis=1).tolist() == [1.0] * 8
    assert (
        0
        <= batches[0].global_label_index.numpy().min()
        <= batches[0].global_label_index.numpy().max()
        < CLASSES
    )
    assert batches[2].images is batches[0].images


def test_files_are_found_by_folder_glob_and_name(folder):
    assert len(pipeline.RecordSource(folder, CLASSES, 0).files) == 7
    assert TrainingInput(options(f"{folder}/shard-[01]*"), Augmentation()).records == 6
    assert TrainingInput(options(folder / "shard-2.tfrecord"), Augmentation()).records == 17


def example(**features):
    message = tf.train.Example()
    for key, value in features.items():
        kind = message.features.feature[key]
        (kind.bytes_list if isinstance(value, bytes) else kind.int64_list).value.append(value)
    return message.SerializeToString(deterministic=True)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (example(label=3), "a: record 0: no image in it"),
        (example(image=b"x"), "a: record 0: neither `label` nor `label_index`"),
        (example(image=b"x", label=65), r"record 0: label 65 is out of range \[0, 65\): check"),
        (example(image=b"x", label=-1), "record 0: label -1 is out of range"),
        (
            example(image=b"x", label=b"\0" * 40),
            "record 0: a dense label of 10 classes.*--class_num",
        ),
    ],
    ids=["image", "label", "large class", "negative class", "dense"],  # bytes differ by process
)
def test_records_that_no_training_can_use(tmp_path, payload, message):
    with records.RecordWriter(tmp_path / "a") as writer:
        writer.write(payload)
    with pytest.raises(UserError, match=message):
        TrainingInput(options(tmp_path), Augmentation())
    with pytest.raises(UserError, match=message):
        EvaluationImages((), str(tmp_path), CLASSES, 0)


def test_a_class_out_of_range_deep_in_the_data_ends_the_run_with_its_name(tmp_path):
    write(tmp_path / "a", range(12))
    with pytest.raises(UserError, match=r"a: record 11: label 11 is out of range \[0, 11\)"):
        train(tmp_path, 3, class_num=11)


def test_folders_without_records(tmp_path):
    with pytest.raises(UserError, match=r"missing: no such folder"):
        train(tmp_path / "missing", 1)
    (tmp_path / ".hidden").write_text("")
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "bad_images.tsv").write_text("list.txt\t1\tmissing\n")
    (tmp_path / "im_list.txt").write_text("a.jpg\t1:1\n")
    with pytest.raises(UserError, match="no record files"):
        train(tmp_path, 1)
    write(tmp_path / "empty", [])
    with pytest.raises(UserError, match="no records in 1 file"):
        train(tmp_path, 1)
    (tmp_path / "notes.md").write_text("these are not records")
    with pytest.raises(UserError, match=r"notes\.md: not a TFRecord file; move it away"):
        train(tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_label_that_is_not_finite_is_a_bad_record(tmp_path, value, caplog):
    for kind in ("sparse", "dense"):
        with records.RecordWriter(tmp_path / kind) as writer:
            for confidence in (1.0, value, 0.5):
                label = [3], [confidence], CLASSES
                writer.write(encode_example(kind, jpeg(3), "", 40, 30, *label))
        with caplog.at_level("WARNING"):
            (batch,) = train(tmp_path / kind, 1)
        assert sorted(set(batch.label_value[:, 0].numpy())) == [0.5, 1.0]
        assert f"{kind}: record 1: a label value of {value}" in caplog.text
        with pytest.raises(UserError, match="1 unreadable records"):
            train(tmp_path / kind, 6, max_bad_records=0)


def test_a_path_that_exists_is_taken_for_itself_before_it_is_a_glob(tmp_path):
    (tmp_path / "run[1]").mkdir()
    (tmp_path / "run1").mkdir()
    here = write(tmp_path / "run[1]" / "a.tfrecord", [1])
    there = write(tmp_path / "run1" / "b.tfrecord", [2])
    for pattern in ("run[1]", "run[1]/*.tfrecord", "run[1]/a.tfrecord"):
        assert find_files(tmp_path / pattern) == [str(here)]
    assert find_files(tmp_path / "run*/*.tfrecord") == [str(there), str(here)]
    here.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="no record files"):
        find_files(tmp_path / "run[1]/*.tfrecord")


def test_classes_are_counted_and_balanced_on_request(tmp_path, caplog):
    rare = {0: 1, 1: 40}
    path = tmp_path / "records"
    with records.RecordWriter(path) as writer:
        for number, label in enumerate([0] * rare[0] + [1] * rare[1]):
            payload = encode_example("single", jpeg(number), "", 40, 30, [label], None)
            writer.write(payload)
    with caplog.at_level("INFO", "data.input.pipeline"):
        batches = train(path, 10, class_num=3, class_balance=1.0, count_classes=True)
    assert "0: 1, 1: 40, 2: 0; 1 without any, the first 2" in caplog.text
    drawn = [int(index) for batch in batches for index in batch.label_index[:, 0]]
    assert 10 <= drawn.count(0) <= 30  # of 40; as the records are it would be 1


@pytest.mark.slow
def test_randaugment_changes_images_as_the_seed_says(folder):
    plain, changed, again = (
        train(folder, 1, augmentation=Augmentation(randaugment_layers=layers))[0].images
        for layers in (0, 2, 2)
    )
    assert np.abs(plain - changed).max() > 0.1
    np.testing.assert_array_equal(changed, again)
