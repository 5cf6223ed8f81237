"""Progress without a terminal: a line now and then, with what is left."""

from data.common import progress
from data.common.progress import Progress


def test_lines_in_a_log(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("conversion", 10, "shard", done=2) as shown:
        for _ in range(8):
            now[0] += 10
            shown.update()
    assert capsys.readouterr().err.splitlines() == [
        "conversion: 5 of 10 shards, 00:30 gone, 00:50 left, 10.00s/shard",
        "conversion: 8 of 10 shards, 01:00 gone, 00:20 left, 10.00s/shard",
    ]


def test_bytes_are_shown_in_larger_units(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("list.txt", 2_000_000_000, "B") as shown:
        now[0] += 100
        shown.update(500_000_000)
    line = capsys.readouterr().err
    assert line == "list.txt: 500M of 2.00G B, 01:40 gone, 05:00 left, 5.00MB/s\n"


def test_work_of_unknown_size_with_a_note(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with Progress("prediction", None, "image", done=10) as shown:
        now[0] += 40
        shown.update(80, "3 unreadable")
        assert shown.per_second() == 2
        assert shown.per_second(20) == 0.5
    line = capsys.readouterr().err
    assert line == "prediction: 90 images, 00:40 gone,  2.00image/s, 3 unreadable\n"
