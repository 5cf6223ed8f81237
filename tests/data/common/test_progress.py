"""Progress: a line now and then, with what is left; a bar on a terminal, log lines above it."""

import fcntl
import logging
import os
import pty
import re
import struct
import sys
import termios

from data.common import progress
from data.common.progress import LogHandler, Progress


def test_lines_in_a_log(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("conversion", 10, "shard", done=2) as shown:
        for _ in range(8):
            now[0] += 10
            shown.update()
    assert capsys.readouterr().err.splitlines() == [
        "conversion: 5 of 10 shards, 00:30 elapsed, 00:50 left, 10.00s/shard",
        "conversion: 8 of 10 shards, 01:00 elapsed, 00:20 left, 10.00s/shard",
    ]


def test_bytes_are_shown_in_larger_units(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("list.txt", 2_000_000_000, "B") as shown:
        now[0] += 100
        shown.update(500_000_000)
    line = capsys.readouterr().err
    assert line == "list.txt: 500M of 2.00G B, 01:40 elapsed, 05:00 left, 5.00MB/s\n"


def test_work_of_unknown_size_with_a_note(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("prediction", None, "image", done=10) as shown:
        now[0] += 40
        shown.update(80, "3 unreadable")
        assert shown.per_second() == 2
        assert shown.per_second(20) == 0.5
    line = capsys.readouterr().err
    assert line == "prediction: 90 images, 00:40 elapsed,  2.00image/s, 3 unreadable\n"


def test_work_with_a_log_of_its_own_has_no_lines(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("training", 10, "step", lines=False) as shown:
        now[0] += 100
        shown.update()
    assert capsys.readouterr().err == ""


def test_log_lines_are_short_and_stand_above_the_bar_of_a_terminal(monkeypatch):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 90, 0, 0))
    logger = logging.Logger("of this test")
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        logger.addHandler(LogHandler())
        with Progress("training", 4, "step", lines=False) as shown:
            shown.update(2, "loss 1.5")
            logger.info("step %d", 2)
            logger.warning("the disk is full")
            shown.update(2)
        terminal.flush()
        text = os.read(ours, 100_000).decode()
    os.close(ours)
    lines = re.split(r"[\r\n]+", text)
    assert [line for line in lines if re.fullmatch(r"\d\d:\d\d:\d\d step 2", line)]
    assert [line for line in lines if re.fullmatch(r"[\d:]{8} warning: the disk is full", line)]
    bars = [line for line in lines if line.startswith("training:")]
    assert re.search(r"50%.* 2/4 .*loss 1\.5", "".join(bars))
    assert re.search(r"100%.* 4/4 ", bars[-1])
