"""Conversion of lists and images to shards: content, bad rows, determinism, resumption."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from plain_examples import read_plain

from data import tfrecord
from data.common import state
from data.common.errors import UserError
from data.tfrecords.conversion import plan
from data.tfrecords.manifest import (
    ShardFolder,
    ShardWriter,
    read_manifest,
    stored_label_counts,
    verify,
)
from data.tfrecords.record_source import RecordSource

ROOT = Path(__file__).resolve().parents[3]
MPIRUN = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe"]


def image(width=48, height=36, mode="RGB", seed=0):
    blocks = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BILINEAR).convert(mode)


def save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path.read_bytes()


@pytest.fixture
def source(tmp_path):
    """Ten rows, of which two cannot be used, and an empty line."""
    for i in range(9):
        save(tmp_path / f"images/{i}.jpg", image(seed=i), quality=90)
    (tmp_path / "images/4.jpg").write_bytes((tmp_path / "images/4.jpg").read_bytes()[:-200])
    rows = [f"{i}.jpg\t{i}:1\t{i + 1}:0.5\n" for i in range(10)]
    (tmp_path / "list.txt").write_text("".join(rows[:3]) + "\n" + "".join(rows[3:]))
    return tmp_path


def convert(folder, *options, output="records", indexs="list.txt"):
    return tfrecord.main(
        [
            *("-idx", str(folder / indexs), "-im", str(folder / "images")),
            *("-tfs", str(folder / output), "--processes", "1", *map(str, options)),
        ]
    )


def examples(folder):
    return [e for shard in sorted(folder.glob("*.tfrecords")) for e in read_plain(shard)]


def content(folder):
    """Every file below a folder with its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_records_hold_the_rows_in_order(source, capsys):
    assert convert(source, "--shard_size", 4) == 0
    found = examples(source / "records")
    assert [e["name"] for e in found] == [[b"%d.jpg" % i] for i in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert found[4]["label_index"] == [5, 6]
    assert found[4]["label_value"] == [1.0, 0.5]
    assert (found[4]["width"], found[4]["height"]) == ([48], [36])
    assert found[4]["image"] == [(source / "images/5.jpg").read_bytes()]
    files = ["00000.tfrecords", "00001.tfrecords", "00002.tfrecords"]
    files += [f"{name}.idx" for name in files] + ["bad_images.tsv", "manifest.json"]
    assert sorted(content(source / "records")) == sorted(files)
    report = capsys.readouterr().out
    assert "8 images in 3 shards" in report
    assert "8 kept byte for byte, 0 converted to JPEG" in report
    assert "2 rows left out (1 missing, 1 truncated): see" in report


@pytest.mark.parametrize("kind", ["sparse", "dense"])
def test_the_manifest_has_the_positive_records_of_each_class(source, kind, monkeypatch):
    rows = ["0.jpg\t0:1\t1:1\n", "1.jpg\t1:0.5\t2:1\t4:-1\n", "4.jpg\t7:1\n"]
    rows += ["2.jpg\t2:1\t3:1\t4:0\n", "3.jpg\t5:1\t6:1\n"]
    (source / "list.txt").write_text("".join(rows))
    assert convert(source, "--kind", kind, "-cls", 8, "--shard_size", 4) == 0
    files = [str(path) for path in sorted((source / "records").glob("*.tfrecords"))]
    sizes = list(map(os.path.getsize, files))
    assert stored_label_counts(files, [3, 1], sizes) == {0: 1, 1: 2, 2: 2, 3: 1, 5: 1, 6: 1}
    manifest = json.loads((source / "records/manifest.json").read_text())
    assert manifest["label_counts"] == "0:1 1:2 2:2 3:1 5:1 6:1"
    assert not any("label_counts" in shard for shard in manifest["shards"])
    records = RecordSource(source / "records", 8, 0)
    with monkeypatch.context() as context:
        context.setattr(records, "read", None)  # no record is read
        assert records.class_counts().tolist() == [1, 2, 2, 1, 0, 1, 1, 0]
    if kind == "sparse":
        with pytest.raises(UserError, match=r"label 6 is out of range \[0, 6\): check --class_num"):
            RecordSource(source / "records", 6, 0).class_counts()
    assert stored_label_counts(files, [3, 2], sizes) is None
    assert stored_label_counts(files[:1], [3], sizes[:1]) is None
    assert stored_label_counts(files, [3, 1], [sizes[0] + 1, sizes[1]]) is None
    (source / "records/manifest.json").write_text("{")
    assert stored_label_counts(files, [3, 1], sizes) is None


def label_counts(source, name="records"):
    return read_manifest(source / name).label_counts


def test_label_counts_grow_with_the_folder(source):
    """By a second list; not twice by a shard whose report outlived the manifest."""
    convert(source)
    once = label_counts(source)
    assert once == {0: 1, 1: 2, 2: 2, 3: 2, 4: 1, 5: 1, 6: 2, 7: 2, 8: 2, 9: 1}
    manifest = json.loads((source / "records/manifest.json").read_text())
    folder = ShardFolder(source / "records")
    for report in folder.reports().values():
        folder.add(replace(report, label_counts=manifest["label_counts"]))
    convert(source, "-sidx", 1)
    assert label_counts(source) == once + once
    assert verify(folder.path, 1)[1] == []


def test_label_counts_are_unknown_where_a_shard_was_made_again_otherwise(source):
    convert(source)
    shutil.copy(source / "images/0.jpg", source / "images/9.jpg")
    convert(source, "--retry_bad")
    assert label_counts(source) is None
    files = [str(path) for path in (source / "records").glob("*.tfrecords")]
    assert stored_label_counts(files, [9], [os.path.getsize(files[0])]) is None
    assert RecordSource(source / "records", 11, 0).class_counts()[9:].tolist() == [2, 1]
    assert verify(source / "records", 1)[1] == []


@pytest.mark.parametrize("counts", [None, "0:1"])
def test_manifests_of_version_1_are_read(source, counts):
    """They had the counts of each shard, the earliest none."""
    convert(source, "--shard_size", 5)
    manifest = source / "records/manifest.json"
    shards = json.loads(manifest.read_text())["shards"]
    for shard in shards:
        shard["label_counts"] = f"{counts} 7:3" if counts else None
    state.write_document(manifest, "record manifest", {"shards": shards})
    assert label_counts(source) == ({0: 2, 7: 6} if counts else None)
    state.write_document(manifest, "record manifest", {"shards": shards, "label_counts": "1:x"})
    with pytest.raises(state.StateError, match="label counts such as '3:17 8:2', not '1:x'"):
        label_counts(source)


def test_bad_rows_are_listed_with_their_line(source):
    with open(source / "list.txt", "a") as file:
        file.write("x.jpg\t1:7\n\\..\\odd name\t1:1\n0.jpg\t99:1\n")
    (source / "images/html.jpg").write_text("<html>gone</html>")
    (source / "images/empty.jpg").touch()
    (source / "images/folder.jpg").mkdir()
    with open(source / "list.txt", "a") as file:
        file.write("html.jpg\t1:1\nempty.jpg\t1:1\nfolder.jpg\t1:1\n")
    assert convert(source, "-cls", 50, "--shard_size", 5, "--max_pixels", 48 * 36) == 0
    lines = (source / "records/bad_images.tsv").read_text().splitlines()
    bad = [line.split("\t") for line in lines]
    assert [(Path(where).name, image, kind) for where, image, kind, _ in bad] == [
        ("list.txt:6", "4.jpg", "truncated"),
        ("list.txt:11", "9.jpg", "missing"),
        ("list.txt:12", "x.jpg", "row"),
        ("list.txt:13", "\\..\\odd name", "missing"),
        ("list.txt:14", "0.jpg", "row"),
        ("list.txt:15", "html.jpg", "not_an_image"),
        ("list.txt:16", "empty.jpg", "empty"),
        ("list.txt:17", "folder.jpg", "unreadable"),
    ]
    assert bad[2][3] == "confidence '7' is neither in 0..1 nor -1 (unknown)"
    assert bad[4][3] == "class 99 is not in 0..49"
    assert len(examples(source / "records")) + len(bad) == 16


@pytest.mark.parametrize("options", [["--kind", "dense"], ["-one", "True"], ["-one"]])
def test_dense_labels(source, options):
    assert convert(source, "-cls", 11166, *options) == 0
    label = np.frombuffer(examples(source / "records")[3]["label"][0], np.float32)
    assert label.nbytes == 44664
    assert np.flatnonzero(label).tolist() == [3, 4]
    assert label[[3, 4]].tolist() == [1.0, 0.5]


@pytest.mark.parametrize("options", [["--kind", "single"], ["-one", "False"], ["--one_hot=0"]])
def test_single_labels(source, options):
    (source / "list.txt").write_text("0.jpg\t7:1\n1.jpg 8\n2.jpg\t1:1\t2:1\n")
    assert convert(source, *options) == 0
    assert [e["label"] for e in examples(source / "records")] == [[7], [8]]
    bad = (source / "records/bad_images.tsv").read_text()
    assert "list.txt:3\t2.jpg\tlabel\t2.jpg: 2 classes, a single-label record takes one" in bad


def test_images_that_are_not_rgb_jpegs_are_converted(tmp_path):
    images = tmp_path / "images"
    for name, mode in [("a.png", "RGB"), ("b.gif", "P"), ("c.bmp", "RGB"), ("d.webp", "RGB")]:
        save(images / name, image(mode=mode))
    save(images / "cmyk.jpg", image(mode="CMYK"))
    save(images / "gray.jpg", image(mode="L"))
    save(images / "png named.jpg", image(), format="PNG")
    names = sorted(path.name for path in images.iterdir())
    (tmp_path / "list.txt").write_text("".join(f"{name}\t1:1\n" for name in names))
    assert convert(tmp_path) == 0
    found = examples(tmp_path / "records")
    assert [e["name"][0].decode() for e in found] == names
    for name, example in zip(names, found, strict=True):
        stored = Image.open(io.BytesIO(example["image"][0]))
        assert (stored.format, stored.mode, stored.size) == ("JPEG", "RGB", (48, 36))
        expected = image(mode="L") if name == "gray.jpg" else image()
        difference = np.asarray(expected.convert("RGB"), int) - np.asarray(stored)
        assert abs(difference).mean() < 16  # a GIF has few colors


@pytest.mark.parametrize(("exif", "size"), [("apply", (36, 48)), ("keep", (48, 36))])
def test_exif_orientation_is_applied_or_kept(tmp_path, exif, size):
    tags = Image.Exif()
    tags[0x0112] = 6
    original = save(tmp_path / "images/turned.jpg", image(), exif=tags)
    (tmp_path / "list.txt").write_text("turned.jpg\t1:1\n")
    assert convert(tmp_path, "--exif", exif) == 0
    (example,) = examples(tmp_path / "records")
    assert (example["width"][0], example["height"][0]) == size
    assert (example["image"][0] == original) == (exif == "keep")


def test_short_side_and_quality(source, capsys):
    assert convert(source, "--short_side", 18) == 0
    assert convert(source, "--short_side", 18, "--quality", 20, output="small") == 0
    assert "0 kept byte for byte, 8 converted" in capsys.readouterr().out
    fine, coarse = examples(source / "records")[0], examples(source / "small")[0]
    assert (fine["width"], fine["height"]) == ([24], [18])
    assert len(coarse["image"][0]) < len(fine["image"][0])


def test_a_folder_of_split_lists_in_order_of_name(source):
    lines = (source / "list.txt").read_text().splitlines(keepends=True)
    (source / "lists").mkdir()
    (source / "lists/b.txt").write_text("".join(lines[6:]))
    (source / "lists/a.txt").write_text("".join(lines[:6]))
    (source / "lists/.hidden").write_text("junk")
    assert convert(source, "-sidx", 7, indexs="lists", output="split") == 0
    assert sorted(p.name for p in (source / "split").glob("*.tfrecords")) == [
        "00007.tfrecords",
        "00008.tfrecords",
    ]
    convert(source)
    assert examples(source / "split") == examples(source / "records")
    # A second list may follow in the same folder.
    assert convert(source, "-sidx", 9, output="split") == 0
    manifest = json.loads((source / "split/manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [4, 4, 8]


def test_two_runs_may_fill_one_folder_at_the_same_time(source):
    (source / "records/.shards").mkdir(parents=True)
    of_another = [".00007.tfrecords.123.tmp", ".shards/.00007.tfrecords.json.123.tmp"]
    ours = [".00000.tfrecords.123.tmp", ".00000.tfrecords.idx.123.tmp", ".manifest.json.123.tmp"]
    for name in (*of_another, *ours, ".shards/.00000.tfrecords.json.123.tmp"):
        (source / "records" / name).touch()
    assert convert(source) == 0
    hidden = [name for name in content(source / "records") if name.startswith(".")]
    assert sorted(hidden) == sorted(of_another)


@pytest.mark.parametrize("text", ["", "\n\n", "a\t1:1", "a\t1:1\n\n", "\ufeffa\t1:1\nb\t1:1\n"])
@pytest.mark.parametrize("shard_size", [1, 2])
def test_plans_hold_each_row_once(tmp_path, text, shard_size):
    (tmp_path / "list.txt").write_text(text * 2 + "\nlast\t1:1\r\n\n")
    raw = (tmp_path / "list.txt").read_bytes()
    shards = list(plan([tmp_path / "list.txt"], shard_size))
    pieces = [raw[s.offset : s.offset + s.size] for s in shards]
    rows = [[line for line in piece.split(b"\n") if line.strip()] for piece in pieces]
    body = raw.removeprefix(b"\xef\xbb\xbf")
    assert list(chain.from_iterable(rows)) == [line for line in body.split(b"\n") if line.strip()]
    assert all(len(piece) == shard_size for piece in rows[:-1])
    assert [s.line for s in shards] == [raw[: s.offset].count(b"\n") for s in shards]


def test_any_number_of_workers_writes_the_same_files(source):
    convert(source, "--shard_size", 3, output="one")
    convert(source, "--shard_size", 3, "--processes", 3, output="three")
    for part in ("1/2", "0/2"):
        before = len(list((source / "parts").glob("*.tfrecords")))
        assert convert(source, "--shard_size", 3, "--part", part, output="parts") == 0
        assert len(list((source / "parts").glob("*.tfrecords"))) == before + 2  # of 4
        assert not (source / "parts/manifest.json").exists()
    convert(source, "--shard_size", 3, output="parts")
    expected = content(source / "one")
    assert content(source / "three") == content(source / "parts") == expected


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_mpi_ranks_write_the_same_files(source, ranks):
    convert(source, "--shard_size", 1, output="one")
    arguments = ["-idx", source / "list.txt", "-im", source / "images", "--shard_size", "1"]
    command = [*MPIRUN, "-np", str(ranks), sys.executable, ROOT / "data/tfrecord.py", *arguments]
    done = subprocess.run(
        [*command, "-tfs", source / "ranks"], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("8 images in 10 shards") == 1
    assert content(source / "ranks") == content(source / "one")


def test_an_error_ends_all_ranks(source):
    command = [*MPIRUN, "-np", "2", sys.executable, ROOT / "data/tfrecord.py"]
    arguments = ["-idx", source / "no.txt", "-im", source / "images", "-tfs", source / "records"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=100)
    assert done.returncode != 0
    assert "no.txt" in done.stderr


@pytest.mark.parametrize("shards", [0, 1, 5])
def test_ctrl_c_to_the_process_group_ends_it_with_a_line(tmp_path, shards):
    for i in range(20):
        save(tmp_path / f"images/{i}.png", image(240, 180, seed=i))
    (tmp_path / "list.txt").write_text("".join(f"{i % 20}.png\t1:1\n" for i in range(20_000)))
    command = [sys.executable, tfrecord.__file__, "-idx", tmp_path / "list.txt", "--shard_size=20"]
    command += ["-im", tmp_path / "images", "-tfs", tmp_path / "records", "--processes=2"]
    process = subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for_shards(tmp_path / "records", shards, process)
    os.killpg(process.pid, signal.SIGINT)
    errors = process.communicate(timeout=60)[1]
    assert (process.returncode, errors) == (130, "stopped; the same command resumes\n")
    assert not list((tmp_path / "records").glob(".*.tmp"))


@pytest.mark.slow
def test_killed_ten_times_it_writes_what_an_undisturbed_run_writes(tmp_path):
    for i in range(6):
        save(tmp_path / f"images/{i}.png", image(700, 500, seed=i))
    names = [f"{i % 6}.png" if i % 10 else "missing.png" for i in range(120)]
    (tmp_path / "list.txt").write_text("".join(f"{name}\t{i}:1\n" for i, name in enumerate(names)))
    options = ("--shard_size", "4", "--processes", "2")
    convert(tmp_path, *options, output="undisturbed")
    command = [sys.executable, str(ROOT / "data/tfrecord.py"), "-idx", str(tmp_path / "list.txt")]
    command += ["-im", str(tmp_path / "images"), "-tfs", str(tmp_path / "killed"), *options]
    generator = random.Random(1)
    for kill in range(10):
        process = subprocess.Popen(command, start_new_session=True)
        wait_for_shards(tmp_path / "killed", 2 * kill, process)
        time.sleep(generator.uniform(0, 0.05))
        assert process.poll() is None
        workers = psutil.Process(process.pid).children()
        # The command alone at odd times: its worker processes have to notice.
        (os.killpg if kill % 2 else os.kill)(process.pid, signal.SIGKILL)
        process.wait()
        assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert not (tmp_path / "killed/manifest.json").exists()
    assert subprocess.run(command, capture_output=True).returncode == 0
    assert content(tmp_path / "killed") == content(tmp_path / "undisturbed")


def wait_for_shards(folder, count, process):
    deadline = time.monotonic() + 60
    while len(list(folder.glob(".shards/*.json"))) <= count:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def test_finished_shards_are_not_made_again(source, monkeypatch):
    convert(source, "--shard_size", 2)
    before = content(source / "records")
    monkeypatch.setattr(
        "data.tfrecords.conversion.to_jpeg", lambda *_: pytest.fail("converted again")
    )
    assert convert(source, "--shard_size", 2) == 0
    assert content(source / "records") == before


def test_lost_shards_are_made_again(source):
    convert(source, "--shard_size", 2)
    before = content(source / "records")
    (source / "records/00001.tfrecords").unlink()
    (source / "records/00002.tfrecords.idx").unlink()
    (source / "records/00003.tfrecords").write_bytes(b"cut")
    assert convert(source, "--shard_size", 2) == 0
    assert content(source / "records") == before


def test_retry_bad_takes_images_that_have_come_since(source, capsys):
    convert(source)
    shutil.copy(source / "images/0.jpg", source / "images/9.jpg")
    convert(source)
    assert len(examples(source / "records")) == 8
    convert(source, "--retry_bad")
    assert len(examples(source / "records")) == 9
    assert "1 rows left out (1 truncated)" in capsys.readouterr().out


@pytest.mark.parametrize("change", [["--kind", "dense", "-cls", "20"], ["--short_side", "20"], []])
def test_other_rows_or_options_do_not_mix_into_a_folder(source, capsys, change):
    convert(source)
    if not change:
        (source / "list.txt").write_text("0.jpg\t1:1\n")
    before = content(source / "records")
    assert convert(source, *change) == 1
    assert (
        "00000.tfrecords was made from other rows or with other options" in capsys.readouterr().err
    )
    assert content(source / "records") == before


def test_verify_finds_every_kind_of_damage(source, capsys):
    convert(source, "--shard_size", 2)

    def problems():
        code = tfrecord.main(["--verify", "-tfs", str(source / "records"), "--processes", "1"])
        errors = capsys.readouterr().err.splitlines()
        assert code == (1 if errors else 0)
        return [error.partition("records/")[2] for error in errors]

    assert problems() == []
    shard, index = source / "records/00000.tfrecords", source / "records/00001.tfrecords.idx"
    data = bytearray(shard.read_bytes())
    data[50] ^= 1
    shard.write_bytes(data)
    index.write_text("0 5\n")
    (source / "records/00002.tfrecords").write_bytes(b"cut")
    (source / "records/00003.tfrecords").unlink()
    (source / "records/00009.tfrecords").touch()
    found = problems()
    assert found[0] == "00000.tfrecords: its SHA-256 does not match the manifest"
    assert found[1] == "00001.tfrecords.idx: does not list the records of the shard"
    assert found[2].startswith("00002.tfrecords: 3 bytes, the manifest says")
    assert "00003.tfrecords" in found[3]
    assert found[4:] == ["00009.tfrecords: not in the manifest"]


def test_verify_names_a_record_that_is_no_example(source):
    folder = ShardFolder(source / "records")
    writer = ShardWriter(source / "records/00000.tfrecords")
    with writer:
        writer.write(b"?")
    folder.add(writer.report("a"))
    folder.finish()
    (problem,) = verify(folder.path, 1)[1]
    assert "00000.tfrecords: record 0: not a tf.train.Example" in problem


def test_verify_reads_each_record(source, capsys):
    convert(source)
    manifest = source / "records/manifest.json"
    content = json.loads(manifest.read_text())
    altered = json.dumps(content | {"shards": [content["shards"][0] | {"rows": 7}]})
    manifest.write_text(altered)
    assert tfrecord.main(["--verify", "-tfs", str(source / "records")]) == 1
    assert "is damaged (its checksum" in capsys.readouterr().err
    for changed, problem in (
        ({"shards": [content["shards"][0] | {"rows": 7}]}, "8 records, the manifest says 7"),
        ({"label_counts": "3:1"}, "its records have other labels than manifest.json says"),
    ):
        document = {key: content[key] for key in ("shards", "label_counts")} | changed
        state.write_document(manifest, "record manifest", document)
        assert tfrecord.main(["--verify", "-tfs", str(source / "records")]) == 1
        assert problem in capsys.readouterr().err
    manifest.unlink()
    assert tfrecord.main(["--verify", "-tfs", str(source / "records")]) == 1
    assert "no complete conversion is here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-one", "maybe"], "'maybe' is neither True nor False"),
        (["-one", "False", "--kind", "dense"], "means --kind=single, not dense"),
        (["--kind", "dense"], "dense labels need --num_class"),
        (["--shard_size", "0"], "--shard_size must be positive"),
        (["--quality", "0"], "--quality must be 1 to 100"),
        (["--start_index", "-1"], "--start_index must not be negative"),
    ],
)
def test_options_that_are_refused(source, capsys, options, message):
    with pytest.raises(SystemExit):
        convert(source, *options)
    assert message in capsys.readouterr().err


def test_inputs_that_are_not_there(source, capsys):
    assert convert(source, "--part", "2/2") == 1
    assert "expected i/n with i in 0..n-1" in capsys.readouterr().err
    (source / "none.txt").write_text("\n")
    assert convert(source, indexs="none.txt") == 1
    assert "no row in it" in capsys.readouterr().err
    (source / "gone.txt").write_text("gone.jpg\t1:1\n")
    assert convert(source, indexs="gone.txt") == 1
    assert "gone.txt:1: gone.jpg: missing: no such file" in capsys.readouterr().err
    assert tfrecord.main(["--verify", "-tfs", str(source / "records")]) == 1
    assert "records: no rows in manifest.json" in capsys.readouterr().err
    shutil.rmtree(source / "images")
    assert convert(source, output="other") == 1
    assert "images: no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_more_record_files_than_a_process_may_open(tmp_path):
    """Both limits are low, so that ours cannot be raised; every file is read twice."""
    image(40, 30).save(tmp_path / "a.jpg")
    (tmp_path / "list.txt").write_text("a.jpg\t1:1\n")
    arguments = ["-idx", tmp_path / "list.txt", "-im", tmp_path, "-tfs", tmp_path / "one"]
    assert tfrecord.main([*map(str, arguments), "--processes=1"]) == 0
    (tmp_path / "records").mkdir()
    for number in range(300):
        shutil.copy(tmp_path / "one/00000.tfrecords", tmp_path / f"records/{number}.tfrecord")
    read = f"""
from data.tfrecords.record_source import RecordSource
source = RecordSource({str(tmp_path / "records")!r}, 8, 0)
print(sum(len(source.read(i % 300).classes) for i in range(600)))
"""
    command = ["bash", "-c", 'ulimit -n 200; exec "$@"', "", sys.executable, "-c", read]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.stdout == "600\n", done.stderr
