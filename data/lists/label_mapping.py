"""Maps classes or class ids of one dictionary to the classes of another."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import numpy as np

from data.common.errors import UserError
from data.common.files import read_text
from data.lists.hierarchy import Hierarchy, read_ids


def index_of_ids(hierarchy: Hierarchy, synonyms: str | os.PathLike | None = None) -> dict[str, int]:
    """Class index of every id; with `synonyms`, of the ids in that file too.

    Args:
        synonyms: lines `id<TAB>class`, the class by index, id or name: how another data set calls
            our classes, e.g. `/m/0cgh4<TAB>n02913152`.

    Raises:
        UserError: a malformed line, or an unknown class; as `path:line: reason`.
    """
    indices = dict(hierarchy.index_of_id)
    if synonyms is None:
        return indices
    with io.StringIO(read_text(synonyms)) as file:
        for number, line in enumerate(file, 1):
            identity, tab, text = line.strip().partition("\t")
            where = f"{os.fspath(synonyms)}:{number}"
            if not tab:
                if line.strip():
                    raise UserError(f"{where}: expected `id<TAB>class`, found {line[:60]!r}")
                continue
            try:
                indices[identity.strip()] = hierarchy.find(text.strip())
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    return indices


def mapping_from(dictionary: str | os.PathLike, indices: Mapping[str, int]) -> np.ndarray:
    """int32 [classes of `dictionary`]: the index of each one's id in `indices`, -1 without one.

    Raises:
        UserError: not one class is known: these are dictionaries of different kinds of ids.
    """
    ids = read_ids(dictionary)
    mapping = np.array([indices.get(identity, -1) for identity in ids], np.int32)
    if (mapping < 0).all():
        raise UserError(
            f"{os.fspath(dictionary)}: none of its ids, such as {ids[0]!r}, is in the dictionary;"
            " give --synonyms"
        )
    return mapping


def indices_for_ids(text: bytes, index_of_id: Mapping[bytes, bytes]) -> tuple[bytes, int]:
    """List lines whose tags are `id:confidence` with class indices in their place.

    Returns:
        the lines, and how many tags were dropped because their id is unknown.
    """
    lines, dropped = [], 0
    for line in text.split(b"\n"):
        name, tab, tail = line.partition(b"\t")
        if not tab:
            name, _, tail = line.strip().partition(b" ")
        fields = [name]
        for tag in tail.split():
            identity, colon, confidence = tag.rpartition(b":")
            index = index_of_id.get(identity if colon else tag)
            if index is None:
                dropped += 1
            else:
                fields.append(index + colon + confidence if colon else index)
        lines.append(b"\t".join(fields))
    return b"\n".join(lines), dropped
