"""Training and evaluation on records at URLs, as users start them."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from digit_records import write_records

from data.tfrecords.examples import encode_example
from data.tfrecords.records import RecordWriter
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
NETWORK = ("--resnet_size=14", "--width=8", "--image_size=32", "--class_num=14", "--batch_size=8")
TRAINING = ("--max_iter=4", "--lr=0.01", "--log_interval=1", "--deterministic")


def tensors(folder):
    reader = checkpoint.read(checkpoint.find(folder))
    return {name: reader.tensor(name) for name in reader.shapes}


@pytest.mark.slow
def test_training_from_s3_is_training_from_the_folder(call_script, digits_folder, tmp_path, s3):
    records = write_records(digits_folder, s3.folder / "bucket" / "train", 60)
    s3.fail_every = 10

    def train(data_dir, folder, *flags):
        places = f"--data_dir={data_dir}", f"--model_dir={folder}", f"--log_dir={folder}/log"
        assert call_script("train.py", *places, *NETWORK, *TRAINING, *flags) == 0
        return tensors(tmp_path / folder)

    local = train(records, "local", "--read_order=blocks")
    cache = f"--cache_dir={tmp_path / 'cache'}"
    for folder, flags in {"s3": (), "filled": (cache,), "cached": (cache,)}.items():
        s3.requests.clear()
        for name, value in train("s3://bucket", folder, *flags).items():
            np.testing.assert_array_equal(value, local[name], err_msg=name)
    assert not any(".idx" in name or "bytes=" in name for name in s3.requests)


# Reads the samples of training and writes their names, a line for each step, until it is killed or
# three epochs are over. It continues after the last line.
READER = """
import os, sys
from functools import partial
import numpy as np
from data.common.sharding import StepShard
from data.input.loader import SampleReader, StepPlan, load
from data.input.sampler import shuffled
from data.tfrecords.reading import ReadOptions
from data.tfrecords.record_source import RecordSource

log, cache = sys.argv[1:]
reading = ReadOptions("blocks", 0.002, 20, cache_dir=cache, cache_gib=1e-4)
source = RecordSource("s3://bucket/records", 1, 0, reading=reading)
shard = StepShard(10, first=0, count=1, total=1)
reader = SampleReader(source, shuffled(source, 7, (4, 100), shard).records)
with open(log, "ab", buffering=0) as file:
    done = open(log).read().count("\\n")
    indices = partial(shard.sample_indices, 10 * done)
    plan = StepPlan(indices, 10, 1, partial(np.empty, 10, object))
    parts = load(reader, lambda *_: None, plan, 2)
    for _ in range(done, 3 * source.total // 10):
        names = (indexed.sample.name for indexed in next(parts).samples)
        file.write(b" ".join(names) + b"\\n")
"""


@pytest.mark.slow
def test_three_epochs_have_every_record_once_each_through_a_kill_and_a_restart(s3, tmp_path):
    folder = s3.folder / "bucket" / "records"
    for shard in range(8):
        with RecordWriter(folder / f"{shard}.tfrecords") as writer:
            for number in range(50 * shard, 50 * shard + 50):
                image = bytes(100 + number)
                writer.write(encode_example("sparse", image, f"{number}", 4, 3, [0], [1.0]))
    s3.latency, s3.fail_every = 0.005, 20
    log, cache = tmp_path / "names", tmp_path / "cache"
    command = [sys.executable, "-c", READER, str(log), str(cache)]

    def read_until(steps):
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and _lines(log) < steps:
            time.sleep(0.005)
        return process

    process = read_until(30)
    process.kill()
    process.wait()
    assert 30 <= _lines(log) < 120
    process = read_until(70)
    s3.stop()
    time.sleep(2)
    s3.start()
    assert process.wait(60) == 0
    names = [int(name) for name in log.read_text().split()]
    epochs = [names[begin : begin + 400] for begin in (0, 400, 800)]
    assert len(names) == 1200 and all(sorted(epoch) == list(range(400)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert 5e4 < sum(path.stat().st_size for path in cache.iterdir()) <= 1e-4 * 2**30 + 20


def _lines(path):
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_an_evaluation_on_s3_is_that_of_the_folder(
    call_script, digits_folder, tmp_path, s3, thin_checkpoint
):
    records = write_records(digits_folder, s3.folder / "bucket" / "val", 6)
    checkpoint_flags = f"--model_dir={thin_checkpoint}", "--label_mode=multi", "--class_num=11"
    for place, folder in (records, "local"), (f"{s3.url}/bucket/val/", "web"):
        flags = f"--val_dir={place}", f"--result={folder}", "--page_mistakes=0"
        assert call_script("evaluate.py", *checkpoint_flags, *flags) == 0
    written = [(tmp_path / folder / "metrics.json").read_text() for folder in ("local", "web")]
    assert written[0].replace(str(records), "") == written[1].replace(f"{s3.url}/bucket/val/", "")


@pytest.mark.slow
def test_a_mistake_in_a_url_is_one_line(run_script, s3):
    for url, message in {
        "s3://denied/records": "s3://denied/records: access denied",
        "s3://nobody/records": "s3://nobody/records: no record files there",
        "tape://1": "tape://1: Protocol not known: tape",
    }.items():
        done = run_script("train.py", f"--data_dir={url}", *NETWORK)
        assert done.returncode == 1 and message in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr
