"""Where the scripts look for images and records, and what they say when none can be read."""

import numpy as np
import pytest
from PIL import Image

from data import tfrecord
from data.common.errors import UserError
from data.tfrecords.record_source import find_files
from models.checkpoints import checkpoint
from models.prediction import inference


@pytest.fixture
def listed(tmp_path):
    """A list of three images that lie elsewhere: in `elsewhere/images`."""
    images = tmp_path / "elsewhere" / "images"
    images.mkdir(parents=True)
    for number in range(3):
        colors = np.full((70, 80, 3), 60 * number, np.uint8)
        Image.fromarray(colors).save(images / f"{number}.png")
    rows = "".join(f"images/{number}.png\t{number}\n" for number in range(3))
    (tmp_path / "list.txt").write_text(rows)
    return tmp_path / "list.txt"


RUNS = [
    ("image_classification.py", "label_pred.csv"),
    ("extract_feature.py", "features.txt"),
    ("evaluate.py", "evaluation"),
]


@pytest.mark.parametrize(("script", "result"), RUNS, ids=[name for name, _ in RUNS])
def test_no_readable_image_is_an_error_with_the_count(
    call_script, thin_checkpoint, listed, capsys, script, result
):
    arguments = [f"--pretrain_ckpt={thin_checkpoint}", f"--result={result}", "--batch_size=2"]
    assert call_script(script, *arguments, listed) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: none of the 3 images could be read") and "images_dir" in error


@pytest.mark.slow
@pytest.mark.parametrize(("script", "result"), RUNS, ids=[name for name, _ in RUNS])
def test_names_in_a_list_may_be_relative_to_a_folder(
    call_script, thin_checkpoint, listed, tmp_path, script, result
):
    arguments = [f"--pretrain_ckpt={thin_checkpoint}", f"--result={result}"]
    assert not call_script(script, *arguments, "--images_dir=elsewhere", listed)
    files = [tmp_path / result] if (tmp_path / result).is_file() else [*tmp_path.glob("*/*.json")]
    text = files[0].read_text()
    assert "unreadable: " not in text
    assert "images/2.png" in text or '"unreadable_images": 0' in text


@pytest.mark.slow
def test_the_label_mode_is_that_of_the_loss_a_checkpoint_was_trained_with(
    call_script, thin_checkpoint, listed, tmp_path
):
    """Sigmoids do not add up to 1, softmax does."""
    loaded = inference.load(str(thin_checkpoint), inference.NetworkOptions(fold_batch_norm=False))
    tensors = {name: v.numpy() for name, v in loaded.network.variables_by_name().items()}
    sums = {}
    for loss in ("multi_label", "softmax"):
        meta = {"flags": {"image_size": 64, "loss": loss}}
        prefix = checkpoint.save(tmp_path / loss / "model.ckpt-1", tensors, meta)
        arguments = [f"--model_dir={prefix}", "--images_dir=elsewhere", "--top_k_pred=11"]
        assert not call_script("image_classification.py", *arguments, listed)
        first = (tmp_path / "label_pred.txt").read_text().split("+++")[1].splitlines()[1:]
        sums[loss] = sum(float(line.rpartition(": ")[2]) for line in first if line)
    assert abs(sums["softmax"] - 1) < 0.02 < abs(sums["multi_label"] - 1)


def test_a_folder_above_train_and_val_stands_for_them(tmp_path):
    for split in ("train", "val"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "00000.tfrecords").write_bytes(b"")
    assert find_files(tmp_path) == [str(tmp_path / "train" / "00000.tfrecords")]
    assert find_files(tmp_path, "val") == [str(tmp_path / "val" / "00000.tfrecords")]
    (tmp_path / "own.tfrecord").write_bytes(b"")
    assert find_files(tmp_path) == [str(tmp_path / "own.tfrecord")]
    with pytest.raises(UserError, match="no record files"):
        (tmp_path / "empty").mkdir()
        find_files(tmp_path / "empty")


@pytest.mark.parametrize("earlier", [False, True])
def test_shards_are_named_as_released_but_go_on_as_an_earlier_version_began(
    listed, tmp_path, earlier
):
    records = tmp_path / "records"
    command = ["--indexs", str(listed), "--images", str(tmp_path / "elsewhere")]
    command += ["--tfrecords", str(records), "--shard_size", "2", "--processes", "1"]
    if earlier:
        records.mkdir()
        (records / "00000.tfrecord").write_bytes(b"")
    assert tfrecord.main(command) == 0
    made = sorted(path.name for path in records.glob("*.tfrecord*") if path.suffix != ".idx")
    suffix = ".tfrecord" if earlier else ".tfrecords"
    assert made == [f"00000{suffix}", f"00001{suffix}"]
