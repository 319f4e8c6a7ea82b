"""MiniGrid: partially observed grid worlds with sparse reward, and the sets of them that MOORE trains on."""

from __future__ import annotations

import functools
from pathlib import Path

import gymnasium
import numpy as np

from envs.deferred_imports import import_package
from envs.errors import MissingPackageError, SuiteError, UnknownTaskError, did_you_mean
from envs.suites.descriptions import MINIGRID, by_beginning
from envs.suites.minigrid_view import with_fast_view
from envs.task import EvaluationProtocol, PlayRecipe, Task, TaskSuite

MT3 = ("LavaGapS7", "RedBlueDoors-6x6", "MemoryS11")
MT5 = (*MT3, "DoorKey-6x6", "DistShift1")
MT7 = (*MT5, "SimpleCrossingS9N2", "MultiRoom-N2-S4")
SETS = {"mt3": MT3, "mt5": MT5, "mt7": MT7}

# The return of a shortest solution, 1 - 0.9 · steps / max_steps (reported with the SPARSE re-run of MOORE's benchmark).
ACHIEVABLE_RETURN = {
    "LavaGapS7": 0.9633,
    "RedBlueDoors-6x6": 0.9900,
    "MemoryS11": 0.9777,
    "DoorKey-6x6": 0.9725,
    "DistShift1": 0.9607,
    "SimpleCrossingS9N2": 0.9583,
    "MultiRoom-N2-S4": 0.8875,
}

UNLIKE_IN_ENVPOOL = ("MiniGrid-MultiRoom-",)
"""Prefixes of ids that EnvPool 1.2.5 has other levels for. A third of its MultiRooms cannot be solved: the range of the next room's place
is one too long, so that the door is in a corner, with a wall behind it (docs/experiments/measure_levels.py)."""

WFC = "MiniGrid-WFC-"
"""Beginning of the ids of mazes made from patterns, which minigrid 3.2's wheel comes without."""

OBSERVATION_SPACE = gymnasium.spaces.Dict({"image": gymnasium.spaces.Box(0, 255, (7, 7, 3), np.uint8)})
ACTION_SPACE: gymnasium.Space = gymnasium.spaces.Discrete(7)
PROTOCOL = EvaluationProtocol("minigrid-v1", episodes=25, actions="sampled")
RECIPE = PlayRecipe("minigrid", 'gymnasium.make("MiniGrid-{task}-v0")', 'observation["image"]')


def names() -> list[str]:
    """The named sets."""
    return list(SETS)


def tasks() -> list[str]:
    """All tasks of this family in the minigrid package.

    Raises:
        MissingPackageError: minigrid is not installed.
    """
    return [_short(each) for each in sorted(registered_ids()) if not each.startswith(WFC) or _has_patterns()]


def make(name: str) -> TaskSuite:
    """A named set, one task (`DoorKey-6x6`, or its full id `MiniGrid-DoorKey-6x6-v0`) or several, separated by commas.

    Raises:
        UnknownTaskError: MiniGrid registers no such environment.
        SuiteError: minigrid is not installed.
    """
    tasks = SETS.get(name) or tuple(_short(part.strip()) for part in name.split(","))
    return TaskSuite(
        name=f"minigrid/{name}",
        tasks=tuple(_task(task) for task in tasks),
        observation_space=OBSERVATION_SPACE,
        action_space=ACTION_SPACE,
        adapt=image_only,
        protocol=PROTOCOL,
        recipe=RECIPE,
    )


def image_only(observation: object) -> dict[str, np.ndarray]:
    """The agent's view alone, as in MOORE: neither its direction nor the mission."""
    return {"image": observation["image"]}  # type: ignore[index]


def _short(name: str) -> str:
    return name.removeprefix("MiniGrid-").removesuffix("-v0")


def _task(name: str) -> Task:
    env_id = f"MiniGrid-{name}-v0"
    if env_id not in registered_ids():
        raise UnknownTaskError(f"minigrid has no task {name!r}{did_you_mean(name, [*map(_short, sorted(registered_ids())), *SETS])}")
    if env_id.startswith(WFC) and not _has_patterns():
        raise SuiteError(f"minigrid/{name} cannot be made: its patterns are not in this version of the minigrid package")
    return Task(
        name=name,
        make_env=functools.partial(make_registered, env_id),
        high=ACHIEVABLE_RETURN.get(name, 1.0),
        success_return=0.0,
        envpool_id=env_id if env_id in in_envpool() and not env_id.startswith(UNLIKE_IN_ENVPOOL) else None,
        description=by_beginning(name, MINIGRID),
    )


def make_registered(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    """An environment of MiniGrid's package."""
    registered_ids()
    return with_fast_view(gymnasium.make(env_id, disable_env_checker=True, render_mode=render_mode))


@functools.cache
def registered_ids(prefix: str = "MiniGrid-") -> frozenset[str]:
    """The ids with `prefix` that the minigrid package registers in Gymnasium.

    Raises:
        SuiteError: minigrid is not installed.
    """
    try:
        import_package("minigrid")  # registers its environments
    except ImportError as error:
        raise MissingPackageError(f"MiniGrid's tasks need the minigrid package ({error}); install it with pip") from None
    return frozenset(env_id for env_id in gymnasium.registry if env_id.startswith(prefix) and env_id.endswith("-v0"))


@functools.cache
def _has_patterns() -> bool:
    return (Path(str(import_package("minigrid").__file__)).parent / "envs" / "wfc" / "patterns").is_dir()


@functools.cache
def in_envpool() -> frozenset[str]:
    """The ids of all environments of EnvPool; none if it is not installed."""
    try:
        envpool = import_package("envpool")
    except ImportError:
        return frozenset()
    return frozenset(envpool.list_all_envs())
