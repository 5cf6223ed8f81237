"""A copy of the project in which launchers find the environment that runs the tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("train_distributed.sh", "mpirun_train.sh", "mpirun.sh", "job.sh", "slurm_train.sbatch")
# Nothing is installed, and the processes of a job share two cores.
ENVIRONMENT = f"""
PROJECT_ROOT="$(cd "$(dirname "${{BASH_SOURCE[0]}}")/.." && pwd)"
answer_help_of_job() {{ true; }}
prepare_environment() {{ export PATH="{Path(sys.executable).parent}:$PATH"; }}
"""
VARIABLES = {
    "MPI_ARGS": "--oversubscribe",
    "OMPI_MCA_mpi_yield_when_idle": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "OMP_NUM_THREADS": "1",
}


def executable(path: Path, body: str) -> Path:
    """Writes a shell script."""
    path.write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{body}\n")
    path.chmod(0o755)
    return path


class Stage:
    """The project's scripts and packages under `root`, linked, with recipes of the test's own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        example = root / "example"
        example.mkdir(parents=True)
        for source in [*ROOT.glob("*.py"), ROOT / "data", ROOT / "models", ROOT / "tests"]:
            (root / source.name).symlink_to(source)
        for name in LAUNCHERS:
            # Copied: a link would lead out of here.
            executable(example / name, (ROOT / "example" / name).read_text())
        executable(example / "environment.sh", ENVIRONMENT)
        executable(example / "install_horovod.sh", "true")

    def recipe(self, name: str, command: str) -> Path:
        """A recipe as those in example/: `command` follows the launcher's words."""
        return executable(self.root / "example" / name, f'exec ${{LAUNCH:-python}} {command} "$@"')

    def start(self, *command: object, **variables: object) -> subprocess.Popen:
        """Starts a command of the project; all its output goes to `output`."""
        environment = os.environ | VARIABLES | {name: str(v) for name, v in variables.items()}
        with (self.root / "log").open("w") as log:
            return subprocess.Popen(
                list(map(str, command)),
                cwd=self.root,
                env=environment | {"PYTHONPATH": str(self.root)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return (self.root / "log").read_text()

    def run(self, *command: object, **variables: object) -> int:
        """Runs a command to its end; returns the exit code."""
        return self.start(*command, **variables).wait()
