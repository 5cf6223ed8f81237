"""Outputs claimed by two real processes, and outputs that cannot be written."""

import errno
import fcntl
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data.common import output_lock
from data.common.errors import UserError

ROOT = Path(__file__).resolve().parents[3]
HOLDER = """
import sys
from data.common import output_lock
def main():
    output_lock.claim_folders({"model_dir": sys.argv[1]})
    output_lock.claim_file("result", sys.argv[1] + "/labels.txt")
    print("claimed", flush=True)
    sys.stdin.read()
output_lock.run(main)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder and labels.txt in it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "claimed\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def claim(folder: Path, wait_seconds: float = 0) -> None:
    def main() -> None:
        output_lock.claim_folders({"model_dir": folder}, wait_seconds)
        output_lock.claim_folders({"model_dir": folder, "log_dir": folder / "log"})
        output_lock.claim_file("result", folder / "labels.txt")

    output_lock.run(main)


def test_the_second_process_is_told_who_holds_an_output(tmp_path, holder) -> None:
    reported = (
        rf"--model_dir={tmp_path} is being written by process {holder.pid} on .* since .*\(-c "
    )
    with pytest.raises(UserError, match=reported):
        claim(tmp_path)
    with pytest.raises(UserError, match=rf"--result=.*labels.txt is .* process {holder.pid}"):
        output_lock.run(lambda: output_lock.claim_file("result", tmp_path / "labels.txt"))
    output_lock.run(lambda: output_lock.claim_file("result", tmp_path / "others.txt"))


def test_a_killed_process_holds_nothing(tmp_path, holder) -> None:
    holder.kill()
    holder.wait()
    claim(tmp_path)
    assert list(tmp_path.iterdir()) == []  # not even `log`, which it made and left empty


def test_a_job_waits_for_one_that_is_ending(tmp_path, holder) -> None:
    holder.stdin.close()  # now it ends
    claim(tmp_path, wait_seconds=60)


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_found_at_the_start(tmp_path, name) -> None:
    (tmp_path / "file").write_text("kept")
    with pytest.raises(UserError, match=r"--model_dir=.*cannot be written.*a file is in the way"):
        claim(tmp_path / name)
    with pytest.raises(UserError, match=r"--result=.*is a folder: name a file"):
        output_lock.claim_file("result", tmp_path)
    output_lock.claim_file("result", os.devnull)
    assert (tmp_path / "file").read_text() == "kept"


def test_a_folder_that_refuses_files_is_found_at_the_start(tmp_path) -> None:
    with pytest.raises(UserError, match=r"--model_dir=/proc/here cannot be written"):
        claim(Path("/proc/here"))


def test_a_job_that_fails_leaves_no_empty_folder(tmp_path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()

    def fail(write: bool) -> None:
        output_lock.claim_folders({"log_dir": tmp_path / "new", "model_dir": kept})
        if write:
            (tmp_path / "new" / "file").touch()
        raise UserError("no")

    for write in (False, True):
        with pytest.raises(UserError, match="no"):
            output_lock.run(lambda write=write: fail(write))
        assert (tmp_path / "new").exists() == write and kept.exists()


def test_without_locks_a_job_goes_on_with_a_warning(tmp_path, monkeypatch, caplog) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING):
        claim(tmp_path)
    assert "do not start a second job" in caplog.text


def test_what_the_lock_says_is_one_line_of_json(tmp_path, holder) -> None:
    held = json.loads((tmp_path / ".lock").read_text())
    assert held.keys() == {"pid", "host", "since", "command"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "flag", "name"),
    [
        ("train.py", "model_dir", ".lock"),
        ("train.py", "log_dir", ".lock"),
        ("evaluate.py", "result", ".lock"),
        ("image_classification.py", "result", "../.out.txt.lock"),
        ("extract_feature.py", "result", "../.out.txt.lock"),
        ("export.py", "export_dir", "../.out.txt.lock"),
    ],
)
def test_each_script_names_the_output_that_it_cannot_have(
    script, flag, name, tmp_path, digits_folder, call_script, thin_checkpoint, capsys
) -> None:
    arguments = [f"--pretrain_ckpt={thin_checkpoint}"]
    if script == "train.py":
        arguments += ["--data_dir=records", "--model_dir=model", "--log_dir=log"]
    elif script != "export.py":
        arguments.append(digits_folder / "val_im_list.txt")
    if script == "evaluate.py":
        arguments.append("--label_mode=multi")
    (tmp_path / "file").write_text("kept")
    assert call_script(script, *arguments, f"--{flag}=file/out.txt") == 1
    assert f"error: --{flag}=file/out.txt cannot be written" in capsys.readouterr().err
    lock = os.path.normpath(tmp_path / "out.txt" / name)
    os.makedirs(os.path.dirname(lock), exist_ok=True)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert call_script(script, *arguments, f"--{flag}=out.txt") == 1
    assert f"error: --{flag}=out.txt is being written by" in capsys.readouterr().err
