"""The folder of a training run: its latest checkpoint, which ones are kept, what a kill leaves."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from models.checkpoints import checkpoint
from models.checkpoints.files import CheckpointError
from models.checkpoints.folder import CheckpointFolder

PROJECT = Path(__file__).resolve().parents[3]


def test_the_folder_keeps_the_last_and_lists_them_as_tf1_does(tmp_path):
    folder = CheckpointFolder(tmp_path, max_to_keep=2)
    assert folder.latest() is None
    others = {"resnet.ckpt-9.index", "model.ckpt-best.index", "model.ckpt-5-keep.json"}
    for name in others:
        (tmp_path / name).write_bytes(b"somebody else's")
    (tmp_path / "model.ckpt-5.folder").mkdir()
    for step in (5, 10, 100):
        prefix = folder.save(step, {"a": step}, {"step": step})
        assert folder.latest() == prefix == tf.train.latest_checkpoint(str(tmp_path))
    kept = {path.name for path in tmp_path.glob("*.ckpt-*") if path.is_file()}
    suffixes = (".data-00000-of-00001", ".index", ".json")
    own = {f"model.ckpt-{step}{suffix}" for step in (10, 100) for suffix in suffixes}
    assert kept == own | others
    state = tf.train.get_checkpoint_state(str(tmp_path))
    listed = [Path(path).name for path in state.all_model_checkpoint_paths]
    assert sorted(listed[:2]) == ["model.ckpt-best", "resnet.ckpt-9"]
    assert listed[2:] == ["model.ckpt-10", "model.ckpt-100"]


def test_a_run_restarted_from_an_earlier_step_keeps_its_new_checkpoints(tmp_path):
    folder = CheckpointFolder(tmp_path, max_to_keep=2)
    for step in (100, 200, 50):
        folder.save(step, {"a": step}, {})
    assert [Path(p).name for p in folder.all()] == ["model.ckpt-200", "model.ckpt-50"]
    folder.save(50, {"a": -1}, {})
    assert checkpoint.read(folder.latest()).tensor("a") == -1


def test_leftovers_of_a_killed_save_are_passed_over_and_removed(tmp_path):
    folder = CheckpointFolder(tmp_path)
    first = folder.save(1, {"a": 1}, {})
    for name in ("model.ckpt-2.data-00000-of-00001", "model.ckpt-3.tmp-99.index"):
        (tmp_path / name).write_bytes(b"half")
    assert folder.latest() == first
    folder.save(4, {"a": 4}, {})
    assert {p.name.split(".")[1] for p in tmp_path.glob("model*")} == {"ckpt-1", "ckpt-4"}


def test_a_checkpoint_newer_than_the_list_counts(tmp_path):
    """The list is written after the checkpoint; a kill may come between."""
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"a": 1}, {})
    newest = checkpoint.save(tmp_path / "model.ckpt-2", {"a": 2}, {})
    assert folder.latest() == newest
    (tmp_path / "checkpoint").write_text("")
    with pytest.raises(CheckpointError, match=r"damaged \(it is empty\): delete it, and"):
        folder.latest()
    (tmp_path / "checkpoint").unlink()
    assert folder.latest() == newest


def test_the_list_of_a_folder_from_windows_names_the_latest(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 20, 3):
        folder.save(step, {"a": step}, {})
    text = 'model_checkpoint_path: "C:\\\\runs\\\\a b\\\\model.ckpt-3"\n'
    (tmp_path / "checkpoint").write_text(text)
    assert checkpoint.find(tmp_path) == str(tmp_path / "model.ckpt-3")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "C:\\resnet.ckpt-3"')
    with pytest.raises(CheckpointError, match="a backslash is written twice"):
        checkpoint.find(tmp_path)


def test_a_folder_whose_name_looks_like_a_glob_is_read(tmp_path):
    for name in ("run[1]", "a*b?c", "back\\slash"):
        folder = CheckpointFolder(tmp_path / name)
        folder.save(1, {"a": np.arange(3.0)}, {"flags": {}})
        opened = checkpoint.read(folder.latest())
        assert opened.tensor("a").tolist() == [0, 1, 2] and "flags" in opened.meta()


SAVE_ON_A_FULL_DISK = """
import resource, sys
import numpy as np
from models.checkpoints.files import CheckpointError
from models.checkpoints.folder import CheckpointFolder
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    CheckpointFolder(sys.argv[1], max_to_keep=1).save(2, {"a": np.ones(1_000_000)}, {})
except CheckpointError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_full_disk_is_an_error_and_the_old_checkpoint_survives(tmp_path):
    folder = CheckpointFolder(tmp_path, max_to_keep=1)
    old = folder.save(1, {"a": 1}, {})
    done = subprocess.run(
        [sys.executable, "-c", SAVE_ON_A_FULL_DISK, tmp_path],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "model.ckpt-2 cannot be saved: " in done.stdout
    assert "File too large" in done.stdout
    assert len(done.stdout.splitlines()) == 1
    assert checkpoint.read(folder.latest()).tensor("a") == 1
    assert folder.latest() == old
    assert len(list(tmp_path.iterdir())) == 4
