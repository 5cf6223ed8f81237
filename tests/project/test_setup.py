"""example/environment.sh on a stage of stand-ins: which Python, which wheel, what is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ("bash", "cat", "cksum", "cp", "dirname", "grep", "mkdir", "rm", "touch", "tr")


def executable(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


class Stage:
    """A copy of the set-up with a PATH that holds only what a test puts there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "project"
        self.bin = folder / "bin"
        (self.root / "example").mkdir(parents=True)
        shutil.copy(ROOT / "example" / "environment.sh", self.root / "example")
        shutil.copy(ROOT / "setup.py", self.root)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.log = folder / "log"

    def python(self, name: str, suitable: bool) -> None:
        """A Python that says whether its version fits, makes a .venv, and logs calls of pip.

        Its pip knows the two wheels of TensorFlow.
        """
        broken = self.root / "broken"
        packages = self.root / ".venv/lib/python3.11/site-packages"
        wheels = {"cpu": packages / "tensorflow_cpu-2.21.0.dist-info"}
        wheels["gpu"] = packages / "tensorflow-2.21.0.dist-info"
        body = f"""
          case "$*" in
            *"install"*".[cpu"*) mkdir -p "{wheels["cpu"]}" ;;
            *"install"*".[gpu"*) mkdir -p "{wheels["gpu"]}" ;;
            *"uninstall"*tensorflow-cpu) rm -rf "{wheels["cpu"]}" ;;
            *"uninstall"*tensorflow) rm -rf "{wheels["gpu"]}" ;;
          esac
          case "$*" in
            *version_info*) exit {0 if suitable else 1} ;;
            "--version") echo Python of {name} ;;
            "-m venv"*) mkdir -p "{self.root}/.venv/bin"; cp "$0" "{self.root}/.venv/bin/python" ;;
            "-m pip --version") ;;
            *) echo "$*" >> "{self.log}"; [[ "$*" != *" install "* || ! -e "{broken}" ]] ;;
          esac"""
        executable(self.bin / name, body)

    def prepare(self, *extras: str, **environment: str) -> subprocess.CompletedProcess:
        command = f"source example/environment.sh; prepare_environment {' '.join(extras)}"
        return subprocess.run(
            [self.bin / "bash", "-c", command],
            cwd=self.root,
            env={"PATH": str(self.bin)} | environment,
            capture_output=True,
            text=True,
        )

    def installs(self) -> list[str]:
        """What pip was asked to install so far."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.split()[-1] for line in lines if " install " in line]


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


def test_an_unsuitable_python_is_named(stage):
    stage.python("python3", suitable=False)
    result = stage.prepare("demo")
    assert result.returncode == 1
    assert result.stderr.startswith("error: no Python 3.10 to 3.13 found")


def test_a_suitable_python_is_found_behind_an_unsuitable_one(stage):
    stage.python("python3", suitable=False)
    stage.python("python3.11", suitable=True)
    assert "Python of python3.11" in stage.prepare("demo").stdout


def test_the_named_python_is_taken(stage):
    stage.python("python3", suitable=True)
    stage.python("mine", suitable=True)
    assert "Python of mine" in stage.prepare("demo", PYTHON="mine").stdout


def test_the_wheel_follows_the_machine_and_then_stays(stage):
    stage.python("python3", suitable=True)
    executable(stage.bin / "nvidia-smi", "echo 'GPU 0: NVIDIA A100'")
    assert stage.prepare("demo").returncode == 0
    (stage.bin / "nvidia-smi").unlink()  # another node of the cluster, with the same .venv
    assert stage.prepare("demo").returncode == 0
    assert stage.installs() == [".[gpu,demo]"]


def test_the_other_wheel_is_installed_when_it_is_asked_for(stage):
    stage.python("python3", suitable=True)
    assert stage.prepare("demo").returncode == 0
    executable(stage.bin / "nvidia-smi", "echo 'GPU 0: NVIDIA A100'")
    kept = stage.prepare("demo")
    assert kept.returncode == 0 and "note: this machine has a GPU, but .venv has" in kept.stderr
    for wheel in ("gpu", "cpu"):
        assert stage.prepare("demo", TENSORFLOW=wheel).returncode == 0
    assert stage.installs() == [".[cpu,demo]", ".[gpu,demo]", ".[cpu,demo]"]
    assert "uninstall -qq --yes tensorflow-cpu" in stage.log.read_text()


def test_no_gpu_behind_the_driver_means_the_cpu_wheel(stage):
    stage.python("python3", suitable=True)
    executable(stage.bin / "nvidia-smi", "echo 'No devices were found'; exit 6")
    stage.prepare("demo")
    assert stage.installs() == [".[cpu,demo]"]


def test_an_unknown_wheel_is_an_error(stage):
    stage.python("python3", suitable=True)
    result = stage.prepare("demo", TENSORFLOW="tpu")
    assert (result.returncode, result.stderr) == (1, "error: TENSORFLOW=tpu: must be cpu or gpu\n")


def test_a_second_start_installs_nothing(stage):
    stage.python("python3", suitable=True)
    stage.prepare("demo", "test")
    assert stage.prepare("demo", "test").stdout == ""
    assert stage.prepare("test").stdout == ""  # a part of what is there
    stage.prepare("export")
    assert stage.prepare("demo", "test").stdout == ""
    assert stage.installs() == [".[cpu,demo,test]", ".[cpu,export]"]


def test_a_venv_of_an_unsuitable_python_is_left_alone(stage):
    stage.python("python3", suitable=False)
    (stage.root / ".venv/bin").mkdir(parents=True)
    shutil.copy(stage.bin / "python3", stage.root / ".venv/bin/python")
    stage.python("python3", suitable=True)
    result = stage.prepare("demo")
    assert result.returncode == 1 and ".venv has Python of python3, but" in result.stderr


def test_without_extras_the_wheel_alone_is_installed(stage):
    stage.python("python3", suitable=True)
    assert stage.prepare().returncode == 0
    assert stage.installs() == [".[cpu]"]


def test_new_requirements_are_installed(stage):
    stage.python("python3", suitable=True)
    stage.prepare("demo")
    with (stage.root / "setup.py").open("a") as file:
        file.write("# another requirement\n")
    stage.prepare("demo")
    assert stage.installs() == [".[cpu,demo]", ".[cpu,demo]"]


def test_a_failed_install_is_repeated(stage):
    stage.python("python3", suitable=True)
    (stage.root / "broken").touch()
    assert stage.prepare("demo").returncode == 1
    (stage.root / "broken").unlink()
    assert stage.prepare("demo").returncode == 0
    assert stage.installs() == [".[cpu,demo]", ".[cpu,demo]"]


@pytest.mark.parametrize("shell", ["--norc -i -c", "-c"])
def test_a_shell_that_it_is_not_for_is_told_what_to_do(shell):
    """Without BASH_VERSION, bash stands for zsh; interactive, `set -e` would end it."""
    unset = "" if "-i" in shell else "unset BASH_VERSION;"
    command = f"{unset} source example/environment.sh; echo still here, ${{PROJECT_ROOT:-nowhere}}"
    done = subprocess.run(
        ["bash", *shell.split(), command], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "still here, nowhere\n"
    assert ". .venv/bin/activate" in done.stderr
