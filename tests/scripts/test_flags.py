"""Each root script takes the flags it reads and no others, and says so."""

import ast
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from absl.testing import flagsaver

import flags
from data.common import flag_groups
from models.losses import LOSSES
from models.prediction.inference import FROM_CHECKPOINT
from models.training import loop, schedules

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = list(flags.DEFAULTS)
NO_TENSORFLOW = "raise SystemExit('TensorFlow was imported')"


def mistake(result: subprocess.CompletedProcess) -> str:
    """The one error line of a script that stopped."""
    assert result.returncode == 1 and "Traceback" not in result.stderr
    return result.stderr.splitlines()[-1]


def read_by(module: str) -> set[str]:
    """Names that a root script, or one that it imports, may take for a flag's."""
    tree = ast.parse((ROOT / f"{module}.py").read_text(encoding="utf-8"))
    namespace, found = vars(importlib.import_module(module)), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "FLAGS":
            found.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("from_flags"):
            options = eval(ast.unparse(node.args[0]), namespace)
            found |= {field.name for field in dataclasses.fields(options)}
        elif isinstance(node, ast.Import):
            for name in {alias.name for alias in node.names} & {"train"}:
                found |= read_by(name)
    return found | {name for loss in LOSSES.values() for name in loss.numbers()}


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_reads_every_flag_that_it_takes(script):
    unread = set(flag_groups.names_of(script)) - read_by(Path(script).stem)
    assert unread - {"num_gpus"} == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_lists_a_scripts_own_flags_without_tensorflow(run_script, tmp_path, script):
    (tmp_path / "tensorflow.py").write_text(NO_TENSORFLOW)
    reported = run_script(script, "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert reported.returncode == 0 and reported.stderr == ""
    listed = {line.split(":")[0][4:] for line in reported.stdout.splitlines() if line[:4] == "  --"}
    assert listed == set(flag_groups.names_of(script))
    first = ast.get_docstring(ast.parse((ROOT / script).read_text(encoding="utf-8")))
    assert reported.stdout.startswith(first.splitlines()[0])


TOOLS = [
    str(path.relative_to(ROOT))
    for folder in ("data", "checkpoints")
    for path in sorted((ROOT / folder).glob("*.py"))
    if "command.run(main" in path.read_text(encoding="utf-8")
]


@pytest.mark.slow
@pytest.mark.parametrize("script", TOOLS)
def test_help_of_a_tool_shows_its_usage_without_tensorflow(run_script, tmp_path, script):
    (tmp_path / "tensorflow.py").write_text(NO_TENSORFLOW)
    reported = run_script(script, "--help", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert reported.returncode == 0 and reported.stderr == ""
    assert reported.stdout.startswith(f"usage: {Path(script).name}")


def test_help_shows_a_scripts_own_defaults(run_script):
    reported = run_script("finetune.py", "--help").stdout
    assert "(default: staircase)" in reported and "(default: 0.05)" in reported


def test_help_that_nobody_reads_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", "--help"], stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    assert done.returncode == 0 and done.stderr == b""


@pytest.mark.parametrize(
    ("script", "argument", "message"),
    [
        ("train.py", "--trainable=logits/*", "does not read --trainable; it is a flag of finetune"),
        ("train.py", "--loss=hinge", "<multi_label|softmax|bce|asymmetric>"),
        ("train.py", "--top_k_pred=3", "a flag of image_classification.py, export.py"),
        ("export.py", "--batch_size=3", "export.py does not read --batch_size"),
        ("finetune.py", "--epoch=3", "unknown flag --epoch: did you mean --epochs?"),
        ("finetune.py", "--label_smoothin=0.1", "did you mean --label_smoothing?"),
        ("export.py", "--gama_negativ=1", "unknown flag --gama_negativ ("),
        ("train.py", "--cache_gib=inf", "--cache_gib=inf: give a finite number"),
        ("finetune.py", "--lr=nan", "--lr=nan: give a finite number"),
        ("train.py", "--num_gpus=4", "NP=4 example/train_distributed.sh"),
    ],
)
def test_a_flag_that_is_not_read_is_refused(call_script, capsys, script, argument, message):
    with pytest.raises(SystemExit) as ended:
        call_script(script, argument)
    assert ended.value.code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ") and message in line


# The scripts themselves say these: one reads them from the checkpoint, one decays batch norm by a
# tenth, one counts as positive from 0.5 and another shows everything.
SET_BY_SCRIPTS = {*FROM_CHECKPOINT, "bn_decay_fraction", "threshold"}


def _plain(default):
    return list(default) if isinstance(default, tuple) else default


@pytest.mark.parametrize("module", ["train", "finetune", "evaluate", "image_classification"])
def test_options_default_to_what_their_flags_do(module):
    """For those who use `data` and `models` without the scripts."""
    namespace = vars(importlib.import_module(module))
    classes = [found for found in namespace.values() if dataclasses.is_dataclass(found)]
    classes += [loop.LoopOptions, schedules.ScheduleOptions]
    written_twice = [
        field
        for options in classes
        for field in dataclasses.fields(options)
        if field.default is not dataclasses.MISSING and field.name in flags.FLAGS
    ]
    defaults = {f.name: [flags.FLAGS[f.name].default] for f in written_twice}
    for name in defaults.keys() & flags.DEFAULTS[f"{module}.py"].keys():
        defaults[name].append(flags.DEFAULTS[f"{module}.py"][name])
    differ = {f.name for f in written_twice if _plain(f.default) not in defaults[f.name]}
    assert len(written_twice) > 10 and differ - SET_BY_SCRIPTS == set()


@pytest.mark.parametrize(("former", "name"), flags.ALIASES.items())
def test_a_former_name_of_a_flag_sets_it(former, name):
    with flagsaver.flagsaver():
        flags.FLAGS(["train.py", f"--{former}=0.25"])
        assert flags.FLAGS[name].value == 0.25 and flags.FLAGS[name].present


@pytest.mark.slow
def test_finetuning_starts_with_its_own_defaults(call_script, capsys):
    """Nothing but the data is missing."""
    assert call_script("finetune.py") == 1
    assert "./data/train/: no such folder" in capsys.readouterr().err


@pytest.mark.slow
def test_a_released_flag_without_effect_is_taken_with_a_warning(run_script):
    reported = run_script("train.py", "--epoch_iter=3")
    assert "--epoch_iter has no effect" in reported.stderr and "no such folder" in mistake(reported)
