"""Flags from a file, strict as on the command line, and the file that a run writes."""

import json
import re
from pathlib import Path

import pytest
from absl.testing import flagsaver

import flags
from models.checkpoints import checkpoint

ROOT = Path(__file__).resolve().parents[2]
TINY = """# a recipe of the tests
--synthetic
--resnet_size=14
--width=8
--class_num=20

// of one step
--image_size=32
--batch_size=2
--max_iter=1
--log_interval=1
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.txt").write_text(TINY)
    return tmp_path


def kept_flags(folder):
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text())["flags"]


@pytest.mark.slow
def test_a_run_is_repeated_by_the_file_that_it_wrote(recipe, call_script):
    first = "--model_dir=first", "--log_dir=first/log"
    assert call_script("train.py", "--flagfile=recipe.txt", "--lr=0.25", "--noxla", *first) == 0
    written = (recipe / "first/log/flags.txt").read_text()
    given = [line for line in written.splitlines() if line.startswith("--")]
    assert {"--synthetic", "--batch_size=2", "--lr=0.25", "--noxla"} <= set(given)
    assert "# --positive_weight=12.0" in written and "--positive_weight=12.0" not in given
    again = "--model_dir=again", "--log_dir=again/log"
    assert call_script("train.py", "--flagfile=first/log/flags.txt", *again) == 0
    one, other = kept_flags(recipe / "first"), kept_flags(recipe / "again")
    places = {"model_dir": "again", "log_dir": "again/log"}
    assert other == one | places
    assert checkpoint.find(recipe / "again").endswith("model.ckpt-1")
    repeated = (recipe / "again/log/flags.txt").read_text()
    assert repeated == re.sub("=first", "=again", written)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--learning_rat=1", "unknown flag --learning_rat"),
        ("--top_k_pred=3", "train.py does not read --top_k_pred"),
        ("--max_iter=0", "--max_iter=0"),
        ("--flagfile=gone.txt", "gone.txt"),
    ],
)
def test_flags_in_a_file_are_strict(recipe, call_script, capsys, line, message):
    with (recipe / "recipe.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SystemExit, match="1"):
        call_script("train.py", "--flagfile=recipe.txt")
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_the_values_of_an_example_script_make_a_file(tmp_path):
    script = (ROOT / "example/train.sh").read_text()
    lines = re.findall(r"^  (--\w+=[^\s\"]+) \\$", script, re.MULTILINE)
    (tmp_path / "train.txt").write_text("\n".join(lines))
    saved = flagsaver.save_flag_values()
    try:
        flags.FLAGS(["train.py", f"--flagfile={tmp_path}/train.txt", "--batch_size=8"])
        assert (flags.FLAGS.global_batch, flags.FLAGS.lr_warmup_decay_factor) == (4096, 1.297)
        assert flags.FLAGS.batch_size == 8  # a later flag goes before
        assert len(lines) > 30
    finally:
        flagsaver.restore_flag_values(saved)
