"""Nearest neighbors among features, by the cosine of the angle between them."""

import csv
from pathlib import Path
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from data.common.errors import UserError
from data.outputs.feature_files import NAMES_SUFFIX

_ROWS_AT_ONCE = 1 << 14


class Table(NamedTuple):
    """Names [N] and features float [N, D], which may lie in a file that is mapped, not read."""

    names: list[str]
    values: np.ndarray


def read_table(path: str) -> Table:
    """What extract_feature.py wrote as .npz, .npy, .txt or .parquet.

    Raises:
      UserError: another suffix, or a file of another content.
    """
    readers = {".npz": _read_npz, ".npy": _read_npy, ".txt": _read_text, ".parquet": _read_parquet}
    read = readers.get(Path(path).suffix.lower())
    if read is None:
        raise UserError(f"{path}: the name must end in {', '.join(readers)}")
    try:
        table = Table(*read(path))
    except (KeyError, IndexError, ValueError, BadZipFile) as error:
        raise UserError(f"{path} does not hold features: {error}") from error
    if table.values.ndim != 2 or len(table.names) != len(table.values):
        raise UserError(
            f"{path}: {len(table.names)} names for features of shape {table.values.shape}"
        )
    return table


def _read_npz(path: str) -> tuple[list[str], np.ndarray]:
    with np.load(path) as archive:
        return archive["names"].tolist(), archive["features"]


def _read_npy(path: str) -> tuple[list[str], np.ndarray]:
    with open(path + NAMES_SUFFIX, newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row[0] for row in rows], np.load(path, mmap_mode="r")


def _read_text(path: str) -> tuple[list[str], np.ndarray]:
    names, values = [], []
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            name, _, numbers = line.split("\t")
            names.append(name)
            values.append(np.array(numbers.split(), np.float32))
    return names, np.stack(values)


def _read_parquet(path: str) -> tuple[list[str], np.ndarray]:
    import pyarrow.parquet as pq  # heavy, and only needed for this format

    table = pq.read_table(path, columns=["image", "features"])
    features = table["features"].combine_chunks()
    values = features.flatten().to_numpy().reshape(len(features), -1)
    return table["image"].to_pylist(), values


def unit_rows(values: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1, float32 [N, D]; not-a-number where a row has no direction."""
    values = np.asarray(values, np.float32)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, np.nan)


def nearest(table: Table, queries: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` rows of the table that are nearest to each query, nearest first.

    Rows without numbers (unreadable images) are never near; of equals, the earlier row comes
    first. The table is read once, a few thousand rows at a time.

    Args:
      queries: float [Q, D].

    Returns:
      rows int64 [Q, K] and cosines float32 [Q, K], K being `count` or all rows if they are fewer.

    Raises:
      UserError: queries of another width.
    """
    if queries.shape[1] != table.values.shape[1]:
        raise UserError(
            f"queries have {queries.shape[1]} numbers, the features {table.values.shape[1]}"
        )
    queries = unit_rows(queries)
    rows = np.zeros((len(queries), 0), np.int64)
    cosines = np.zeros((len(queries), 0), np.float32)
    for start in range(0, len(table.values), _ROWS_AT_ONCE):
        block = unit_rows(table.values[start : start + _ROWS_AT_ONCE])
        found = np.nan_to_num(queries @ block.T, nan=-np.inf)
        numbers = np.broadcast_to(np.arange(start, start + len(block)), found.shape)
        rows, cosines = np.hstack([rows, numbers]), np.hstack([cosines, found])
        best = np.argsort(-cosines, axis=1, kind="stable")[:, :count]
        rows, cosines = (np.take_along_axis(x, best, 1) for x in (rows, cosines))
    return rows, cosines
