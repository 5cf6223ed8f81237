"""What several test files share: processes of the real scripts, and the demo data set."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from data import digits

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


@pytest.fixture
def run_script(tmp_path) -> Callable[..., subprocess.CompletedProcess]:
    """`run_script("train.py", "--lr=1", ...)`: the finished process; it runs in `tmp_path`."""

    def run(script: str, *arguments: object, **options: object) -> subprocess.CompletedProcess:
        command = [sys.executable, str(ROOT / script), *map(str, arguments)]
        return subprocess.run(
            command, **({"cwd": tmp_path, "capture_output": True, "text": True} | options)
        )

    return run


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory) -> Path:
    """The demo data set: images, lists and dictionary; see data/digits.py."""
    folder = tmp_path_factory.mktemp("digits")
    digits.write_digits(folder)
    return folder
