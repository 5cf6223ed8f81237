"""Imports a module when it is first used."""

import importlib
from typing import Any


class LazyModule:
    """Stands in for the module `name`, in code that must be quick to import (as in TFDS)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
