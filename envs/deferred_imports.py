"""Imports of packages without those of their parts that take long and are seldom needed: these are imported at their first use."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

_READING = threading.RLock()


def import_package(name: str) -> ModuleType:
    """Imports a simulator's package. EnvPool's Jumanji draws with Matplotlib, and one of MiniGrid's families needs NetworkX: both wait.

    Raises:
        ImportError: it cannot be imported.
    """
    if name == "envpool":
        defer("envpool.jumanji")
    elif name == "minigrid":
        defer("networkx")
    return importlib.import_module(name)


def defer(name: str) -> None:
    """Lets `import name` bind a module that is imported at the first use of one of its names.

    Python's own `LazyLoader` imports a module as soon as it is bound by `import` (until Python 3.12), and a package in a package together
    with the first of its modules.
    """
    parent, _, short = name.rpartition(".")
    if name in sys.modules or parent in sys.modules:
        return
    found = importlib.util.find_spec(parent or name)  # of a package in a package it would import the outer one
    if found is None:
        return
    module = _Deferred(name)
    if parent:
        folders = [Path(folder) / short for folder in found.submodule_search_locations or ()]
        if not any(folder.is_dir() for folder in folders):
            return
        module.__path__ = [str(folder) for folder in folders]  # modules in it are found without it
        module.__file__ = str(folders[0] / "__init__.py")
    else:
        module.__spec__, module.__file__ = found, found.origin
    sys.modules[name] = module


class _Deferred(ModuleType):
    """Stands for a module that has not been imported. It has the attributes that Python asks all modules for when it looks for a source."""

    def __getattr__(self, attribute: str) -> Any:
        """A name of the module, which is imported now. Its modules ask for `__path__`, and get it in the same way."""
        name = self.__name__
        with _READING:
            if sys.modules.get(name) is self:
                del sys.modules[name]
            return getattr(importlib.import_module(name), attribute)
