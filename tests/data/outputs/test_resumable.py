"""Output that survives kill -9: what counts after it, and what is refused."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from data.common.errors import UserError
from data.outputs.resumable import Part, clean, join, part_path, totals

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = {"depth": 50, "sizes": (1, 2)}
# Appends numbered rows for ever, with a commit every few rows.
ENDLESS = """
import itertools, pathlib, sys, time
sys.path.insert(0, {root!r})
from data.outputs import resumable
resumable.COMMIT_SECONDS = 0.005
with resumable.Part(pathlib.Path({result!r}), {settings!r}, header=b"head\\n") as part:
    for row in itertools.count(part.items):
        part.append(b"%d\\n" % row, 1, row % 2)
        print(row, flush=True)
        time.sleep(0.0005)
"""


def test_a_killed_run_goes_on_to_identical_bytes(tmp_path):
    result = tmp_path / "result.txt"
    code = ENDLESS.format(root=str(ROOT), result=str(result), settings=SETTINGS)
    for rows in (40, 90):  # killed twice
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
            for line in process.stdout:
                if int(line) >= rows:
                    process.send_signal(signal.SIGKILL)
    with Part(result, SETTINGS, header=b"head\n") as part:
        assert part.items > 0
        assert part.bad_items == part.items // 2
        for row in range(part.items, 1000):
            part.append(b"%d\n" % row, 1, row % 2)
    assert totals(result, 1) == (1000, 500)
    assert join(result, 1).read_bytes() == b"head\n" + b"".join(b"%d\n" % i for i in range(1000))


def test_what_was_not_committed_does_not_count(tmp_path):
    result = tmp_path / "result.txt"
    with Part(result, SETTINGS) as part:
        part.append(b"one\n", 1, 0)
    with open(part_path(result, 0, 1), "ab") as file:
        file.write(b"tw")  # written, but killed before the commit
    with Part(result, SETTINGS) as part:
        assert part.items == 1
        part.append(b"two\n", 1, 0)
    assert join(result, 1).read_bytes() == b"one\ntwo\n"


def test_other_settings_are_refused_by_name(tmp_path):
    with Part(tmp_path / "r", SETTINGS) as part:
        part.append(b"x", 1, 0)
    with pytest.raises(UserError, match=r"another depth; delete .*r.partial.json"):
        Part(tmp_path / "r", {**SETTINGS, "depth": 101})
    with Part(tmp_path / "r", SETTINGS) as part:
        assert part.items == 1


def test_a_part_shorter_than_its_journal_is_refused(tmp_path):
    with Part(tmp_path / "r", SETTINGS) as part:
        part.append(b"xyz", 1, 0)
    part.path.write_bytes(b"x")
    with pytest.raises(UserError, match="shorter"):
        Part(tmp_path / "r", SETTINGS)


def test_an_altered_part_is_refused(tmp_path):
    with Part(tmp_path / "r", SETTINGS, header=b"head") as part:
        part.append(b"xyz", 1, 0)
    part.path.write_bytes(b"headxYz")
    with pytest.raises(UserError, match=r"r\.partial is damaged.*; delete .*json to begin again"):
        Part(tmp_path / "r", SETTINGS)
    part.path.write_bytes(b"headxyz" + b"not committed")
    with Part(tmp_path / "r", SETTINGS) as part:
        part.append(b"!", 1, 0)
    assert Part(tmp_path / "r", SETTINGS).items == 2


def test_a_run_without_items_leaves_nothing(tmp_path):
    with Part(tmp_path / "r", SETTINGS, header=b"head"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_parts_of_several_processes_join_in_order_and_vanish(tmp_path):
    result = tmp_path / "r"
    for rank in (2, 0):  # rank 1 had nothing to do
        with Part(result, SETTINGS, rank, 3, b"head\n") as part:
            part.append(b"%d\n" % rank, 1, rank // 2)
    assert join(result, 3).read_bytes() == b"head\n0\n2\n"
    assert totals(result, 3) == (2, 1)
    clean(result, 3)
    assert list(tmp_path.iterdir()) == []
