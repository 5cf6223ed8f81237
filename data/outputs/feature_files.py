"""Reads and writes feature files: the released text format, NumPy or Parquet, by the suffix.

NumPy and Parquet files cannot be appended to. So each row is first spooled as a JSON line and raw
numbers, and the file is made from the spool at the end, a few rows at a time.
"""

import csv
import json
import zipfile
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data.common import mirror
from data.common.errors import UserError
from data.common.files import rewritten
from data.outputs.result_files import ResultFormat, one_line

NAMES_SUFFIX = ".names.tsv"
_ROWS_AT_ONCE = 1024


class Feature(NamedTuple):
    """The features of one image, float [D]; NaN if unreadable, with the reason in `problem`."""

    image: str
    label: str
    values: np.ndarray
    problem: str = ""


def formats(dtype: str) -> dict[str, ResultFormat]:
    """The format for each suffix, for features of type "float32" or "float16" (no text format)."""
    writers = {".npy": _write_npy, ".npz": _write_npz, ".parquet": _write_parquet}
    made = {
        suffix: ResultFormat(b"", lambda feature: _spool(feature, np.dtype(dtype)), _finish(write))
        for suffix, write in writers.items()
    }
    if dtype == "float32":
        made[".txt"] = ResultFormat(b"", _text)
    return made


def _text(feature: Feature) -> bytes:
    """The released format (spec section 6): path, label, numbers, exact with nine digits."""
    values = feature.values.tolist()
    numbers = " ".join(["%.9g"] * len(values)) % tuple(values)
    line = f"{one_line(feature.image)}\t{one_line(feature.label)}\t{numbers}\n"
    return line.encode("utf-8", "surrogateescape")


def _spool(feature: Feature, dtype: np.dtype) -> bytes:
    image, label, values, problem = feature
    head = json.dumps([image, label, problem, dtype.str, len(values)])
    return head.encode() + b"\n" + values.astype(dtype).tobytes()


class _Spool:
    """The spooled rows; can be iterated more than once."""

    def __init__(self, body: Path) -> None:
        self._body = body
        self.rows, self.text_lengths = 0, [1, 1, 1]
        for texts, values in self:
            self.rows, self.dtype, self.size = self.rows + 1, values.dtype, len(values)
            self.text_lengths = list(map(max, self.text_lengths, map(len, texts)))

    def __iter__(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields ([image, label, problem], features [D]) of each row."""
        with open(self._body, "rb") as file:
            while line := file.readline():
                *texts, dtype, size = json.loads(line)
                data = file.read(size * np.dtype(dtype).itemsize)
                yield texts, np.frombuffer(data, dtype)


def _finish(write: Callable[[_Spool, IO[bytes], Path], None]) -> Callable[[Path, Path], None]:
    def finish(body: Path, result: Path) -> None:
        with rewritten(result) as file:
            write(_Spool(body), file, result)

    return finish


def _write_npy(spool: _Spool, file: IO[bytes], result: Path) -> None:
    """Writes the array [N, D], and next to it a TSV file with name, label and problem."""
    _write_array(file, spool)
    with rewritten(result.with_name(result.name + NAMES_SUFFIX)) as names:
        for texts, _ in spool:
            row = "\t".join(map(one_line, texts)) + "\n"
            names.write(row.encode("utf-8", "surrogateescape"))


def _write_npz(spool: _Spool, file: IO[bytes], _: Path) -> None:
    """Writes the arrays `features` [N, D] and `names`, `labels`, `problems` [N]."""
    with zipfile.ZipFile(file, "w") as archive:
        with _member(archive, "features") as member:
            _write_array(member, spool)
        for column, name in enumerate(("names", "labels", "problems")):
            dtype = np.dtype(f"<U{spool.text_lengths[column]}")
            with _member(archive, name) as member:
                _write_header(member, dtype, (spool.rows,))
                for texts, _ in spool:
                    member.write(np.array(texts[column], dtype).tobytes())


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    # The date is fixed so that equal features give equal bytes.
    info = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
    return archive.open(info, "w", force_zip64=True)


def _write_array(file: IO[bytes], spool: _Spool) -> None:
    _write_header(file, spool.dtype, (spool.rows, spool.size))
    for _, values in spool:
        file.write(values.tobytes())


def _write_header(file: IO[bytes], dtype: np.dtype, shape: tuple[int, ...]) -> None:
    description = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, description)


def _write_parquet(spool: _Spool, file: IO[bytes], _: Path) -> None:
    """Writes columns `image`, `label`, `problem`, and `features`, a list of D numbers per row."""
    import pyarrow as pa  # heavy, and only needed for this format
    import pyarrow.parquet as pq

    number = pa.from_numpy_dtype(spool.dtype)
    columns = {"image": pa.string(), "label": pa.string(), "problem": pa.string()}
    schema = pa.schema({**columns, "features": pa.list_(number, spool.size)})
    rows = iter(spool)
    with pq.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, _ROWS_AT_ONCE)):
            texts = [list(map(_valid_text, texts)) for texts, _ in chunk]
            values = pa.array(np.concatenate([values for _, values in chunk]))
            features = pa.FixedSizeListArray.from_arrays(values, spool.size)
            arrays = [pa.array(column, pa.string()) for column in zip(*texts, strict=True)]
            writer.write_table(pa.Table.from_arrays([*arrays, features], schema=schema))


def _valid_text(text: str) -> str:
    """The text with `?` for invalid UTF-8 (in file names), which Parquet strings cannot hold."""
    return text.encode("utf-8", "replace").decode()


class Table(NamedTuple):
    """Names [N] of images and their features, float [N, D], which may be memory-mapped."""

    names: list[str]
    values: np.ndarray


def read_table(path: str) -> Table:
    """Reads a .npz, .npy, .txt or .parquet file written by extract_feature.py.

    Raises:
      UserError: the file has another suffix, or does not contain features.
    """
    readers = {".npz": _read_npz, ".npy": _read_npy, ".txt": _read_text, ".parquet": _read_parquet}
    read = readers.get(Path(path).suffix.lower())
    if read is None:
        raise UserError(f"{path}: the name must end in {', '.join(readers)}")
    try:
        table = Table(*read(path))
    except (KeyError, IndexError, ValueError, zipfile.BadZipFile) as error:
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
    mirror.pull(path + NAMES_SUFFIX)
    mirror.fetch(path + NAMES_SUFFIX)
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
