"""What the JSON next to a checkpoint says of its classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from data.lists.classes import Classes
from models.checkpoints.files import CheckpointError, read


def classes_of(
    prefix: str | Path,
    class_num: int,
    dictionary: str | None = None,
    read_dictionary: Callable[[str], Classes] = Classes.read,
) -> Classes:
    """The classes of a checkpoint, from the first of these that is there.

    1. `dictionary`, which the user gives.
    2. What training has kept with the checkpoint.
    3. ImageNet's names for 1,000 classes, as in the released code; "class N" otherwise.

    Raises:
      UserError: the dictionary cannot be read, or has another number of classes.
      CheckpointError: what the checkpoint says cannot be believed.
    """
    if dictionary:
        return read_dictionary(dictionary).check_number(class_num, dictionary)
    kept = kept_classes(prefix)
    return kept.check_number(class_num, f"{prefix}.json") if kept else Classes.of_number(class_num)


def kept_classes(prefix: str | Path) -> Classes | None:
    """The classes that training has kept with a checkpoint; None without them.

    Raises CheckpointError: they cannot be believed.
    """
    section = read(prefix).meta().get("classes")
    try:
        return Classes.from_section(section) if section else None
    except ValueError as error:
        remedy = "restore a copy, or give --dictionary"
        raise CheckpointError(f"{prefix}.json: {error}; {remedy}") from None
