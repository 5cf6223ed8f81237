"""Base class of result formats: appended bytes and a final step."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

from data.common.errors import UserError

Row = TypeVar("Row")


class ResultFormat(NamedTuple, Generic[Row]):
    """How rows become a file.

    Attributes:
      header: first bytes of the body.
      encode: a row's bytes; bodies of several processes are joined by laying them end to end.
      finish: makes the result out of the body, which it may move.
    """

    header: bytes
    encode: Callable[[Row], bytes]
    finish: Callable[[Path, Path], None] = os.replace


def choose_format(formats: dict[str, ResultFormat], result: str) -> ResultFormat:
    """The format that the suffix of `result` names.

    Raises:
      UserError: none of them, or its package is missing: said before the work, not after it.
    """
    suffix = Path(result).suffix.lower()
    if suffix not in formats:
        raise UserError(f"--result={result}: the name must end in {', '.join(formats)}")
    if suffix == ".parquet" and importlib.util.find_spec("pyarrow") is None:
        raise UserError(f"--result={result}: Parquet needs pyarrow: pip install pyarrow")
    return formats[suffix]


def one_line(text: str) -> str:
    """Text that may stand in a line of a text file: control characters are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c >= " " and c != "\x7f" else repr(c)[1:-1] for c in text)
