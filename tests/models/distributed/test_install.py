"""example/install_horovod.sh and the Slurm script, among stand-ins for what they call."""

import os
import subprocess
from pathlib import Path

import pytest
from launching import ROOT, Stage, executable

REPORT = "Horovod v0.28.1:\n    [X] TensorFlow\n    [X] MPI\n    [X] Gloo\n    [{}] NCCL\n"
# The declaration of what newer TensorFlow's library lacks, and the end of what is included.
MPI_OPS = """GpuStreamHandle AsGpuStreamValue(Stream* stream);
#if TENSORFLOW_VERSION >= 2011000000
#include "tensorflow/compiler/xla/stream_executor/stream.h"
#endif // TENSORFLOW_VERSION >= 2011000000
#endif // HAVE_GPU
"""


class Builder:
    """A project whose `python` logs what it is asked to install, and with which settings."""

    def __init__(self, folder: Path, tensorflow: str) -> None:
        self.root, self.bin, self.log = folder / "p", folder / "bin", folder / "log"
        (self.root / "example").mkdir(parents=True)
        self.bin.mkdir()
        script = self.root / "example" / "install_horovod.sh"
        executable(script, (ROOT / "example" / "install_horovod.sh").read_text())
        executable(
            self.root / "example" / "environment.sh",
            f"answer_help() {{ true; }}\nprepare_environment() {{ TENSORFLOW={tensorflow}; }}\n"
            f'ready_file() {{ echo "{self.root}/ready-$1"; }}',
        )
        self.report, self.builds, self.sums = (folder / n for n in ("report", "builds", "sums"))
        self.sums.write_text("[0]: the sum is 3\n[1]: the sum is 3\n")
        executable(
            self.bin / "horovodrun",
            f'if [[ "$*" == *--check-build* ]]; then cat "{self.report}" 2> /dev/null\n'
            f'else cat "{self.sums}"; fi',
        )
        # What pip downloads: Horovod's source, with the XLA adapter among what CMake compiles.
        cmake = folder / "horovod-0.28.1" / "horovod" / "tensorflow" / "CMakeLists.txt"
        cmake.parent.mkdir(parents=True)
        cmake.write_text("set(SOURCES\n  mpi_ops.cc\n  xla_mpi_ops.cc\n)\n")
        (cmake.parent / "mpi_ops.cc").write_text(MPI_OPS)
        archive = f'"$destination/horovod-0.28.1.tar.gz" -C "{folder}" horovod-0.28.1'
        nccl = folder / "nccl"
        (nccl / "lib").mkdir(parents=True)
        executable(
            self.bin / "python",
            f'if [[ "$*" == *nvidia.nccl* ]]; then echo "{nccl}"; fi\n'
            f'if [[ "$*" == *" download "* ]]; then\n'
            '  all="$*"; destination="${all#*--dest }"; destination="${destination%% *}"\n'
            f"  tar -czf {archive}\n"
            "fi\n"
            f'if [[ "$*" == *" install "* ]]; then\n'
            f'  env | grep ^HOROVOD_ > "{self.log}"; echo "$*" >> "{self.log}"\n'
            f'  cat "${{@: -1}}"/horovod/tensorflow/* >> "{self.log}"\n'
            f'  if [[ -e "{self.builds}" ]]; then cp "{self.builds}" "{self.report}"; fi\n'
            "fi",
        )

    def run(self, **variables: str) -> subprocess.CompletedProcess:
        environment = {"PATH": f"{self.bin}:{os.environ['PATH']}"} | variables
        script = self.root / "example" / "install_horovod.sh"
        return subprocess.run([script], env=environment, capture_output=True, text=True)

    @property
    def settings(self) -> str:
        return self.log.read_text() if self.log.exists() else ""


def test_a_working_build_is_found_once(tmp_path) -> None:
    builder = Builder(tmp_path, "cpu")
    builder.report.write_text(REPORT.format(" "))
    assert builder.run().returncode == 0
    builder.report.unlink()
    assert builder.run().returncode == 0  # not asked again
    assert builder.settings == ""


def test_a_cpu_build_has_gloo_and_mpi(tmp_path) -> None:
    builder = Builder(tmp_path, "cpu")
    builder.builds.write_text(REPORT.format(" "))
    assert builder.run().returncode == 0
    assert "HOROVOD_WITH_GLOO=1" in builder.settings and "HOROVOD_WITH_MPI=1" in builder.settings
    assert "NCCL" not in builder.settings
    assert "\n  mpi_ops.cc\n" in builder.settings and "xla_mpi_ops.cc" not in builder.settings
    assert "AsGpuStreamValue(Stream* stream);" not in builder.settings
    included, defined = builder.settings.split("inline GpuStreamHandle AsGpuStreamValue(")
    assert "#include" in included and defined.endswith("}}}\n#endif // HAVE_GPU\n")


def test_a_build_whose_processes_do_not_add_up_is_refused(tmp_path) -> None:
    builder = Builder(tmp_path, "cpu")
    builder.builds.write_text(REPORT.format(" "))
    builder.sums.write_text("[0]: the sum is 3\n[1]: the sum is 2\n")
    result = builder.run()
    assert result.returncode == 1
    assert "error: Horovod was built, but two processes do not add up: [1]: the sum is 2" in (
        result.stderr
    )
    assert not list(builder.root.glob("ready-*"))


def test_a_gpu_build_has_nccl_too(tmp_path) -> None:
    builder = Builder(tmp_path, "gpu")
    executable(builder.bin / "nvcc", "true")
    builder.builds.write_text(REPORT.format("X"))
    assert builder.run().returncode == 0
    assert "HOROVOD_GPU_OPERATIONS=NCCL" in builder.settings
    assert f"HOROVOD_NCCL_LIB={tmp_path}/nccl/lib" in builder.settings
    assert (tmp_path / "nccl/lib/libnccl.so").is_symlink()


def test_a_build_without_nccl_does_not_pass_for_one_with_it(tmp_path) -> None:
    builder = Builder(tmp_path, "cpu")
    executable(builder.bin / "nvcc", "true")
    builder.report.write_text(REPORT.format(" "))
    builder.builds.write_text(REPORT.format(" "))
    result = builder.run(NCCL="yes")
    assert result.returncode == 1
    assert "error: Horovod was built, but it lacks NCCL" in result.stderr
    assert "--no-cache-dir" in builder.settings


@pytest.mark.parametrize(
    ("code", "failures", "queued"),
    [
        (0, 2, False),
        (143, 3, True),
        (1, 0, True),
        (1, 2, True),
        (1, 3, False),
    ],
)
def test_slurm_queues_the_job_again_when_it_may(tmp_path, code, failures, queued) -> None:
    stage = Stage(tmp_path / "project")
    counted = stage.root / "ml-images-7.failures"
    counted.write_text("exit code 1\n" * failures)
    executable(stage.root / "srun", f'echo "srun $*"; exit {code}')
    executable(stage.root / "scontrol", 'echo "scontrol $*"')
    recipe = stage.recipe("recipe.sh", "train.py")
    status = stage.run(
        "example/slurm_train.sbatch",
        recipe,
        "--lr=1",
        PATH=f"{stage.root}:{os.environ['PATH']}",
        SLURM_SUBMIT_DIR=stage.root,
        SLURM_JOB_ID=7,
        SLURM_CPUS_PER_TASK=8,
    )
    assert status == code
    assert counted.exists() == (code != 0)
    expected = "srun --mpi=pmix --kill-on-bad-exit=1 --label python train.py --lr=1"
    assert f"{expected} --num_preprocess_threads=8" in stage.output
    assert ("scontrol requeue 7" in stage.output) == queued
