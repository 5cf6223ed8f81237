"""The cache of parts of files: right, bounded, shared, and safe to kill."""

import fcntl
import multiprocessing
import os
import resource
import signal
import time

import pytest

from data.common import block_cache, storage
from data.common.block_cache import BlockCache, RangeReader
from data.common.errors import UserError

MIB = 1 << 20


def size_of(folder):
    return sum(path.stat().st_size for path in folder.iterdir() if path.name != ".lock")


def test_what_was_put_is_got(tmp_path):
    BlockCache(tmp_path / "cache", MIB).put("a", b"content")
    again = BlockCache(tmp_path / "cache", MIB)
    assert again.get("a") == b"content"
    assert again.get("b") is None


def test_blocks_used_least_recently_go(tmp_path):
    cache = BlockCache(tmp_path, 10 * 1004)
    for number in range(9):
        cache.put(str(number), bytes(1000))
        time.sleep(0.002)
    assert cache.get("0") is not None
    time.sleep(0.002)
    cache.put("9", bytes(1000))
    assert size_of(tmp_path) == 10 * 1004
    cache.put("10", bytes(1000))
    assert [number for number in range(11) if cache.get(str(number)) is None] == [1, 2]
    assert size_of(tmp_path) == 9 * 1004
    cache.put("large", bytes(20_000))
    assert cache.get("large") is None and cache.get("10") is not None
    BlockCache(tmp_path, 3 * 1004)
    assert size_of(tmp_path) <= 3 * 1004


def _file(key):
    return block_cache._name(key)


@pytest.mark.parametrize("damage", ["flipped", "short", "empty", "another", "link", "pipe"])
def test_damage_is_noticed_and_replaced(tmp_path, damage):
    cache = BlockCache(tmp_path / "cache", MIB)
    cache.put("a", b"content")
    cache.put("b", b"other")
    path = tmp_path / "cache" / _file("a")
    content = path.read_bytes()
    path.unlink()
    if damage == "link":
        (tmp_path / "secret").write_bytes(content)
        path.symlink_to(tmp_path / "secret")
    elif damage == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(
            {
                "flipped": content[:-1] + b"?",
                "short": content[:-1],
                "empty": b"",
                "another": (tmp_path / "cache" / _file("b")).read_bytes(),
            }[damage]
        )
    assert cache.get("a") is None
    cache.put("a", b"content")
    assert cache.get("a") == b"content" and not path.is_symlink()
    assert int((tmp_path / "cache" / ".lock").read_text()) <= size_of(tmp_path / "cache") + 11


def _write_for_ever(folder, seed):
    cache = BlockCache(folder, 20 * MIB)
    for number in range(10**9):
        cache.put(f"{seed} {number}", bytes([number % 256]) * MIB)


@pytest.mark.slow
def test_processes_share_it_within_the_bound_and_may_be_killed(tmp_path):
    context = multiprocessing.get_context("fork")
    most = 0
    for round_ in range(3):
        processes = [
            context.Process(target=_write_for_ever, args=(tmp_path, f"{round_} {n}"))
            for n in range(3)
        ]
        for process in processes:
            process.start()
        begin = time.monotonic()
        while (passed := time.monotonic() - begin) < 0.2 or (most <= 10 * MIB and passed < 10):
            most = max(most, _size_at_rest(tmp_path))
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        most = max(most, size_of(tmp_path))
    assert 10 * MIB < most <= 20 * MIB
    BlockCache(tmp_path, 20 * MIB).put("a", b"content")
    blocks = [path for path in tmp_path.iterdir() if path.name != ".lock"]
    assert int((tmp_path / ".lock").read_text()) == sum(path.stat().st_size for path in blocks)
    assert all(len(path.name) == 64 for path in blocks)


def _size_at_rest(folder):
    with open(folder / ".lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        return size_of(folder)


def test_a_folder_that_cannot_be_written_is_a_warning(tmp_path, caplog, s3):
    (tmp_path / "file").write_text("")
    (s3.folder / "bucket" / "a").write_bytes(b"content")
    (file,) = storage.find("s3://bucket/a")
    ranges = RangeReader(str(tmp_path / "file"))
    assert ranges.read(file, 1, 3) == ranges.read(file, 1, 3) == b"ont"
    (warning,) = caplog.messages
    assert f"--cache_dir={tmp_path / 'file'} is no longer written to" in warning


def test_a_full_disk_is_a_warning(tmp_path, caplog, monkeypatch):
    cache = BlockCache(tmp_path, MIB)
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        cache.put("a", bytes(2000))
        cache.put("b", bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert "File too large" in caplog.messages[0] and len(caplog.messages) == 1
    assert size_of(tmp_path) == 0 == int((tmp_path / ".lock").read_text())


def test_parts_are_asked_for_once_while_the_file_is_the_same(tmp_path, s3):
    path = s3.folder / "bucket" / "a"
    path.write_bytes(b"0123456789")
    (file,) = storage.find("s3://bucket/a")
    for _ in range(2):
        ranges = RangeReader(str(tmp_path / "cache"))
        assert ranges.read(file, 2, 3) == b"234" and ranges.read(file, 8, 9) == b"89"
    assert s3.requests["GET /bucket/a bytes=2-4"] == 1
    assert s3.requests["GET /bucket/a bytes=8-16"] == 1
    path.write_bytes(b"abcdefghij")
    (changed,) = storage.find("s3://bucket/a")
    assert ranges.read(changed, 2, 3) == b"cde"
    path.write_bytes(b"abc")
    with pytest.raises(UserError, match="s3://bucket/a: changed while it was being read"):
        ranges.read(changed, 2, 4)


def test_files_without_a_version_are_not_cached(tmp_path, s3):
    (s3.folder / "bucket" / "a").write_bytes(b"0123456789")
    ranges = RangeReader(str(tmp_path / "cache"))
    for _ in range(2):
        assert ranges.read(storage.StoredFile("s3://bucket/a", 10, ""), 2, 3) == b"234"
    assert s3.requests["GET /bucket/a bytes=2-4"] == 2


def test_a_cache_at_a_url_is_refused():
    with pytest.raises(UserError, match="--cache_dir=s3://bucket/cache: the cache is a folder"):
        RangeReader("s3://bucket/cache")
