"""What EnvPool has: the ids of each of its modules, and the spec of each environment, read without a step."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from envs.envpool_package import load, module_of, registered
from envs.errors import SuiteError, UnknownTaskError, did_you_mean
from envs.pools.views import View, view_of

MULTI_AGENT = ("envpool.pgx",)
"""Modules of games whose players take turns: a policy of one task plays no opponent."""

MULTI_PLAYER = ("Cig-v1", "MultiDuel-v1")
"""ViZDoom's scenarios that wait for other players: started alone, they end the process."""

SUDOKU, SUDOKU_FOLDER = "sudoku_database", "jumanji/assets/sudoku"
"""An option of EnvPool's Sudoku, and the folder of its puzzles, which EnvPool 1.2.5 comes without."""


class Spec(NamedTuple):
    """What EnvPool says of an environment."""

    view: View
    info: frozenset[str]
    """The names of what `info` has."""
    reward_threshold: float | None
    """The return from which the task counts as solved; None where there is none."""
    max_steps: int
    """The longest episode."""


@functools.cache
def ids(module: str) -> dict[str, str]:
    """The ids of one of EnvPool's modules, such as `envpool.mujoco.dmc`, in its order, each with the id that stands for its environment: of
    several names of one environment that is the one with the newest version, without a prefix if there is such a one.

    Raises:
        SuiteError: EnvPool is not installed.
    """
    same: dict[str, list[str]] = {}
    for envpool_id, (own, spec_class, arguments) in registered().items():
        if own == module:
            same.setdefault(f"{spec_class} {sorted(arguments.items())}", []).append(envpool_id)
    first = {name: min(names, key=_rank) for names in same.values() for name in names}
    return {envpool_id: first[envpool_id] for envpool_id in registered() if envpool_id in first}


def version_of(envpool_id: str) -> int:
    """The number at the end of an id, `…-v3`."""
    return int(envpool_id.rpartition("-v")[2])


def _rank(envpool_id: str) -> tuple[bool, int]:
    return "/" in envpool_id, -version_of(envpool_id)


def spec_of(envpool_id: str, options: Mapping[str, Any] | None = None) -> Spec:
    """What EnvPool says of an environment that is made with `options`. Read once in a process.

    Raises:
        UnknownTaskError: EnvPool has no such id.
        SuiteError: EnvPool or what the environment needs besides is not installed, or no policy can play it.
    """
    key = (envpool_id, repr(sorted((options or {}).items())))
    if key not in _SPECS:
        _SPECS[key] = _read(envpool_id, options or {})
    return _SPECS[key]


_SPECS: dict[tuple[str, str], Spec] = {}


def _read(envpool_id: str, options: Mapping[str, Any]) -> Spec:
    module = module_of(envpool_id)
    if module is None:
        raise UnknownTaskError(f"EnvPool has no id {envpool_id!r}{did_you_mean(envpool_id, registered())}")
    if module in MULTI_AGENT or envpool_id in MULTI_PLAYER:
        raise SuiteError(f"{envpool_id} cannot be served: it is a game of several players")
    package = load(envpool_id)
    try:
        spec = package.make_spec(envpool_id, **options)
    except (ImportError, RuntimeError, ValueError, TypeError) as error:
        raise SuiteError(f"{envpool_id} cannot be made: {' '.join(str(error).split())}") from error
    if SUDOKU in spec.config._fields and not (Path(spec.config.base_path) / SUDOKU_FOLDER).exists():
        raise SuiteError(f"{envpool_id} cannot be made: its puzzles are not in this version of EnvPool's assets")
    arrays = frozenset(spec.state_array_spec)
    if any(name.startswith("info:players.") and name != "info:players.env_id" for name in arrays):
        raise SuiteError(f"{envpool_id} cannot be served: it has several players")
    try:
        with warnings.catch_warnings(action="ignore"):  # Gymnasium's, of bounds that are rounded to float32
            view = view_of(spec.observation_space, spec.action_space)
    except SuiteError as error:
        raise SuiteError(f"{envpool_id} cannot be served: {error}") from None
    threshold = spec.reward_threshold
    return Spec(
        view=view,
        info=frozenset(name.removeprefix("info:") for name in arrays if name.startswith("info:")),
        reward_threshold=float(threshold) if threshold else None,  # EnvPool writes 0 where there is none
        max_steps=int(spec.config.max_episode_steps),
    )
