"""The folder of a run at a URL: what is there at each moment, and what is here."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data.common import mirror, storage
from data.common.errors import UserError
from models.checkpoints import checkpoint
from models.checkpoints.folder import CheckpointFolder

URL = "memory://bucket/run"
WEIGHTS = np.arange(65536, dtype=np.float32)  # 256 KiB


@pytest.fixture(autouse=True)
def requests(tmp_path, monkeypatch):
    """The changes at the URL in order: `put NAME`, `delete NAME`."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    done, upload, delete = [], storage.upload, storage.delete

    def put(path, url):
        upload(path, url)
        done.append(f"put {Path(url).name}")

    def drop(url):
        delete(url)
        done.append(f"delete {Path(url).name}")

    monkeypatch.setattr(storage, "upload", put)
    monkeypatch.setattr(storage, "delete", drop)
    yield done
    mirror.close()


def opened(max_to_keep: int = 2) -> CheckpointFolder:
    """The folder as a new process sees it."""
    mirror.close()
    return CheckpointFolder(mirror.open_folder("model_dir", URL), max_to_keep)


def save(folder: CheckpointFolder, step: int) -> Path:
    return Path(folder.save(step, {"w": WEIGHTS + step, "global_step": step}, {}))


def files(step: int) -> list[str]:
    return [f"model.ckpt-{step}.{end}" for end in ("data-00000-of-00001", "json", "index")]


def test_a_checkpoint_is_whole_there_at_every_moment(requests):
    folder = opened()
    del requests[:]
    save(folder, 1)
    save(folder, 2)
    puts = [f"put {name}" for step in (1, 2) for name in [*files(step), "checkpoint"]]
    assert requests == puts
    del requests[:]
    save(folder, 3)
    assert requests[:4] == [f"put {name}" for name in [*files(3), "checkpoint"]]
    assert requests[4] == "delete model.ckpt-1.index"  # first, so that nobody reads a part
    assert sorted(requests[5:]) == sorted(f"delete {name}" for name in files(1)[:2])
    del requests[:]
    save(folder, 3)
    assert requests[0] == "delete model.ckpt-3.index"


def test_another_process_finds_and_reads_the_latest():
    for step in (1, 2, 3):
        prefix = save(opened(), step)
    data = Path(f"{prefix}.data-00000-of-00001")
    assert data.stat().st_blocks == 0  # on this disk only while it is written
    found = opened().all()
    assert [Path(other).name for other in found] == ["model.ckpt-2", "model.ckpt-3"]
    read = checkpoint.read(checkpoint.find(mirror.open_input("model_dir", URL)))
    np.testing.assert_array_equal(read.tensor("w"), WEIGHTS + 3)
    assert read.meta()["versions"]


def test_the_json_alone_is_replaced_without_reading_the_weights(monkeypatch):
    folder = opened()
    save(folder, 1)
    monkeypatch.setattr(storage, "download", lambda url, path: pytest.fail(url))
    folder.save_meta(1, {"progress": {"position": 5}})
    monkeypatch.undo()
    assert checkpoint.read(opened().latest()).meta()["progress"] == {"position": 5}


def test_a_checkpoint_that_cannot_be_uploaded_is_kept_here(tmp_path, monkeypatch):
    folder = opened()
    save(folder, 1)

    def fails(path, url):
        raise UserError(f"{url}: no answer; retried for 120 s")

    monkeypatch.setattr(storage, "upload", fails)
    with pytest.raises(UserError, match="what could not be uploaded is in /") as raised:
        save(folder, 2)
    mirror.close()
    root = Path(str(raised.value).rpartition(" is in ")[2])
    kept = checkpoint.read(root / "files/memory/bucket/run/model.ckpt-2")
    np.testing.assert_array_equal(kept.tensor("w"), WEIGHTS + 2)
