"""Scripts in any locale, before a reader who leaves, on a full disk, and at Ctrl-C."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[3]
# Without Python's own remedies this stands for a locale of another encoding than UTF-8.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
LOCALES = [ASCII, {"LC_ALL": "C"}, {"LC_ALL": "C.UTF-8"}]
LONG = "from data.common import command; command.run(lambda: print('row\\n' * 100_000) or 3)"
# The exit code is the number that the next file gets.
OPENS = """
import sys
from data.common import command
def main():
    print("out")
    print("err", file=sys.stderr)
    with open("/dev/null") as file:
        return file.fileno()
command.run(main)
"""
STOPPED = "import signal\nfrom data.common import command\ncommand.run(lambda: {})"


def run(*command, **options):
    options = {"capture_output": True, "timeout": 100, "cwd": ROOT} | options
    return subprocess.run([sys.executable, *map(os.fsdecode, command)], **options)


@pytest.mark.parametrize("variables", LOCALES)
def test_names_and_text_are_utf8_in_any_locale(tmp_path, variables):
    folder = tmp_path / "Äpfel"
    folder.mkdir()
    Image.new("RGB", (32, 32)).save(folder / "süß.png")
    (folder / "Liste.txt").write_text("süß.png\t1:1\nößt\t2:1\n", encoding="utf-8")
    arguments = ["-idx", folder / "Liste.txt", "-im", folder, "-tfs", folder / "Sätze"]
    done = run("data/tfrecord.py", *arguments, env=os.environ | variables)
    assert (done.returncode, done.stderr) == (0, b"")
    assert f"1 images in 1 shards of {folder / 'Sätze'}:" in done.stdout.decode()
    bad = (folder / "Sätze" / "bad_images.tsv").read_text(encoding="utf-8")
    assert f"{folder / 'Liste.txt'}:2\tößt\t" in bad


@pytest.mark.slow
def test_flags_are_utf8_in_any_locale(tmp_path):
    mistake = f"--flagfile={tmp_path}/größe.txt"
    (tmp_path / "größe.txt").write_text("--größe=1\n", encoding="utf-8")
    done = run("train.py", mistake, env=os.environ | ASCII)
    assert done.returncode == 1
    assert "error: unknown flag --größe" in done.stderr.decode()


def test_a_name_that_is_no_text_is_printed(tmp_path):
    lacking = os.fsencode(tmp_path) + b"/\xff"
    done = run("-c", LONG.replace("'row\\n' * 100_000", "__import__('sys').argv[1]"), lacking)
    assert (done.returncode, done.stderr) == (3, b"")
    assert done.stdout.endswith(b"/\\udcff\n")


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["data/label_statistics.py", "--help"], 0),
        (["train.py", "--help"], 0),
        (["-c", LONG], 3),
    ],
)
def test_a_reader_who_leaves_is_no_error(command, code):
    reading, writing = os.pipe()
    os.close(reading)
    done = run(*command, capture_output=False, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (code, b"")


@pytest.mark.parametrize("variables", LOCALES)
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_no_file_takes_the_place_of_a_closed_stream(variables, closed):
    command = ["bash", "-c", f'"$@" {closed}', "", sys.executable, "-c", OPENS]
    done = subprocess.run(
        command, env=os.environ | variables, cwd=ROOT, capture_output=True, timeout=100
    )
    assert done.returncode == 3
    assert done.stdout == (b"" if ">&-" in closed.split() else b"out\n")
    assert done.stderr == (b"" if "2>&-" in closed else b"err\n")


def test_a_conversion_needs_no_standard_streams(tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "0.png")
    (tmp_path / "list.txt").write_text("0.png\t1:1\n", encoding="utf-8")
    script = [sys.executable, "data/tfrecord.py", "-idx", tmp_path / "list.txt"]
    command = ["bash", "-c", '"$@" <&- >&- 2>&-', "", *script, "-im", tmp_path, "-tfs"]
    assert subprocess.run([*command, tmp_path / "out"], cwd=ROOT, timeout=100).returncode == 0
    assert (tmp_path / "out" / "manifest.json").exists()


def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = run("-c", LONG, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"error: [Errno 28] No space left on device\n")


def test_ctrl_c_is_one_line():
    done = run("-c", STOPPED.format("signal.raise_signal(signal.SIGINT)"))
    assert (done.returncode, done.stderr) == (130, b"stopped\n")
