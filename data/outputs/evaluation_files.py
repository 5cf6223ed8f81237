"""Evaluation files: JSON metrics, CSV with a row per class, thresholds, confusions."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from data.common.files import atomic_write


def write_json(path: str | os.PathLike, content: Mapping[str, Any]) -> None:
    """Writes `content`; NumPy numbers become plain ones, and what is not finite becomes null."""
    atomic_write(path, json.dumps(_plain(content), indent=1) + "\n")


def write_classes(
    path: str | os.PathLike, names: Sequence[str], columns: Mapping[str, np.ndarray]
) -> None:
    """Writes a CSV row for each class: its index, its name and an entry of each column [C].

    A value that does not exist, such as the AP of a class without a positive, is an empty field.
    """
    rows = (
        (c, name, *(_cell(column[c]) for column in columns.values()))
        for c, name in enumerate(names)
    )
    _write_csv(path, ("class", "name", *columns), rows)


def write_confusions(path: str | os.PathLike, names: Sequence[str], confusions: np.ndarray) -> None:
    """Writes rows of (label, prediction, images) [N, 3], as they come, with the classes' names."""
    rows = ((t, names[t], p, names[p], n) for t, p, n in confusions.tolist())
    _write_csv(path, ("label", "label_name", "predicted", "predicted_name", "images"), rows)


def write_thresholds(path: str | os.PathLike, thresholds: np.ndarray) -> None:
    """Writes rows `class<TAB>threshold`, as image_classification.py --threshold_file reads them.

    Nine digits bring every float32 back exactly.
    """
    rows = [f"{c}\t{threshold:.9g}\n" for c, threshold in enumerate(thresholds.tolist())]
    atomic_write(path, "".join(rows))


def _write_csv(
    path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write(path, text.getvalue())


def _cell(value: Any) -> Any:
    value = _plain(value)
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else int(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
