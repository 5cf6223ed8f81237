"""The tracker gets the numbers of training.jsonl, continues a run, and never ends training."""

import importlib.util
import json
import math
import time

import mlflow
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data.common.errors import UserError
from models.training import tracker
from models.training.loop import LoopOptions
from models.training.metric_writer import MetricWriter

FLAGS = {"lr": 0.1, "data_dir": "a|b", "val_dir": None}


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)


def write(folder, start_step, rows, kind="mlflow"):
    writer = MetricWriter(str(folder), start_step, True, FLAGS, kind)
    for step, loss in rows:
        writer.scalars(step, "train", {"loss": loss, "rate": 0.5})
    writer.scalars(rows[-1][0], "val", {"map_macro": 0.25})
    writer.close()


def recorded(folder):
    """Numbers of the run in the database: name -> [(step, value)], and the run."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'ml-images'")
    runs = client.search_runs([experiment.experiment_id])
    ids = json.loads((folder / tracker.RUN_FILE).read_text())
    run = client.get_run(ids["mlflow"])
    names = run.data.metrics
    histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
    found = {name: [(m.step, m.value) for m in history] for name, history in histories.items()}
    return found, run, len(runs)


@pytest.mark.slow
def test_a_resumed_run_continues_and_has_the_numbers_of_the_log(tmp_path):
    write(tmp_path, 0, [(1, 3.0), (2, math.nan), (3, 2.0)])
    write(tmp_path, 3, [(4, 1.5)])
    found, run, runs = recorded(tmp_path)
    assert runs == 1 and run.info.status == "FINISHED"
    assert run.data.params == {"lr": "0.1", "data_dir": "a|b", "val_dir": "None"}
    expected = {}
    for line in (tmp_path / "training.jsonl").read_text().splitlines():
        row = json.loads(line)
        step, kind = row.pop("step"), row.pop("kind")
        for name, value in row.items():
            if value is not None:
                expected.setdefault(f"{kind}/{name}", []).append((step, value))
    assert found == expected
    assert found["train/loss"] == [(1, 3.0), (3, 2.0), (4, 1.5)]
    write(tmp_path, 2, [(3, 7.0), (4, 7.0), (5, 1.0)])  # a killed run had sent steps 3 and 4
    assert recorded(tmp_path)[0]["train/loss"] == [(1, 3.0), (3, 2.0), (4, 1.5), (5, 1.0)]
    write(tmp_path, 0, [(1, 9.0)])  # from the start: another run
    found, _, runs = recorded(tmp_path)
    assert runs == 2 and found["train/loss"] == [(1, 9.0)]


def test_a_tracker_that_fails_is_one_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nonsense://x")
    write(tmp_path, 0, [(1, 3.0), (2, 2.0)])
    assert caplog.text.count("--tracker=mlflow failed, training continues without") == 1
    assert len((tmp_path / "training.jsonl").read_text().splitlines()) == 3


def test_a_tracker_that_hangs_does_not_hold_up_the_end(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tracker, "CLOSE_SECONDS", 0.1)
    monkeypatch.setattr(tracker, "_MlflowRun", lambda *_: time.sleep(60))
    write(tmp_path, 0, [(1, 3.0)])
    assert "is missing numbers: no answer in 0.1 s" in caplog.text


def test_a_library_that_is_not_installed_is_a_mistake_at_the_start(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'--tracker=mlflow needs .* -e "\.\[mlflow\]"'):
        LoopOptions(5, tracker="mlflow")
    assert LoopOptions(5).tracker is None


def test_other_workers_track_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = MetricWriter(None, 0, True, FLAGS, "mlflow")
    writer.scalars(1, "train", {"loss": 1.0})
    writer.close()
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_the_flags_as_a_table(tmp_path):
    write(tmp_path, 0, [(1, 3.0)], kind=None)
    events = EventAccumulator(str(tmp_path)).Reload()
    (event,) = events.Tensors(
        "flags/text_summary" if "flags/text_summary" in events.Tags() else "flags"
    )
    (text,) = event.tensor_proto.string_val
    assert text.decode().splitlines()[2:4] == ["| lr | 0.1 |", "| data_dir | a&#124;b |"]
