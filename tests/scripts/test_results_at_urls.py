"""Runs and results at s3:// URLs, as users start them, with a local server."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import numpy_network
import pytest
from digit_records import write_records
from PIL import Image

from data import digits, label_statistics, subset, tfrecord
from data.common import mirror
from models.architecture import variable_shapes
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--resnet_size=14", "--width=8", "--image_size=32", "--class_num=14", "--batch_size=8")
MPIRUN = [str(Path(sys.executable).with_name("mpirun")), "--allow-run-as-root", "--oversubscribe"]


@pytest.fixture
def bucket(s3, tmp_path) -> Path:
    """The folder where the server has what is at s3://bucket."""
    return s3.folder / "bucket"


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    """The folder of working copies."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.02)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    reader = checkpoint.read(checkpoint.find(folder))
    return {name: reader.tensor(name) for name in reader.shapes}


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below a folder, by its path in it."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
def test_a_killed_run_at_a_url_ends_bit_for_bit_where_a_local_one_does(
    s3, bucket, temporary, digits_folder, tmp_path, run_script
):
    s3.fail_every = 50
    records = write_records(digits_folder, tmp_path / "records", 60)
    common = [f"--data_dir={records}", f"--val_dir={records}", *NETWORK, "--deterministic"]
    common += ["--max_iter=12", "--snapshot=4", "--eval_interval=4", "--max_to_keep=2"]
    common += ["--log_interval=1", "--lr=0.01", "--best_metric=map_macro"]
    local = [f"--model_dir={tmp_path / 'local'}", f"--log_dir={tmp_path / 'log'}"]
    straight = run_script("train.py", *local, *common)
    assert straight.returncode == 0, straight.stderr
    at_url = ["--model_dir=s3://bucket/run/", "--log_dir=s3://bucket/log"]
    killed = subprocess.Popen([sys.executable, ROOT / "train.py", *at_url, *common], cwd=tmp_path)
    wait_for(bucket / "run/model.ckpt-4.index", killed)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert not (bucket / "run/model.ckpt-12.index").exists() and list(temporary.iterdir())
    resumed = run_script("train.py", *at_url, *common)
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming s3://bucket/run/model.ckpt-" in resumed.stderr
    assert "next: python evaluate.py --model_dir=s3://bucket/run " in resumed.stderr
    assert str(temporary) not in resumed.stderr and not list(temporary.iterdir())
    one, other = tensors(tmp_path / "local"), tensors(bucket / "run")
    assert one.keys() == other.keys() and int(one["global_step"]) == 12
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)
    kept = {path.name for path in bucket.glob("run/*")}
    assert kept == {path.name for path in tmp_path.glob("local/*") if path.name != ".lock"}
    assert {name for name in kept if name.endswith(".index")} == {
        "model.ckpt-8.index",
        "model.ckpt-12.index",
    }
    for folder in (tmp_path / "log", bucket / "log"):
        lines = map(json.loads, (folder / "training.jsonl").read_text().splitlines())
        found = [(line["kind"], line["step"]) for line in lines]
        expected = [("train", step) for step in range(1, 13)] + [("val", s) for s in (4, 8, 12)]
        assert sorted(found) == sorted(expected)
    assert "--model_dir=s3://bucket/run\n" in (bucket / "log/flags.txt").read_text()


@pytest.mark.slow
def test_evaluation_and_features_of_a_checkpoint_at_a_url(
    bucket, temporary, digits_folder, tmp_path, run_script
):
    weights = numpy_network.random_weights(variable_shapes(14, 14, 8), 1)
    meta = {"flags": {"image_size": 32}}
    checkpoint.save(bucket / "run/model.ckpt-7", {**weights, "global_step": 7}, meta)
    before = digests(bucket / "run")
    rows = (digits_folder / "val_im_list.txt").read_text().splitlines(True)[:20]
    (tmp_path / "list.txt").write_text("".join(rows))
    images = ["--batch_size=8", f"--images_dir={digits_folder}", tmp_path / "list.txt"]
    results = {"extract_feature.py": "features.txt", "evaluate.py": "evaluation"}
    for model, place in (("s3://bucket/run", "s3://bucket"), (bucket / "run", tmp_path)):
        for script, name in results.items():
            mode = ["--label_mode=multi"] if name == "evaluation" else []
            options = [f"--model_dir={model}", f"--result={place}/{name}", *mode, *images]
            done = run_script(script, *options)
            assert done.returncode == 0, done.stderr
            assert str(temporary) not in done.stdout + done.stderr
    for name in ("features.txt", "evaluation/predictions.csv"):
        assert (bucket / name).read_bytes() == (tmp_path / name).read_bytes()
    report = json.loads((bucket / "evaluation/metrics.json").read_text())
    assert report["evaluations"][0]["checkpoint"] == "s3://bucket/run/model.ckpt-7"
    assert digests(bucket / "run") == before  # nothing is written or deleted there
    assert not [name for name in digests(bucket) if ".partial" in name]
    assert not list(temporary.iterdir())


def write_images(folder: Path, count: int) -> None:
    """Images of about 30 kB, and their list."""
    (folder / "images").mkdir()
    for number in range(count):
        pixels = np.random.default_rng(number).integers(0, 256, (150, 200, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.jpg", quality=90)
    rows = (f"{number}.jpg\t{number % 7}:1\n" for number in range(count))
    (folder / "list.txt").write_text("".join(rows))


def convert_command(folder: Path, output: object) -> list[str]:
    command = [sys.executable, str(ROOT / "data/tfrecord.py"), "-idx", str(folder / "list.txt")]
    command += ["-im", str(folder / "images"), "--shard_size", "10", "-tfs", str(output)]
    return command


@pytest.mark.slow
def test_a_killed_conversion_to_a_url_gives_the_same_bytes_and_needs_little_disk(
    s3, bucket, temporary, tmp_path
):
    write_images(tmp_path, 300)
    local = [*convert_command(tmp_path, tmp_path / "records"), "--processes", "2"]
    subprocess.run(local, check=True, capture_output=True)
    s3.latency, s3.fail_every = 0.02, 50
    command = [*convert_command(tmp_path, "s3://bucket/records"), "--processes", "2"]
    killed = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    wait_for(bucket / "records/.shards/00004.tfrecords.json", killed)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (bucket / "records/manifest.json").exists()
    made = {path.name: path.stat().st_mtime_ns for path in bucket.glob("records/.shards/*")}
    most = 0

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            used = 0
            with contextlib.suppress(FileNotFoundError):  # it is just being removed
                for path in temporary.glob("*/files/s3/bucket/records/*"):
                    if not path.name.endswith(".idx"):
                        used += path.stat().st_blocks * 512
            most = max(most, used)
            time.sleep(0.005)

    done = threading.Event()
    watcher = threading.Thread(target=watch)
    watcher.start()
    resumed = subprocess.run(command, capture_output=True, text=True)
    done.set()
    watcher.join()
    assert resumed.returncode == 0, resumed.stderr
    assert "300 images in 30 shards of s3://bucket/records:" in resumed.stdout
    assert digests(bucket / "records") == digests(tmp_path / "records")
    kept = [bucket / "records" / name.removesuffix(".json") for name in made]
    assert len(kept) >= 5 and max(path.stat().st_mtime_ns for path in kept) <= max(made.values())
    shard = max(path.stat().st_size for path in bucket.glob("records/*.tfrecords"))
    assert 0 < most < 4 * shard < sum(p.stat().st_size for p in bucket.rglob("*.tfrecords")) / 5
    assert not list(temporary.iterdir())
    verified = subprocess.run([*command, "--verify"], capture_output=True, text=True)
    assert verified.returncode == 0 and "no problems" in verified.stdout, verified.stderr


@pytest.mark.slow
def test_ranks_convert_to_a_url(bucket, temporary, tmp_path):
    write_images(tmp_path, 60)
    subprocess.run(convert_command(tmp_path, tmp_path / "records"), check=True, capture_output=True)
    command = [*MPIRUN, "-np", "2", *convert_command(tmp_path, "s3://bucket/records")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert digests(bucket / "records") == digests(tmp_path / "records")
    assert not list(temporary.rglob("*.tfrecords"))


@pytest.mark.slow
def test_lists_and_statistics_at_urls(bucket, digits_folder, capsys):
    (bucket / "list.txt").write_bytes((digits_folder / "val_im_list.txt").read_bytes())
    (bucket / "dictionary.txt").write_bytes((digits_folder / digits.DICTIONARY).read_bytes())
    arguments = ["--list", "s3://bucket/list.txt", "--output", "s3://bucket/out/some.txt"]
    arguments += ["--count", "5", "--processes", "1"]
    assert subset.main(arguments) == 0
    assert "5 taken" in (out := capsys.readouterr().out) and "s3://bucket/out/some.txt" in out
    assert len((bucket / "out/some.txt").read_text().splitlines()) == 5
    arguments = ["--train", "s3://bucket/list.txt", "--dictionary", "s3://bucket/dictionary.txt"]
    label_statistics.main([*arguments, "--output", "s3://bucket/out", "--processes", "1"])
    assert (bucket / "out/images_per_class.csv").stat().st_size
    assert "s3://bucket/out/images_per_class.csv" in capsys.readouterr().out


def test_inputs_at_a_web_server(s3, bucket, digits_folder):
    (bucket / "run").mkdir()
    (bucket / "names.txt").write_bytes(b"a\n" * 50_000)
    for name in ("model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"):
        (bucket / "run" / name).write_bytes(b"x" * 100_000)
    local = mirror.open_input("dictionary", f"{s3.url}/bucket/names.txt")
    assert Path(local).read_bytes() == b"a\n" * 50_000
    folder = Path(mirror.open_input("model_dir", f"{s3.url}/bucket/run/"))
    assert len(list(folder.iterdir())) == 2
    prefix = Path(mirror.open_input("model_dir", f"{s3.url}/bucket/run/model.ckpt-7"))
    mirror.fetch(f"{prefix}.index")
    assert Path(f"{prefix}.index").read_bytes() == b"x" * 100_000
    mirror.close()


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["-tfs", "s3://missing/records"], "--tfrecords: s3://missing/records/"),
        (["-tfs", "s3://denied/records"], "access denied"),
        (["-tfs", "s3://bucket/../x"], "--tfrecords: s3://bucket/../x: a name in it is empty"),
        (["-tfs", "r", "-im", "s3://bucket/x"], "--images=s3://bucket/x is a URL: name a file or"),
    ],
)
def test_a_tools_mistake_is_one_line(bucket, tmp_path, monkeypatch, capsys, arguments, problem):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("a.jpg\t1\n")
    assert tfrecord.main(["-idx", "list.txt", "-im", ".", *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and problem in error and error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["list.txt", "s3"]


@pytest.mark.parametrize(
    ("script", "arguments", "problem"),
    [
        ("train.py", ["--model_dir=s3://missing/run"], "--model_dir: s3://missing/run/"),
        ("train.py", ["--log_dir=s3://denied/log"], "access denied"),
        ("evaluate.py", ["--scratch_dir=s3://bucket/x"], "--scratch_dir=s3://bucket/x is a URL"),
        ("extract_feature.py", ["--result=s3://missing/x.npy"], "--result: s3://missing/"),
        (
            "image_classification.py",
            ["--model_dir=s3://bucket/run", "list.txt"],
            "no checkpoint s3://bucket/run: no such folder",
        ),
    ],
)
def test_a_root_scripts_mistake_is_one_line(
    bucket, tmp_path, call_script, capsys, script, arguments, problem
):
    assert call_script(script, *arguments) == 1
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and problem in lines[0] and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir() if path.name != "s3"] == []
