"""Training and evaluation on records at URLs, as users start them."""

import numpy as np
import pytest
from digit_records import write_records

from models.checkpoints import checkpoint

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
