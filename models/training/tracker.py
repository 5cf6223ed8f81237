"""Sends a run's numbers to an experiment tracker, MLflow, in a separate thread.

MLflow, because it needs neither an account nor a network: its database is a file in the log folder,
unless MLFLOW_TRACKING_URI names a server.
"""

import importlib.util
import json
import math
import os
import queue
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import logging

from data.common.errors import UserError
from data.common.files import atomic_write

TRACKERS = ("mlflow",)
EXPERIMENT = "ml-images"
RUN_FILE = "tracker.json"
"""In the log folder: the ID with which a resumed training continues the tracker's run."""

CLOSE_SECONDS = 30.0
_LONGEST_VALUE = 6000  # of MLflow's parameters


def check(kind: str | None) -> None:
    """Raises UserError if this tracker's library is not installed."""
    if kind and importlib.util.find_spec(kind) is None:
        raise UserError(f'--tracker={kind} needs its library: pip install -e ".[{kind}]"')


class Tracker:
    """Sends numbers in order; training neither waits for it nor fails with it.

    After the first failure, which is logged as a warning, it sends nothing more.

    Args:
      kind: one of TRACKERS.
      folder: the log folder.
      start_step: 0 starts a new run; any other step continues the run in RUN_FILE.
      flags: recorded with a new run.
    """

    def __init__(self, kind: str, folder: Path, start_step: int, flags: Mapping[str, Any]) -> None:
        self._queue: queue.SimpleQueue[tuple[int, dict[str, float]] | None] = queue.SimpleQueue()
        start = kind, folder, start_step, flags
        self._thread = threading.Thread(target=self._send, args=start, daemon=True)
        self._thread.start()

    def scalars(self, step: int, kind: str, values: Mapping[str, float]) -> None:
        """Sends the values of `step`, named as in TensorBoard, except NaN."""
        known = {f"{kind}/{name}": value for name, value in values.items() if not math.isnan(value)}
        self._queue.put((step, known))

    def close(self) -> None:
        """Waits until everything is sent, for at most CLOSE_SECONDS."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        if self._thread.is_alive():
            logging.warning("the tracker is missing numbers: no answer in %g s", CLOSE_SECONDS)

    def _send(self, kind: str, folder: Path, start_step: int, flags: Mapping[str, Any]) -> None:
        try:
            run = _MlflowRun(folder, _stored_id(folder / RUN_FILE, kind), flags, start_step)
            atomic_write(folder / RUN_FILE, json.dumps({kind: run.id}) + "\n")
            while (item := self._queue.get()) is not None:
                run.log(*item)
            run.end()
        except Exception as error:  # whatever the library, its server or its database raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logging.warning("--tracker=%s failed, training continues without it: %s", kind, reason)


def _stored_id(path: Path, kind: str) -> str | None:
    try:
        return json.loads(path.read_text("utf-8"))[kind]
    except (OSError, ValueError, KeyError, TypeError):
        return None


class _MlflowRun:
    """A run of MLflow, new or continued."""

    def __init__(
        self, folder: Path, stored: str | None, flags: Mapping[str, Any], start_step: int
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        import mlflow  # an extra, which takes seconds to import
        from mlflow.entities import Metric, Param

        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        self._client = mlflow.MlflowClient(uri or f"sqlite:///{folder.absolute()}/mlflow.db")
        self._last_steps: dict[str, int] = {}  # by metric; a new run has none
        self._resumed = bool(start_step and stored)
        if self._resumed:
            self.id = stored
            self._client.update_run(self.id, status="RUNNING")
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", EXPERIMENT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._client.create_experiment(name)
        self.id = self._client.create_run(number, run_name=str(folder)).info.run_id
        params = [Param(flag, str(value)[:_LONGEST_VALUE]) for flag, value in flags.items()]
        for start in range(0, len(params), 100):  # MLflow's limit per call
            self._client.log_batch(self.id, params=params[start : start + 100])
        logging.info("MLflow's run %s is in %s", self.id, uri or folder / "mlflow.db")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values by name, except for steps logged before the run was resumed."""
        now = int(1000 * time.time())
        metrics = [
            self._metric(name, float(value), now, step)
            for name, value in values.items()
            if step > self._last_step(name)
        ]
        self._client.log_batch(self.id, metrics=metrics)

    def _last_step(self, name: str) -> int:
        """The last step of a metric before the run was resumed; -1 without one."""
        if not self._resumed:
            return -1
        if name not in self._last_steps:
            history = self._client.get_metric_history(self.id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=-1)
        return self._last_steps[name]

    def end(self) -> None:
        self._client.set_terminated(self.id)
