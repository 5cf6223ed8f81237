"""The names and hierarchy of a network's classes: from a dictionary or saved with a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.common.errors import UserError
from data.common.files import sha256
from data.lists.hierarchy import Hierarchy, is_hierarchy, read_names

IMAGENET_DICTIONARY = Path(__file__).resolve().parents[1] / "imagenet2012_dictionary.txt"


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes 0..C-1.

    Attributes:
        names: name of each class.
        hierarchy: None without one.
        sha256: checksum of the dictionary they come from; None without one.
    """

    names: Sequence[str]
    hierarchy: Hierarchy | None = None
    sha256: str | None = None

    @classmethod
    def read(cls, dictionary: str | os.PathLike) -> Classes:
        """The classes of a dictionary, with or without a hierarchy.

        Raises:
            UserError: it cannot be read, or a line is malformed; as `path:line: reason`.
        """
        hierarchy = Hierarchy.read(dictionary) if is_hierarchy(dictionary) else None
        names = hierarchy.names if hierarchy else read_names(dictionary)
        return cls(names, hierarchy, sha256(dictionary))

    @classmethod
    def of_number(cls, class_num: int) -> Classes:
        """ImageNet's for 1,000 classes, as in the released code; otherwise "class 0" and so on."""
        if class_num == 1000:
            return cls(read_names(IMAGENET_DICTIONARY))
        return cls([f"class {c}" for c in range(class_num)])

    @classmethod
    def from_section(cls, section: Mapping[str, Any]) -> Classes:
        """The classes that `section` saved.

        Raises:
            ValueError: the parents do not form a hierarchy, or are not as many as the names.
        """
        names, found = section["names"], section.get("hierarchy")
        if found is None:
            return cls(names, None, section["sha256"])
        if not len(names) == len(found["parents"]) == len(found["ids"]):
            raise ValueError("the classes' names, parents and ids differ in number")
        hierarchy = Hierarchy(np.array(found["parents"], np.int32), found["ids"], tuple(names))
        if max(found["parents"]) >= len(names) or hierarchy.cycle():
            raise ValueError("the parents of the classes do not form a hierarchy")
        return cls(names, hierarchy, section["sha256"])

    def section(self) -> dict[str, Any]:
        """The classes as JSON, to be saved with a checkpoint (`SECTION`)."""
        section = {"names": list(self.names), "sha256": self.sha256}
        if self.hierarchy is not None:
            parents, ids = self.hierarchy.parents.tolist(), list(self.hierarchy.ids)
            section["hierarchy"] = {"parents": parents, "ids": ids}
        return section

    def check_number(self, class_num: int, source: str | os.PathLike) -> Classes:
        """Returns itself; raises UserError, which names `source`, unless there are `class_num`."""
        if len(self.names) != class_num:
            raise UserError(
                f"{os.fspath(source)} names {len(self.names)} classes, the network has {class_num}"
                " (--class_num): give the --dictionary of its classes, or none (--dictionary=)"
            )
        return self
