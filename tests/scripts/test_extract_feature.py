"""Files of features, and the script from end to end: order, resume, processes, broken images."""

import dataclasses
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from damaged_images import damaged_images
from PIL import Image
from skimage import data as photographs

from data.common.errors import UserError
from data.common.images import ImageError
from data.common.processes import ProcessGroup
from data.common.sharding import Shard
from data.input import image_batches
from data.input.image_batches import Preparation, batches
from data.input.image_source import images
from data.outputs import feature_files, result_files
from data.outputs.batch_predictor import BatchPredictor
from data.outputs.feature_files import Feature
from data.outputs.result_files import choose_format

ROOT = Path(__file__).resolve().parents[2]
NAN = float("nan")
ROWS = [
    Feature("a b.jpg", "7", np.array([0.1, -2.5e-8, 3], np.float32)),
    Feature("bad.jpg", "", np.array([NAN, NAN, NAN], np.float32), "truncated\nfile"),
    Feature("c.jpg", "1:0.5 2:1", np.array([1 / 3, 6e4, 0], np.float32)),
]
VALUES = np.stack([row.values for row in ROWS])


@pytest.fixture
def photos(tmp_path):
    """Nine images of several formats and shapes, the fifth one torn."""
    folder = tmp_path / "photos"
    folder.mkdir()
    cat, coffee = Image.fromarray(photographs.chelsea()), Image.fromarray(photographs.coffee())
    for i in range(0, 8, 2):
        cat.crop((i, 0, 300 + i, 300)).save(folder / f"{i}.jpg")
        coffee.resize((80 - i, 60)).convert("P").save(folder / f"{i + 1}.png")
    (folder / "4.jpg").write_bytes((folder / "4.jpg").read_bytes()[:3000])
    Image.fromarray(photographs.camera()).save(folder / "8.png")
    return folder


def written(tmp_path, suffix, dtype="float32"):
    chosen = choose_format(feature_files.formats(dtype), f"x{suffix}")
    body, result = tmp_path / "body", tmp_path / f"x{suffix}"
    body.write_bytes(chosen.header + b"".join(map(chosen.encode, ROWS)))
    chosen.finish(body, result)
    return result


def test_the_released_text_gives_every_float_back(tmp_path):
    lines = written(tmp_path, ".txt").read_text().split("\n")
    assert lines[0] == "a b.jpg\t7\t0.100000001 -2.50000003e-08 3"
    assert lines[1] == "bad.jpg\t\tnan nan nan"
    assert lines[3] == ""
    read = np.array([line.split("\t")[2].split() for line in lines[:3]], np.float32)
    np.testing.assert_array_equal(read, VALUES)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_files_hold_all_rows(tmp_path, dtype):
    expected = VALUES.astype(dtype)
    array = np.load(written(tmp_path, ".npy", dtype), mmap_mode="r")
    assert (array.dtype, array.flags.c_contiguous) == (np.dtype(dtype), True)
    np.testing.assert_array_equal(array, expected)
    names = (tmp_path / "x.npy.names.tsv").read_text().splitlines()
    assert names == ["a b.jpg\t7\t", "bad.jpg\t\ttruncated\\nfile", "c.jpg\t1:0.5 2:1\t"]
    with np.load(written(tmp_path, ".npz", dtype)) as archive:
        np.testing.assert_array_equal(archive["features"], expected)
        assert archive["names"].tolist() == [row.image for row in ROWS]
        assert archive["labels"].tolist() == [row.label for row in ROWS]
        assert archive["problems"].tolist() == [row.problem for row in ROWS]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_parquet_holds_all_rows(tmp_path, dtype):
    table = pq.read_table(written(tmp_path, ".parquet", dtype))
    rows = np.array(table["features"].to_pylist(), dtype)
    np.testing.assert_array_equal(rows, VALUES.astype(dtype))
    assert table["image"].to_pylist() == [row.image for row in ROWS]
    assert table["problem"].to_pylist() == [row.problem for row in ROWS]


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".txt", ".parquet"])
def test_every_written_form_is_read_back(tmp_path, suffix):
    table = feature_files.read_table(str(written(tmp_path, suffix)))
    assert table.names == [row.image for row in ROWS]
    np.testing.assert_array_equal(table.values, VALUES)


@pytest.mark.parametrize(
    ("dtype", "result", "offered"),
    [
        ("float32", "f.tfrecord", ".npy, .npz, .parquet, .txt"),
        ("float16", "f.txt", ".npy, .npz, .parquet"),
    ],
)
def test_other_formats_are_refused_by_name(dtype, result, offered):
    with pytest.raises(UserError, match=f"--result={result}: the name must end in {offered}$"):
        choose_format(feature_files.formats(dtype), result)


@pytest.mark.slow
def test_the_script_writes_a_line_a_image_in_order(call_script, thin_checkpoint, photos, tmp_path):
    names = [f"photos/{path.name}" for path in sorted(photos.iterdir())]
    (tmp_path / "list.txt").write_text("".join(f"{name} 5\n" for name in names))
    arguments = ["extract_feature.py", "--images=list.txt", f"--pretrain_ckpt={thin_checkpoint}"]
    assert call_script(*arguments, "--batch_size=4", "--result=f.txt") == 0
    rows = [line.split("\t") for line in (tmp_path / "f.txt").read_text().splitlines()]
    assert [row[0] for row in rows] == names
    assert {row[1] for row in rows} == {"5"}
    values = np.array([row[2].split() for row in rows], np.float32)
    assert values.shape == (9, 256)
    assert np.isnan(values).all(axis=1).tolist() == [i == 4 for i in range(9)]
    assert call_script(*arguments, "--result=strict.txt", "--strict") == 1


@pytest.mark.parametrize(
    ("flags", "width"), [(["--layer=stage1"], 64), (["--layer=logits", "--ten_crop"], 11)]
)
def test_other_layers_and_unit_length(call_script, thin_checkpoint, photos, tmp_path, flags, width):
    call_script("extract_feature.py", photos, f"--pretrain_ckpt={thin_checkpoint}", *flags,
                "--result=f.npz", "--l2_normalize", "--feature_type=float16")  # fmt: skip
    with np.load(tmp_path / "f.npz") as archive:
        features = archive["features"]
        assert (features.shape, features.dtype) == ((9, width), np.float16)
        lengths = np.linalg.norm(features.astype(np.float32), axis=1)
        np.testing.assert_allclose(np.delete(lengths, 4), 1, atol=2e-3)
        assert archive["problems"][4]


def brightness(crops):
    """A stand-in for the network: the mean of each crop."""
    return crops.mean((2, 3, 4))


def describe(batch, values):
    rows = zip(batch.images, values, strict=True)
    return [Feature(image.name, "", value, image.problem) for image, value in rows]


def job(photos, result, group=None, describe=describe, batch_size=2):
    return BatchPredictor(
        [str(photos)],
        result,
        feature_files.formats("float32")[result.suffix],
        Preparation(32),
        brightness,
        describe,
        settings={"depth": 14},
        batch_size=batch_size,
        threads=2,
        group=group or ProcessGroup(),
    )


def test_an_interrupted_job_ends_in_identical_bytes(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(result_files, "SHARD_SECONDS", -1)
    whole = job(photos, tmp_path / "whole.npz")
    assert whole.run()[:2] == (9, 1)

    class Killed(BaseException):
        pass

    def killed_at_third(batch, values):
        if batch.images[0].name.endswith("4.jpg"):
            raise Killed
        return describe(batch, values)

    with pytest.raises(Killed):
        job(photos, tmp_path / "cut.npz", describe=killed_at_third).run()
    seen = []

    def resumed(batch, values):
        seen.extend(image.name for image in batch.images)
        return describe(batch, values)

    assert job(photos, tmp_path / "cut.npz", describe=resumed).run()[:2] == (9, 1)
    assert len(seen) == 5  # the first four are not computed again
    assert (tmp_path / "cut.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "whole.npz", "cut.npz"}


def places(batch, values):
    """Rows that show which images shared a batch, as a network's rounding does."""
    numbers = [[place, len(batch.images)] for place in range(len(batch.images))]
    return describe(batch, np.array(numbers, np.float32))


@pytest.mark.parametrize("ranks", [2, 4, 7])
def test_processes_share_the_work_and_make_the_same_file(photos, tmp_path, ranks):
    headed = feature_files.formats("float32")[".txt"]._replace(header=b"head\n")

    def run(result, group):
        made = job(photos, tmp_path / result, group, places)
        dataclasses.replace(made, format=headed).run()

    run("one.txt", ProcessGroup())
    for index in range(ranks - 1, -1, -1):  # the first process comes last, and joins
        run("many.txt", ProcessGroup(Shard(index, ranks), lambda: None))
    assert (tmp_path / "one.txt").read_bytes().startswith(b"head\n")
    assert (tmp_path / "many.txt").read_bytes() == (tmp_path / "one.txt").read_bytes()


def test_a_result_is_continued_by_other_processes_after_images_were_added(photos, tmp_path):
    second = ProcessGroup(Shard(1, 2), lambda: None)
    job(photos, tmp_path / "x.txt", second).run()
    assert (tmp_path / "x.txt.partial/000000000006").exists()
    for name in ("9.png", "a.png", "b.png", "c.png"):
        (photos / name).write_bytes((photos / "8.png").read_bytes())
    assert job(photos, tmp_path / "x.txt", describe=places).run()[:2] == (13, 1)
    job(photos, tmp_path / "whole.txt", describe=places).run()
    lines = (tmp_path / "x.txt").read_text().splitlines()
    whole = (tmp_path / "whole.txt").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [line.split()[0] for line in whole]


@pytest.mark.slow
def test_two_processes_under_mpirun_do_the_work_of_one(
    call_script, thin_checkpoint, photos, tmp_path
):
    arguments = ["photos", f"--pretrain_ckpt={thin_checkpoint}", "--batch_size=2"]
    assert call_script("extract_feature.py", *arguments, "--result=one.npz") == 0
    mpirun = [Path(sys.executable).with_name("mpirun"), "--allow-run-as-root", "--oversubscribe"]
    script = [sys.executable, ROOT / "extract_feature.py", *arguments, "--result=two.npz"]
    subprocess.run([*map(str, [*mpirun, "-np", 2, *script])], cwd=tmp_path, check=True, timeout=120)
    with np.load(tmp_path / "one.npz") as one, np.load(tmp_path / "two.npz") as two:
        assert one["names"].tolist() == two["names"].tolist()
        # mpirun may give a process fewer cores, and fewer threads round otherwise.
        np.testing.assert_allclose(one["features"], two["features"], rtol=1e-4, atol=1e-6)


def test_few_batches_wait_for_a_slow_network(tmp_path):
    """Memory stays constant: decoding does not run ahead of the network without end."""
    Image.new("RGB", (40, 40)).save(tmp_path / "x.png")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/x.png\n" * 50)
    taken = []
    source = (taken.append(p) or p for p in images([str(tmp_path / "list.txt")]))
    stream = batches(source, Preparation(32), 2, threads=2)
    for number in range(1, 11):
        next(stream)
        assert len(taken) <= 2 * (number + image_batches.BATCHES_AHEAD)
    stream.close()


@pytest.mark.parametrize("size", [(1, 1), (1, 9000), (9000, 2), (3, 5)])
def test_tiny_and_endless_images_are_resized_within_bounds(size):
    buffer = io.BytesIO()
    Image.new("RGB", size, "red").save(buffer, "PNG")
    crops = Preparation(224)(buffer.getvalue())
    assert crops.shape == (1, 224, 224, 3)
    np.testing.assert_allclose(crops[0, 100, 100], [1, -1, -1], atol=1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damaged_images_of_every_format_are_shown_or_refused():
    prepare, shown = Preparation(64), 0
    for data in damaged_images(160, seed=7):
        try:
            crops = prepare(data)
        except ImageError as error:
            assert str(error), "an unreadable image without a reason"
            assert "\n" not in str(error)
        else:
            shown += 1
            assert crops.shape == (1, 64, 64, 3)
            assert np.isfinite(crops).all()
    assert 20 < shown < 140
