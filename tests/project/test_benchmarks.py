"""What the benchmarks share: contenders that take turns, and the table of all parts."""

import json

import pytest

from benchmarks import contenders, summary

SERVES = """
import os, sys
from benchmarks.contenders import serve
serve({"built": True}, {"variable": lambda: os.environ.get("KEPT"), "die": lambda: os._exit(1)})
"""


def test_a_contender_answers_and_its_death_is_told(monkeypatch):
    monkeypatch.setenv("KEPT", "here")
    for environment, expected in (
        ({}, "here"),
        ({"KEPT": "changed"}, "changed"),
        ({"KEPT": None}, None),
    ):
        contender = contenders.Contender(["-c", SERVES], environment)
        assert contender.facts == {"built": True}
        assert contender.ask("variable") == expected
        with pytest.raises(RuntimeError, match="a contender died: no output"):
            contender.ask("die")
        contender.close()


def test_a_contender_that_cannot_start_says_why():
    contender = contenders.Contender(["-c", "import nothing_of_that_name"])
    assert contender.facts is None
    assert contender.failure() == "ModuleNotFoundError: No module named 'nothing_of_that_name'"
    contender.close()


def test_the_table_of_all_parts(tmp_path, capsys):
    train = {
        "what": "ours",
        "batch": 32,
        "images/s": 3.0712,
        "of the peak": 0.87,
        "MiB": 6200,
    }
    limit = {"limit": "memory", "value": 38.3, "unit": "GB/s"}
    workers = {"workers": 2, "setting": "4 groups", "images_per_second": 2.1, "efficiency": 0.96}
    parts = {"train": [train], "limits": [limit], "scaling": {"rows": [workers]}}
    for name, content in parts.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    assert summary.main([str(tmp_path)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()[4:]
    assert lines == [
        "| limits | memory | 38.3 GB/s |  |  |  |",
        "| scaling | workers 2, setting 4 groups | 2.1 images_per_second | 0.96 efficiency |  |  |",
        "| train | ours, batch 32 | 3.07 images/s | 0.87 of the peak |  | 6200 MiB |",
    ]
