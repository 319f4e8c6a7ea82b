"""EnvPool's package, imported when it is needed."""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import sys
from pathlib import Path
from typing import Any

from envs.deferred_imports import import_package
from envs.errors import MissingPackageError

PROCGEN = "envpool.procgen"
QT = ("libicudata.so.*", "libicuuc.so.*", "libicui18n.so.*", "libQt5Core.so.5", "libQt5Gui.so.5")
"""Libraries of Qt 5 that Procgen is linked to, each after those that it needs."""


def load(envpool_id: str | None = None) -> Any:
    """EnvPool's module, able to make the environment with that id: Procgen needs the libraries of Qt 5 besides, those of the system or
    those of the package PyQt5-Qt5.

    Raises:
        MissingPackageError: EnvPool, or what the environment needs besides, is not installed.
    """
    try:
        envpool = import_package("envpool")
    except ImportError as error:
        raise MissingPackageError(
            f"the envpool backend needs the envpool package ({error}); install it with pip, or set suite.backend to gymnasium"
        ) from None
    if envpool_id is not None and module_of(envpool_id) == PROCGEN:
        _load_qt()
    return envpool


def module_of(envpool_id: str) -> str | None:
    """The module of EnvPool that has an id, such as `envpool.mujoco.dmc`; None where EnvPool does not have it.

    Raises:
        MissingPackageError: EnvPool is not installed.
    """
    entry = registered().get(envpool_id)
    return None if entry is None else entry[0]


def registered() -> dict[str, tuple[str, str, dict[str, Any]]]:
    """What EnvPool has registered under each of its ids: a module, the class of its spec, and that spec's arguments.

    Raises:
        MissingPackageError: EnvPool is not installed.
    """
    load()
    from envpool.registration import registry

    return dict(registry.specs)


@functools.cache
def _load_qt() -> None:
    """Makes Procgen importable. Done once in a process."""
    procgen = sys.modules[PROCGEN]
    if "ProcgenEnvSpec" in vars(procgen):
        return  # the system has Qt
    found = importlib.util.find_spec("PyQt5")
    for folder in (found.submodule_search_locations or ()) if found else ():
        libraries = Path(folder) / "Qt5" / "lib"
        for pattern in QT:
            for library in sorted(libraries.glob(pattern)):
                ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    importlib.reload(procgen)
    if "ProcgenEnvSpec" not in vars(procgen):
        raise MissingPackageError(
            "Procgen's games need the libraries of Qt 5; install mtrl-trainer[procgen], or Qt 5 as a package of the system"
        )
