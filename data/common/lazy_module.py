"""Imports a module when something of it is first used."""

import importlib
from typing import Any


class LazyModule:
    """Stands for the module `name`, for code whose import must stay quick (as in TFDS)."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)
