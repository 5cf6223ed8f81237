"""Every benchmark starts, at small sizes, and prints the rows that it promises."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as runner
from benchmarks import harness

ROOT = Path(__file__).resolve().parents[2]
COMMIT = "HEAD"

# What the first columns of a part's rows say, with --quick.
PROMISED = {
    "training_step": ["ours", "pytorch"],
    "dense": [
        "detection, ours",
        "detection, torchvision",
        "segmentation, ours",
        "segmentation, torchvision",
    ],
    "loss": [
        "limit: sigmoid(x) alone",
        "tf.nn.sigmoid_cross_entropy_with_logits",
        "ours, sparse labels",
        "ours, dense labels",
    ],
    "input": [
        "records read",
        "JPEG decoded",
        "ours: crop, resize, flip",
        "ours: full augmentation",
        "plain tf.image",
        "Python: reads a record",
        "Python: makes an image, 32 a call",
    ],
    "mixing": [
        "single records",
        "64 blocks",
        "256 blocks",
        "1024 blocks",
        "buffer of 2,048",
        "buffer of 20,480",
    ],
    "storage": [
        "local disk",
        "s3, cold",
        "s3, cold, 1 request in 50 fails",
        "s3, warm cache",
        "5 ms a read: single records",
        "5 ms a read: blocks",
        "5 ms a read: blocks, 512 images a step",
    ],
    "inference": ["the network alone", "from files", "onnxruntime"],
    "conversion": ["20 images, 1 process"],
    "preparation": ["conversion"] * 3 + ["download"] * 3,
    "download": ["ours", "ours"],
    "lists": ["ancestors", "statistics", "subset", "all", "features of a long list"],
    "metrics": ["200 images"],
    "neighbors": ["2,000 x 256"],
    "startup": [
        "import TensorFlow",
        "train.py --help",
        "first training step",
        "first prediction",
    ],
    "growth": [
        "loss and gradient, batch 32",
        "parsing a list",
        "order of an epoch",
        "metrics, 500 classes",
    ],
    "scaling": ["1 worker", "2 workers, not communicating", "2 workers, 4 groups"],
    "scaling_model": [f"{gpus} GPUs" for gpus in (8, 16, 32, 64, 128, 256, 512, 1024)],
}
QUICK = ("scaling_model",)


def test_every_benchmark_has_a_part_and_promises_rows():
    others = {"__main__", "compare", "harness", "input_peers", "operations", "photographs"}
    others |= {"s3_server", "gpu_check"}  # for another machine
    scripts = {path.stem for path in ROOT.glob("benchmarks/*.py")} - others - {"take_batches"}
    assert {name for name, *_ in runner.PARTS.values()} == scripts == set(PROMISED)


@pytest.mark.parametrize(
    "part",
    [pytest.param(p, marks=[] if p in QUICK else [pytest.mark.slow]) for p in PROMISED],
)
def test_a_benchmark_prints_the_rows_that_it_promises(part, tmp_path):
    command = [sys.executable, "-m", "benchmarks", part, "--quick", f"--folder={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / f"{part}.json").read_text())["rows"]
    assert [row["what"] for row in rows if row["what"] != "NVIDIA DALI"] == PROMISED[part]
    missing = [row["note"] for row in rows if "note" in row]
    assert all("No module named" in note for note in missing)
    for row in rows:
        assert f"| {part} | {row['what']} |" in done.stdout


@pytest.mark.slow
def test_two_commits_are_compared(tmp_path):
    json_file = tmp_path / "compared.json"
    command = [sys.executable, ROOT / "benchmarks/compare.py", COMMIT, COMMIT, "--quick"]
    command += ["--rounds=1", f"--json={json_file}", "--parts", "input", "lists", "prediction"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(json_file.read_text())["rows"]
    assert [row["what"] for row in rows] == ["input", "lists", "prediction"]
    assert all(row["ratio"] > 0 for row in rows)


@pytest.mark.slow
def test_what_is_to_see_on_a_gpu_is_seen_on_a_cpu(tmp_path):
    json_file = tmp_path / "seen.json"
    command = [sys.executable, ROOT / "benchmarks/gpu_check.py", "--quick", f"--json={json_file}"]
    command += ["--checks", "gradients", "resume", "prediction"]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": "-1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["what"]: row for row in json.loads(json_file.read_text())["rows"]}
    assert rows["device"]["result"] == "no GPU"
    assert rows["gradients, float32, NHWC"]["gradients differ by"] == 0
    assert rows["gradients, bfloat16, NHWC"]["loss differs by"] < 0.05
    assert rows["a deterministic run in two parts"]["result"] == "equal"
    assert rows["features of 16 photographs"]["features differ by"] < 1e-6


def test_an_unknown_part_is_named(run_script):
    done = run_script("benchmarks/__main__.py", "los")
    assert done.returncode == 2
    assert "no benchmark los; there are training_step, " in done.stderr


def test_contenders_take_turns_and_every_second_round_goes_backwards():
    said = []
    jobs = {name: lambda name=name: said.append(name) or len(said) for name in "ab"}
    assert harness.in_turn(jobs, 3) == {"a": [1, 4, 5], "b": [2, 3, 6]}
    assert "".join(said) == "abbaab"
    assert harness.median_ratio([2, 9, 8], [1, 3, 2]) == 3


def _variable(name):
    return {"value": lambda: os.environ.get(name), "die": lambda: os._exit(1)}


def _fails():
    import nothing_of_that_name  # noqa: F401


@pytest.mark.slow
def test_a_contender_has_its_own_environment_and_tells_why_it_fails(monkeypatch):
    monkeypatch.setenv("KEPT", "here")
    for environment, expected in ({}, "here"), ({"KEPT": "x"}, "x"), ({"KEPT": None}, None):
        contender = harness.Contender(_variable, "KEPT", environment=environment)
        assert contender.failure is None
        assert contender.ask("value") == expected
        contender.close()
    failed = harness.Contender(_fails)
    assert failed.failure == "ModuleNotFoundError: No module named 'nothing_of_that_name'"


def test_the_last_table_has_the_rows_of_all_parts(tmp_path):
    for part, row in {
        "loss": {"what": "ours", "ms": 48.123, "x plain": 0.4},
        "train": {"what": "ours", "images/s": 3.0712, "note": ""},
    }.items():
        (tmp_path / f"{part}.json").write_text(json.dumps({"rows": [row]}))
    assert harness.table(runner.all_rows(tmp_path)).splitlines() == [
        "| part | what | figures |",
        "| --- | --- | --- |",
        "| loss | ours | ms 48.1, x plain 0.4 |",
        "| train | ours | images/s 3.07 |",
    ]
