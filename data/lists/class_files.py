"""Files about classes, by index: a threshold for each, or which classes count."""

import os

import numpy as np

from data.common.errors import UserError
from data.common.files import read_text


def read_thresholds(path: str | os.PathLike, class_num: int, default: float) -> np.ndarray:
    """Reads thresholds, float32 [C], from rows `class<TAB>threshold`.

    Rows that begin with `#` are skipped, and so is a header row without numbers.

    Args:
        class_num: number of classes C.
        default: threshold of classes without a row.

    Raises:
        UserError: a malformed row, or a class out of range, as `path:line: reason`.
    """
    thresholds = np.full(class_num, default, np.float32)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        fields = line.split()
        header = number == 1 and fields and not fields[0].isdecimal()
        if not fields or fields[0].startswith("#") or header:
            continue
        try:
            index, threshold = int(fields[0]), float(fields[1])
        except (IndexError, ValueError):
            raise UserError(
                f"{path}:{number}: expected `class<TAB>threshold`, found {line[:60]!r}"
            ) from None
        if not 0 <= index < class_num:
            raise UserError(f"{path}:{number}: class {index} is not in 0..{class_num - 1}")
        thresholds[index] = threshold
    return thresholds


def read_class_mask(path: str | os.PathLike, class_num: int) -> np.ndarray:
    """bool [C]: the classes listed in a file, an index per line; the rest of a line is a comment.

    Raises:
        UserError: a line that does not begin with a class, as `path:line: reason`.
    """
    chosen = np.zeros(class_num, bool)
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        first = line.split()[0]
        if not (first.isdecimal() and int(first) < class_num):
            raise UserError(f"{path}:{number}: {first!r} is not a class in 0..{class_num - 1}")
        chosen[int(first)] = True
    return chosen
