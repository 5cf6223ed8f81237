"""Results that survive kill -9: what counts after it, and what is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.errors import UserError
from data.outputs.result_files import ResultShards, ShardWriter

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"depth": 50, "sizes": (1, 2)}
# Appends numbered rows for ever, with a shard every few rows.
ENDLESS = """
import itertools, pathlib, sys, time
sys.path.insert(0, {root!r})
from data.outputs import result_files
result_files.SHARD_SECONDS = 0.005
shards = result_files.ResultShards(pathlib.Path({result!r}), {settings!r})
(first, _), = shards.gaps(0, 1000, 1000, 1)
with result_files.ShardWriter(shards, first) as writer:
    for row in itertools.count(first):
        writer.append(b"%d\\n" % row, 1, row % 2)
        print(row, flush=True)
        time.sleep(0.0005)
"""


def write(shards: ResultShards, start: int, stop: int) -> None:
    with ShardWriter(shards, start) as writer:
        for row in range(start, stop):
            writer.append(b"%d\n" % row, 1, row % 2)


def rows(count: int) -> bytes:
    return b"".join(b"%d\n" % row for row in range(count))


@pytest.fixture
def shards(tmp_path):
    return ResultShards(tmp_path / "result.txt", SETTINGS)


def test_a_killed_run_continues_to_identical_bytes(tmp_path):
    result = tmp_path / "result.txt"
    code = ENDLESS.format(root=str(ROOT), result=str(result), settings=SETTINGS)
    for last in (40, 90):  # killed twice
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                if int(line) >= last:
                    process.send_signal(signal.SIGKILL)
    shards = ResultShards(result, SETTINGS)
    ((first, stop),) = shards.gaps(0, 1000, 1000, 1)
    assert first > 0
    assert stop == 1000
    write(shards, first, stop)
    assert shards.totals(1000) == (1000, 500)
    assert shards.join(1000, b"head\n").read_bytes() == b"head\n" + rows(1000)


def test_other_settings_are_refused_by_name(tmp_path, shards):
    write(shards, 0, 1)
    with pytest.raises(UserError, match=r"different depth; delete it to start over"):
        ResultShards(tmp_path / "result.txt", {**SETTINGS, "depth": 101})
    assert ResultShards(tmp_path / "result.txt", SETTINGS).totals(None) == (1, 0)


def test_rows_of_an_earlier_version_are_refused(tmp_path, shards):
    shards.folder.write_text("rows")
    with pytest.raises(UserError, match=r"result.txt.partial is from an earlier version: delete"):
        ResultShards(tmp_path / "result.txt", SETTINGS)


@pytest.mark.parametrize("rows", [b"0\n1\n", b"0\n1\n3\n"])
def test_altered_rows_are_refused_and_lost_ones_made_again(shards, rows):
    write(shards, 0, 3)
    write(shards, 3, 5)
    path = shards.folder / "000000000000"
    path.write_bytes(rows)
    with pytest.raises(UserError, match=r"000000000000 is damaged .* delete it and run again"):
        shards.gaps(0, 6, 6, 1)
    path.unlink()
    assert shards.gaps(0, 6, 6, 1) == [(0, 3), (5, 6)]


def test_any_number_of_processes_continues(shards):
    write(shards, 0, 4)
    write(shards, 6, 10)  # the second of two processes, each of which was killed
    assert shards.gaps(0, 12, 12, 2) == [(4, 6), (10, 12)]
    assert shards.gaps(0, 4, 12, 2) == []
    assert shards.gaps(4, 8, 12, 2) == [(4, 6)]
    assert shards.gaps(8, 12, 12, 2) == [(10, 12)]
    write(shards, 4, 6)
    write(shards, 10, 12)
    assert shards.join(12, b"").read_bytes() == rows(12)
    shards.clean()
    assert not shards.folder.exists()


@pytest.mark.parametrize("total", [6, 8])
def test_a_last_batch_that_was_not_the_last_is_made_again(shards, total):
    write(shards, 0, 4)
    write(shards, 4, 7)
    assert shards.gaps(0, 7, 7, 2) == []
    assert shards.gaps(0, total, total, 2) == [(4, total)]
    write(shards, 4, total)
    assert shards.join(total, b"").read_bytes() == rows(total)


def test_what_is_read_once_is_continued_at_its_first_gap(shards):
    write(shards, 0, 4)
    assert shards.gaps(0, None, None, 2) == [(4, None)]
    write(shards, 6, 8)
    assert shards.gaps(0, None, None, 2) == [(4, None)]
    write(shards, 4, 9)
    assert shards.join(None, b"").read_bytes() == rows(9)


def test_a_run_without_images_leaves_nothing(shards):
    write(shards, 0, 0)
    assert not shards.folder.exists()
