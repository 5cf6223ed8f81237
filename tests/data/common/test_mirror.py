"""Working copies of folders and files at URLs, here of fsspec's file system in memory."""

import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
from argparse import ArgumentParser
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from data.common import command, mirror, output_lock, storage
from data.common.errors import UserError
from data.common.files import atomic_write
from data.common.working_copy import WorkingCopy

ROOT = Path(__file__).resolve().parents[3]
LARGE = bytes(range(256)) * 1024  # 256 KiB
URL = "memory://bucket/run"


@pytest.fixture(autouse=True)
def temporary_folder(tmp_path, monkeypatch):
    """Working copies are in a folder of the test; the storage is empty."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield tmp_path
    mirror.close()


@pytest.fixture
def uploads(monkeypatch):
    """The URLs of all uploads, in order."""
    urls, upload = [], storage.upload

    def noted(path, url):
        upload(path, url)
        urls.append(url)

    monkeypatch.setattr(storage, "upload", noted)
    return urls


def stored() -> dict[str, bytes]:
    """The files in the storage by their path in the bucket."""
    beginning = len("/bucket/")
    return {name[beginning:]: file.getvalue() for name, file in MemoryFileSystem.store.items()}


def blocks(path) -> int:
    return os.stat(path).st_blocks


def test_local_paths_are_left_alone(tmp_path):
    opened = [open_("result", str(tmp_path)) for open_ in (mirror.open_folder, mirror.open_file)]
    assert [*opened, mirror.open_input("x", "a/b")] == [str(tmp_path), str(tmp_path), "a/b"]
    path = tmp_path / "file"
    atomic_write(path, "text")
    for leave in (mirror.pull, mirror.fetch, mirror.send, mirror.push, mirror.release):
        leave(path)
    mirror.open_folder("x", URL)
    for leave in (mirror.pull, mirror.fetch, mirror.send, mirror.push, mirror.release):
        leave(path)
    assert path.read_text() == "text" and not mirror.is_placeholder(path)
    assert stored() == {} and mirror.url_of(path) is None


def test_a_file_is_at_its_url_as_soon_as_it_is_written():
    folder = Path(mirror.open_folder("result", f"{URL}/"))
    atomic_write(folder / "a" / "x.json", "1")
    assert stored() == {"run/a/x.json": b"1"}
    atomic_write(folder / "a" / "x.json", "2")
    assert stored() == {"run/a/x.json": b"2"}
    assert mirror.url_of(folder / "a" / "x.json") == f"{URL}/a/x.json"
    assert mirror.shown(f"see {folder}/a/x.json") == f"see {URL}/a/x.json"


def test_what_is_at_the_url_is_here_and_takes_no_space_if_it_is_large(uploads):
    storage.write(f"{URL}/small", b"small")
    storage.write(f"{URL}/in/large", LARGE)
    folder = Path(mirror.open_folder("result", URL))
    large = folder / "in" / "large"
    assert (folder / "small").read_bytes() == b"small"
    assert large.stat().st_size == len(LARGE) and blocks(large) == 0
    mirror.push(folder)
    mirror.finish()
    assert uploads == []
    mirror.fetch(large)
    assert large.read_bytes() == LARGE
    mirror.push(folder)
    assert uploads == [] and stored()["run/in/large"] == LARGE


def test_a_released_file_stays_at_its_url(uploads):
    folder = Path(mirror.open_folder("result", URL))
    atomic_write(folder / "large", LARGE)
    before = (folder / "large").stat()
    mirror.release(folder / "large")
    after = (folder / "large").stat()
    assert blocks(folder / "large") == 0 and mirror.is_placeholder(folder / "large")
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    mirror.push(folder)
    mirror.pull(folder)
    assert uploads == [f"{URL}/large"] and stored()["run/large"] == LARGE
    mirror.fetch(folder / "large")
    assert (folder / "large").read_bytes() == LARGE


def test_what_is_not_at_its_url_is_not_released():
    folder = Path(mirror.open_folder("result", URL))
    atomic_write(folder / "large", LARGE)
    with open(folder / "large", "ab") as file:
        file.write(b"more")
    mirror.release(folder / "large")
    assert (folder / "large").read_bytes() == LARGE + b"more"


def test_push_uploads_what_has_changed_and_deletes_what_is_gone(uploads):
    storage.write(f"{URL}/old/file", b"old")
    storage.write(f"{URL}/other", b"other")
    folder = Path(mirror.open_folder("result", URL))
    (folder / "log").write_bytes(b"1\n")
    (folder / ".log.17.tmp").write_bytes(b"half")
    (folder / ".lock").write_bytes(b"")
    mirror.push(folder)
    with open(folder / "log", "ab") as file:
        file.write(b"2\n")
    (folder / "old" / "file").unlink()
    (folder / "old").rmdir()
    mirror.push(folder)
    mirror.push(folder)
    assert uploads == [f"{URL}/log"] * 2
    assert stored() == {"run/log": b"1\n2\n", "run/other": b"other"}
    (folder / "log").unlink()
    mirror.push(folder / "log")
    assert stored() == {"run/other": b"other"}


def test_pull_takes_over_what_others_write_and_delete():
    storage.write(f"{URL}/a", b"1")
    storage.write(f"{URL}/b", b"1")
    folder = Path(mirror.open_folder("result", URL))
    (folder / "own").write_bytes(b"not there yet")
    MemoryFileSystem.store.pop("/bucket/run/b")
    storage.write(f"{URL}/a", b"2")
    storage.write(f"{URL}/in/c", b"3")
    mirror.pull(folder)
    found = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"a": b"2", "c": b"3", "own": b"not there yet"}


def test_pull_leaves_alone_what_is_not_sent_yet():
    storage.write(f"{URL}/log", b"1")
    folder = Path(mirror.open_folder("log_dir", URL))
    (folder / "log").write_bytes(b"1, 2")
    storage.write(f"{URL}/log", b"other")
    mirror.pull(folder)
    assert (folder / "log").read_bytes() == b"1, 2"
    mirror.push(folder)
    assert stored() == {"run/log": b"1, 2"}


def test_it_is_said_once_that_locks_do_not_reach_there(caplog):
    output_lock._say_that_urls_have_none.cache_clear()
    folder = mirror.open_folder("model_dir", URL)
    with caplog.at_level(logging.INFO):
        output_lock.run(lambda: output_lock.claim_folders({"a": folder, "b": f"{folder}/best"}))
    assert [record.message for record in caplog.records] == [
        "outputs at URLs are not locked: do not start a second job that writes to them"
    ]


def test_names_that_lead_out_of_the_folder_are_left_out(temporary_folder):
    storage.write(f"{URL}/a", b"a")
    for name in ("/bucket/run/../../../evil", "/bucket/run//evil", "/bucket/run/./evil"):
        MemoryFileSystem.store[name] = MemoryFileSystem.store["/bucket/run/a"]
    folder = Path(mirror.open_folder("result", URL))
    assert [path.name for path in folder.iterdir()] == ["a"]
    assert not list(temporary_folder.rglob("evil"))


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("memory://bucket/../run", "a name in it is empty, . or .."),
        ("memory://bucket//run", "a name in it is empty, . or .."),
        ("memory://", "a name in it is empty, . or .."),
        ("file:///tmp/run", "give a local path, without file://"),
        ("nowhere://bucket/run", "Protocol not known: nowhere"),
    ],
)
def test_odd_urls_are_a_mistake_in_one_line(url, problem):
    for opened in (mirror.open_folder, mirror.open_file, mirror.open_input):
        with pytest.raises(UserError, match="--result: ") as raised:
            opened("result", url)
        assert problem in str(raised.value) and "\n" not in str(raised.value)


def test_an_output_that_cannot_be_written_is_a_mistake_at_the_start(monkeypatch):
    def denied(url, content):
        raise UserError(f"{url}: access denied")

    monkeypatch.setattr(storage, "write", denied)
    with pytest.raises(UserError, match=r"--log_dir: memory://bucket/run/.*: access denied"):
        mirror.open_folder("log_dir", URL)


@pytest.mark.parametrize("folder", [URL, "memory://bucket"])
def test_of_a_checkpoint_all_files_are_here_and_no_others(folder):
    for name in ("7.index", "7.json", "7.data-00000-of-00001", "70.index"):
        storage.write(f"{folder}/model.ckpt-{name}", LARGE if "data" in name else b"x")
    expected = {f"model.ckpt-7{end}" for end in (".index", ".json", ".data-00000-of-00001")}
    for given in ("model.ckpt-7", "model.ckpt-7.index", "model.ckpt-7.data-00000-of-00001"):
        local = Path(mirror.open_input("pretrain_ckpt", f"{folder}/{given}"))
        assert local.name == given
        assert {path.name for path in local.parent.iterdir()} == expected
        mirror.close()


def test_a_large_input_file_is_read_whole():
    storage.write(f"{URL}/dictionary.txt", LARGE)
    local = mirror.open_input("dictionary", f"{URL}/dictionary.txt")
    assert Path(local).read_bytes() == LARGE


def test_close_uploads_what_is_left_and_removes_the_copy(temporary_folder):
    folder = Path(mirror.open_folder("result", URL))
    folder.mkdir(parents=True)
    (folder / "log").write_bytes(b"last")
    assert os.stat(next(temporary_folder.iterdir())).st_mode & 0o777 == 0o700
    mirror.close()
    assert stored() == {"run/log": b"last"} and list(temporary_folder.iterdir()) == []


def fails(error):
    def fail(*_, **__):
        raise error

    return fail


def test_a_file_whose_release_is_interrupted_stays_at_its_url(monkeypatch):
    folder = Path(mirror.open_folder("result", URL))
    atomic_write(folder / "large", LARGE)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "utime", fails(KeyboardInterrupt()))
        mirror.release(folder / "large")
    mirror.close()
    assert stored() == {"run/large": LARGE}


def test_a_full_disk_while_a_folder_is_opened_changes_nothing_at_its_url(monkeypatch):
    storage.write(f"{URL}/large", LARGE)
    storage.write(f"{URL}/small", b"small")
    before = stored()
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr(Path, "write_text", fails(OSError("the disk is full")))  # of records
        mirror.open_folder("result", URL)
    mirror.close()
    assert stored() == before


def test_a_folder_that_cannot_be_listed_does_not_count_as_empty(monkeypatch):
    storage.write(f"{URL}/large", LARGE)
    folder = Path(mirror.open_folder("result", URL))
    with monkeypatch.context() as patch, pytest.raises(OSError, match="too many open files"):
        patch.setattr(os, "scandir", fails(OSError("too many open files")))
        mirror.push(folder)
    mirror.close()
    assert stored() == {"run/large": LARGE}


def test_what_has_not_changed_is_not_read_again(monkeypatch):
    storage.write(f"{URL}/small", b"small")
    storage.write(f"{URL}/large", LARGE)
    folder = Path(mirror.open_folder("result", URL))
    mirror.fetch(folder / "large")
    monkeypatch.setattr(storage, "download", fails(AssertionError("read again")))
    mirror.pull(folder)
    assert (folder / "large").read_bytes() == LARGE


def test_cleaners_of_temporary_folders_find_it_locked(temporary_folder):
    mirror.open_folder("result", URL)
    (root,) = temporary_folder.iterdir()
    descriptor = os.open(root, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(descriptor)


def test_what_could_not_be_uploaded_is_kept(temporary_folder, monkeypatch):
    folder = Path(mirror.open_folder("model_dir", URL))

    away = UserError(f"{URL}/weights: no answer; retried for 120 s")
    monkeypatch.setattr(storage, "upload", fails(away))
    with pytest.raises(UserError) as raised:
        atomic_write(folder / "weights", LARGE)
    (root,) = temporary_folder.iterdir()
    assert str(raised.value) == (
        f"{URL}/weights: no answer; retried for 120 s; what could not be uploaded is in {root}"
    )
    assert mirror.shown(str(raised.value)) == str(raised.value)
    mirror.close()
    WorkingCopy().remove()
    assert (root / "files/memory/bucket/run/weights").read_bytes() == LARGE


def test_what_a_killed_process_left_is_removed_and_what_a_live_one_has_is_not(temporary_folder):
    made = "import time; from data.common.working_copy import WorkingCopy; copy = WorkingCopy()"
    script = f"{made}; print(copy.root, flush=True); time.sleep(60)"
    environment = os.environ | {"TMPDIR": str(temporary_folder)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, env=environment
        )
        for _ in range(2)
    ]
    killed, live = (Path(process.stdout.readline().decode().strip()) for process in processes)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].wait()
    WorkingCopy().remove()
    assert not killed.exists() and live.exists()
    processes[1].kill()
    processes[1].wait()


def test_arguments_at_urls(temporary_folder):
    storage.write(f"{URL}/list.txt", b"1")
    parser = ArgumentParser()
    for name in ("--output", "--page", "--title"):
        parser.add_argument(name)
    parser.add_argument("--list", type=Path, nargs="+")
    places = {"folders": ["output"], "inputs": ["list"], "others": ["title"]}
    argv = ["--output", URL, "--title", "s3://x", "--list", f"{URL}/list.txt", "here.txt"]
    args = command.parse(parser, argv, **places)
    assert args.title == "s3://x" and args.page is None
    assert [mirror.url_of(args.output), mirror.url_of(args.list[0])] == [URL, f"{URL}/list.txt"]
    assert args.list[0].read_bytes() == b"1" and args.list[1] == Path("here.txt")
    with pytest.raises(UserError, match="--page=s3://x is a URL: name a file or folder of a local"):
        command.parse(parser, ["--page", "s3://x"], **places)
