"""The shell scripts: --help installs nothing; paths are the caller's; a link to a script works."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted([*ROOT.glob("example/*.sh"), *ROOT.glob("data/*.sh")])
SCRIPTS = [path for path in SCRIPTS if path.read_bytes().startswith(b"#!")]  # not sourced
JOBS = ("train_distributed.sh", "mpirun_train.sh", "install_horovod.sh")
PRINTS = '#!/bin/sh\necho "in $PWD: $*"\n'
NEEDED = {"IDS": "ids.csv", "ARCHIVES": "a.tar", "IMAGENET": "imagenet"}


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of the scripts without an environment."""
    copy = tmp_path / "project"
    for name in ("example", "data"):
        shutil.copytree(ROOT / name, copy / name)
    for path in [*ROOT.glob("*.py"), ROOT / "models"]:
        (copy / path.name).symlink_to(path)
    return copy


def start(script: Path, *arguments: str, cwd: Path, **variables: str):
    command = [str(script), *arguments]
    environment = os.environ | variables
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_help_is_the_scripts_own_comment_and_installs_nothing(project, tmp_path, path):
    script = project / path.relative_to(ROOT)
    reported = start(script, "--help", cwd=tmp_path, PYTHON="/no/such/python")
    assert reported.returncode == 0 and reported.stderr == ""
    header = path.read_text(encoding="utf-8").splitlines()[1]
    assert reported.stdout.splitlines()[0] == header.removeprefix("# ")
    assert not (project / ".venv").exists()


def test_help_lists_the_flags_where_there_is_an_environment(project, tmp_path):
    (project / ".venv").symlink_to(sys.prefix)
    reported = start(project / "example" / "train.sh", "--help", cwd=tmp_path)
    assert reported.returncode == 0 and "\n  --max_iter: steps to train" in reported.stdout


@pytest.mark.parametrize("job", ["train_distributed.sh", "mpirun_train.sh"])
def test_help_after_a_recipe_is_the_recipes(project, tmp_path, job):
    recipe = project / "example" / "train.sh"
    reported = start(project / "example" / job, str(recipe), "--help", cwd=tmp_path, PYTHON="/no")
    assert reported.returncode == 0 and reported.stdout.startswith("Pretrains ResNet-101")


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", [path for path in SCRIPTS if path.name not in JOBS], ids=lambda path: path.name
)
def test_a_linked_script_works_in_the_callers_folder(project, tmp_path, path):
    """Python starts where the script was called, with the project's Python script."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("python", "mpirun"):
        (tools / name).write_text(PRINTS)
        (tools / name).chmod(0o755)
    with (project / "example" / "environment.sh").open("a") as file:
        file.write(f'prepare_environment() {{ export PATH="{tools}:$PATH"; }}\n')
    link = tmp_path / "link.sh"
    link.symlink_to(project / path.relative_to(ROOT))
    reported = start(link, cwd=tmp_path, **NEEDED)
    first = next(line for line in reported.stdout.splitlines() if line.startswith("in "))
    assert first.startswith(f"in {tmp_path}: ")
    python_script = next(word for word in first.split() if word.endswith(".py"))
    assert python_script.startswith(f"{project}/") and Path(python_script).exists()


def test_the_recipes_say_where_the_released_scripts_differ():
    """Decisions of spec section 4."""
    finetune, train = (
        (ROOT / "example" / name).read_text(encoding="utf-8")
        for name in ("finetune.sh", "train.sh")
    )
    assert "\n  --FixBlock2=True \\" in finetune and "--FixBlock2=False trains all" in finetune
    assert "\n  --max_iter=257958 \\" in train and "--max_iter=440000" in train
