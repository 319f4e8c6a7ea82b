"""Names in an experiment that stand for code: registered ones, and `module:Class` for one's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mtrl.config.schema import ConfigError
from mtrl.errors import did_you_mean

Entry = TypeVar("Entry")


def look_up(name: str, known: Mapping[str, Entry], field: str, kind: str, others: Sequence[str] = ()) -> Entry:
    """The entry of a registry, or the class or function that `module:Class` names.

    The module may be installed, on PYTHONPATH, or in the current folder.

    Args:
        name: the value in the experiment.
        known: the registry.
        field: the experiment's field, for messages.
        kind: what the field names, for messages.
        others: further names that the field may have.

    Raises:
        ConfigError: there is no such name, or the module cannot be imported.
    """
    if name in known:
        return known[name]
    if ":" in name:
        entry: Entry = _imported(name, field)
        return entry
    names = (*others, *known)
    hint = did_you_mean(name, names)
    raise ConfigError(
        f"{field}: no {kind} {name!r}; known are {', '.join(names)}, and module:Class for your own" + (f"; {hint}" if hint else "")
    )


def _imported(name: str, field: str) -> Any:
    module_name, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module raises
        raise ConfigError(f"{field}: {module_name} cannot be imported ({type(error).__name__}: {error})") from error
    found = getattr(module, attribute, None)
    if not callable(found):
        hint = did_you_mean(attribute, [each for each in vars(module) if not each.startswith("_")])
        raise ConfigError(f"{field}: {module_name} has no class {attribute!r}" + (f"; {hint}" if hint else ""))
    return found
