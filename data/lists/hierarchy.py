"""Dictionaries of classes: semantic hierarchy (spec section 1), names, ids and mappings.

`dictionary_and_semantic_hierarchy.txt` has a header and then one class per line: index, id, index
of the parent (-1 for a root) and name, separated by tabs. Indices count from 0 without a gap.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from data.common.errors import UserError
from data.common.files import open_text, read_text

NO_PARENT = -1
"""The parent index of a root."""

_INTEGER = re.compile(r"-?[0-9]+")
_INDEX_AND_NAME = re.compile(r"([0-9]+)(?:\t| +)(\S.*)")
_HIERARCHY_FIELDS = 4


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A forest of classes 0..C-1.

    Attributes:
        parents: int32 [C], NO_PARENT for a root.
        ids: id of each class.
        names: name of each class; may hold several synonyms, separated by commas.
    """

    parents: np.ndarray
    ids: tuple[str, ...]
    names: tuple[str, ...]

    @classmethod
    def read(cls, path: str | os.PathLike) -> Hierarchy:
        """Reads a dictionary file with a hierarchy.

        Raises:
            UserError: a malformed line, a repeated index or id, a gap in the indices, an
                unknown parent, or a cycle; as `path:line: reason`.
        """
        lines: dict[int, int] = {}
        ids: dict[str, int] = {}
        classes = {}
        for number, index, identity, parent, name in _hierarchy_lines(path):
            where = f"{os.fspath(path)}:{number}"
            if index in lines:
                raise UserError(f"{where}: class {index} is repeated (line {lines[index]})")
            if identity in ids:
                raise UserError(f"{where}: id {identity} is repeated (line {ids[identity]})")
            lines[index], ids[identity] = number, number
            classes[index] = (parent, identity, name)
        if not classes:
            raise UserError(f"{os.fspath(path)}: no class in it")
        _check_range(path, lines, classes)
        parents, identities, names = zip(*(classes[c] for c in range(len(classes))), strict=True)
        hierarchy = cls(np.array(parents, np.int32), identities, names)
        loop = hierarchy.cycle()
        if loop:
            chain = " -> ".join(map(str, loop))
            where = f"{os.fspath(path)}:{lines[loop[0]]}"
            raise UserError(f"{where}: class {loop[0]} is its own ancestor ({chain})")
        return hierarchy

    @classmethod
    def read_any(cls, path: str | os.PathLike) -> Hierarchy:
        """Reads a dictionary of either form, see `read_names`; one without parents has only roots.

        Raises:
            UserError: as `read` and `read_names`.
        """
        if is_hierarchy(path):
            return cls.read(path)
        names, ids = zip(*_names_and_ids(path), strict=True)
        return cls(np.full(len(names), NO_PARENT, np.int32), ids, names)

    def __len__(self) -> int:
        return len(self.parents)

    def ancestors(self, class_index: int) -> list[int]:
        """The ancestors of a class, from its parent to the root."""
        chain = []
        parent = int(self.parents[class_index])
        while parent != NO_PARENT:
            chain.append(parent)
            parent = int(self.parents[parent])
        return chain

    @cached_property
    def depths(self) -> np.ndarray:
        """int32 [C]: number of edges between each class and its root."""
        depths = np.zeros(len(self), np.int32)
        above = self.parents
        while (above != NO_PARENT).any():
            depths += above != NO_PARENT
            above = self._parent_of(above)
        return depths

    @property
    def roots(self) -> list[int]:
        """The classes without a parent."""
        return np.flatnonzero(self.parents == NO_PARENT).tolist()

    @cached_property
    def closure(self) -> tuple[np.ndarray, np.ndarray]:
        """Each class with its ancestors, as a sparse matrix.

        Returns:
            offsets int64 [C + 1] and members int32: `members[offsets[c]:offsets[c + 1]]` are class
            c itself and then its ancestors, from its parent to the root.
        """
        offsets = np.concatenate([[0], np.cumsum(self.depths.astype(np.int64) + 1)])
        members = np.empty(offsets[-1], np.int32)
        above = np.arange(len(self), dtype=np.int32)
        for level in range(int(self.depths.max()) + 1):
            rows = np.flatnonzero(above != NO_PARENT)
            members[offsets[rows] + level] = above[rows]
            above = self._parent_of(above)
        return offsets, members

    def descendants(self, classes: Iterable[int]) -> np.ndarray:
        """bool [C]: the given classes and all their descendants."""
        chosen = np.zeros(len(self), bool)
        chosen[list(classes)] = True
        offsets, members = self.closure
        return np.logical_or.reduceat(chosen[members], offsets[:-1])

    def on_one_path(self, a: int, b: int) -> bool:
        """Whether two classes are the same, or one is an ancestor of the other."""
        return a == b or a in self.ancestors(b) or b in self.ancestors(a)

    def find(self, text: str) -> int:
        """The class with this index, id, full name, or synonym in its name; ignores letter case.

        Raises:
            UserError: no class matches, or several do.
        """
        if _INTEGER.fullmatch(text):
            if not 0 <= int(text) < len(self):
                raise UserError(f"class {text} is not in 0..{len(self) - 1}")
            return int(text)
        found = self._spellings.get(text.strip().casefold(), [])
        if len(found) == 1:
            return found[0]
        if not found:
            raise UserError(f"no class has the id or name {text!r}")
        which = ", ".join(f"{c} ({self.ids[c]})" for c in found[:5])
        raise UserError(f"{text!r} names {len(found)} classes: {which}; give the index or id")

    @cached_property
    def index_of_id(self) -> dict[str, int]:
        """The class index of each id."""
        return {identity: c for c, identity in enumerate(self.ids)}

    @cached_property
    def _spellings(self) -> dict[str, list[int]]:
        spellings: dict[str, list[int]] = {}
        for c, (identity, name) in enumerate(zip(self.ids, self.names, strict=True)):
            synonyms = {part.strip() for part in name.split(",")}
            for text in {t.casefold() for t in {identity, name, *synonyms}}:
                spellings.setdefault(text, []).append(c)
        return spellings

    def _parent_of(self, classes: np.ndarray) -> np.ndarray:
        return np.where(classes == NO_PARENT, NO_PARENT, self.parents[classes])

    def cycle(self) -> list[int]:
        """The classes of one cycle, with the first repeated at the end; empty if there is none."""
        above = self.parents
        for _ in range(len(self)):
            if (above == NO_PARENT).all():
                return []
            above = self._parent_of(above)
        start = int(above.max())  # after C steps up, only classes in cycles are left
        loop = [start, int(self.parents[start])]
        while loop[-1] != start:
            loop.append(int(self.parents[loop[-1]]))
        return loop


def is_hierarchy(path: str | os.PathLike) -> bool:
    """Whether a dictionary has a parent field in its lines, not only a name and maybe an id."""
    for _, line in _lines(path):
        fields = [field.strip() for field in line.split("\t")]
        if _INTEGER.fullmatch(fields[0]):
            return len(fields) >= _HIERARCHY_FIELDS and bool(_INTEGER.fullmatch(fields[2]))
    return False


def read_names(path: str | os.PathLike) -> list[str]:
    """The names of a dictionary, by class index.

    The dictionary is a hierarchy, or has lines `index<TAB>name`, optionally followed by `<TAB>id`,
    as in `data/imagenet2012_dictionary.txt`; the first tab may be a blank instead.

    Raises:
        UserError: a line of neither form, a repeated index, or a gap; as `path:line: reason`.
    """
    return [name for name, _ in _names_and_ids(path)]


def read_ids(path: str | os.PathLike) -> list[str]:
    """The ids of a dictionary of either form, by class index.

    Raises:
        UserError: as `read_names`, or a class without an id.
    """
    ids = [identity for _, identity in _names_and_ids(path)]
    if "" in ids:
        raise UserError(f"{os.fspath(path)}: class {ids.index('')} has no id (third field)")
    return ids


def index_of_ids(hierarchy: Hierarchy, synonyms: str | os.PathLike | None = None) -> dict[str, int]:
    """The class index of every id; with `synonyms`, also of the ids in that file.

    Args:
        synonyms: file of lines `id<TAB>class` with the ids of another data set for our classes,
            e.g. `/m/0cgh4<TAB>n02913152`; the class is an index, id or name.

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
    """Maps the classes of another dictionary to ours, by id.

    Args:
        dictionary: the other dictionary, with D classes.
        indices: our class index of each id, see `index_of_ids`.

    Returns:
        int32 [D]: our class index, or -1 for an unknown id.

    Raises:
        UserError: none of its ids is known, so the two dictionaries have different kinds of ids.
    """
    ids = read_ids(dictionary)
    mapping = np.array([indices.get(identity, -1) for identity in ids], np.int32)
    if (mapping < 0).all():
        raise UserError(
            f"{os.fspath(dictionary)}: none of its ids, such as {ids[0]!r}, is in the dictionary;"
            " give --synonyms"
        )
    return mapping


def _names_and_ids(path: str | os.PathLike) -> list[tuple[str, str]]:
    if is_hierarchy(path):
        hierarchy = Hierarchy.read(path)
        return list(zip(hierarchy.names, hierarchy.ids, strict=True))
    classes: dict[int, tuple[str, str]] = {}
    for number, line in _lines(path):
        match = _INDEX_AND_NAME.fullmatch(line)
        where = f"{os.fspath(path)}:{number}"
        if not match:
            raise UserError(f"{where}: expected `index<TAB>name`, found {line[:60]!r}")
        index = int(match[1])
        if index in classes:
            raise UserError(f"{where}: class {index} is repeated")
        name, _, rest = match[2].partition("\t")
        classes[index] = name.strip(), rest.partition("\t")[0].strip()
    if not classes:
        raise UserError(f"{os.fspath(path)}: no class in it")
    _check_gap(path, classes)
    return [classes[c] for c in range(len(classes))]


def _lines(path: str | os.PathLike) -> Iterator[tuple[int, str]]:
    """Yields (number, text) of the lines that are not empty."""
    try:
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UserError(f"{os.fspath(path)}: not UTF-8 ({error.reason})") from error
    except FileNotFoundError as error:
        where = "README.md, Data, says where the released dictionary comes from"
        raise UserError(f"{os.fspath(path)}: no such file; {where}") from error


def _hierarchy_lines(path: str | os.PathLike) -> Iterator[tuple[int, int, str, int, str]]:
    """Yields (line, index, id, parent, name) of each class; skips a header."""
    first = True
    for number, line in _lines(path):
        fields = [field.strip() for field in line.split("\t", _HIERARCHY_FIELDS - 1)]
        header = first and not _INTEGER.fullmatch(fields[0])
        first = False
        if header:
            continue
        where = f"{os.fspath(path)}:{number}"
        if len(fields) < _HIERARCHY_FIELDS:
            raise UserError(
                f"{where}: {len(fields)} tab-separated fields, expected index, id, parent and name"
            )
        for field, what in ((fields[0], "index"), (fields[2], "parent")):
            if not _INTEGER.fullmatch(field):
                raise UserError(f"{where}: the {what} {field[:60]!r} is not an integer")
        yield number, int(fields[0]), fields[1], int(fields[2]), fields[3]


def _check_range(path: str | os.PathLike, lines: dict[int, int], classes: dict) -> None:
    _check_gap(path, classes)
    for index, (parent, _, _) in classes.items():
        if parent != NO_PARENT and parent not in classes:
            where = f"{os.fspath(path)}:{lines[index]}"
            raise UserError(f"{where}: class {index} has the unknown parent {parent}")


def _check_gap(path: str | os.PathLike, classes: dict) -> None:
    if min(classes) < 0 or max(classes) >= len(classes):
        missing = next((c for c in range(len(classes)) if c not in classes), None)
        raise UserError(
            f"{os.fspath(path)}: indices {min(classes)}..{max(classes)} for {len(classes)} classes;"
            f" they must count from 0 without a gap, and {missing} is missing"
        )
