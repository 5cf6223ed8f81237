"""Prediction files: the released text format, CSV, JSON lines or Parquet, chosen by the suffix."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from data.common.files import rewritten
from data.outputs.predictions import Prediction
from data.outputs.result_files import ResultFormat, one_line

CSV_COLUMNS = ("image", "label", "rank", "index", "name", "probability", "problem")
_ROW_GROUP_ROWS = 4096


def _text(prediction: Prediction) -> bytes:
    """The released format (spec section 6): a heading, then `INDEX NAME: PROB` per label."""
    lines = [f"+++ the predictions of {one_line(prediction.image)} is:"]
    lines += [f"{c} {one_line(name)}: {p:.3f}" for c, name, p in prediction.labels]
    if prediction.problem:
        lines.append(f"unreadable: {one_line(prediction.problem)}")
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _csv(prediction: Prediction) -> bytes:
    """A row per label; an image without labels has one row with those fields empty."""
    image, label, labels, problem = prediction
    rows = [
        (image, label, rank, index, name, f"{probability:.6f}", "")
        for rank, (index, name, probability) in enumerate(labels, 1)
    ]
    return _csv_rows(rows or [(image, label, "", "", "", "", problem)])


def _csv_rows(rows: list[tuple]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def _json(prediction: Prediction) -> bytes:
    return (json.dumps(_row(prediction)) + "\n").encode()


def _valid_json(prediction: Prediction) -> bytes:
    """Like `_json`, with `?` for invalid UTF-8, which Parquet strings cannot hold."""
    return (json.dumps(_row(prediction), ensure_ascii=False) + "\n").encode("utf-8", "replace")


def _row(prediction: Prediction) -> dict:
    image, label, labels, problem = prediction
    shown = [{**item._asdict(), "probability": round(item.probability, 6)} for item in labels]
    return {"image": image, "label": label, "predictions": shown, "problem": problem or None}


def _to_parquet(body: Path, result: Path) -> None:
    """Converts a body of JSON lines, because a Parquet file cannot be appended to."""
    import pyarrow as pa  # heavy, and only needed for this format

    label = pa.struct({"index": pa.int32(), "name": pa.string(), "probability": pa.float32()})
    schema = pa.schema(
        {
            "image": pa.string(),
            "label": pa.string(),
            "predictions": pa.list_(label),
            "problem": pa.string(),
        }
    )
    with open(body, "rb") as lines:
        write_parquet(result, schema, map(json.loads, lines))


def write_parquet(result: Path, schema: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes rows, each a mapping with the columns of a pyarrow `schema`, a group at a time."""
    import pyarrow as pa  # heavy, and only needed for this format
    import pyarrow.parquet as pq

    left = iter(rows)
    with rewritten(result) as file, pq.ParquetWriter(file, schema) as writer:
        while group := list(islice(left, _ROW_GROUP_ROWS)):
            writer.write_table(pa.Table.from_pylist(group, schema))


FORMATS = {
    ".txt": ResultFormat(b"", _text),
    ".csv": ResultFormat(_csv_rows([CSV_COLUMNS]), _csv),
    ".jsonl": ResultFormat(b"", _json),
    ".parquet": ResultFormat(b"", _valid_json, _to_parquet),
}
