"""Finished shards: work that need not be repeated after a run was killed.

A shard is a piece of a job whose files appear atomically (`files.rewritten`). Once they exist, its
report, a document with a checksum, says what they hold. When the same command is started again, it
keeps the shards that have a report and makes the others; any number of processes and machines may
share them. When all are finished, the job combines them and removes the reports.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from data.common import mirror, state
from data.common.files import clear_leftovers


class Reports:
    """The reports of finished shards, `FOLDER/NAME.json`.

    Args:
        folder: created when the first report is added.
        form, remedy: see `state.read_document`.
        schema: of a report, its `name` included.
    """

    def __init__(self, folder: Path, form: str, schema: Mapping[str, Any], remedy: str) -> None:
        self.folder = folder
        self._form, self._schema, self._remedy = form, schema, remedy

    def add(self, report: Mapping[str, Any]) -> None:
        """Writes the report of a shard whose files exist."""
        state.write_document(self._path(report["name"]), self._form, report)

    def read(self, name: str) -> dict[str, Any]:
        """The report of a finished shard.

        Raises:
            FileNotFoundError: it is not finished.
            StateError: the report is damaged.
        """
        path = self._path(name)
        report = state.read_document(path, self._form, self._schema, self._remedy)
        if report["name"] != name:
            raise state.damaged(path, f"it is the report of {report['name']}", self._remedy)
        return report

    def all(self) -> dict[str, dict[str, Any]]:
        """The reports by name, sorted. Raises StateError."""
        found = {}
        mirror.pull(self.folder)  # those of other processes
        for path in sorted(self.folder.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                found[path.stem] = self.read(path.stem)
        return found

    def remove(self, names: Iterable[str]) -> None:
        """Removes the reports of a finished job, leftovers of killed runs, and the folder.

        The folder stays while it holds the reports of other shards.
        """
        files = {self._path(name).name for name in names}
        for name in files:
            (self.folder / name).unlink(missing_ok=True)
        clear_leftovers(self.folder, files)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"
