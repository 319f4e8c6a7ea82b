"""The suites that the tests of the environments' contract run over: every registered family on every backend that has it.

A family that is registered is tested without a change to the tests. One that names no suites itself needs an entry in `EXAMPLES`.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from envs import SuiteError, TaskSuite, VectorTasks, list_suites, make_suite, make_vector
from envs.errors import MissingPackageError
from envs.registry import CHAOS, FAMILIES

EXAMPLES = {
    "adroit": ["adroit/AdroitHandPen,AdroitHandDoor"],
    "box2d": ["box2d/LunarLander,BipedalWalker"],
    "chaos": ["chaos/toy/three?raise=0"],
    "classic": ["classic/CartPole-v1,Pendulum-v1"],
    "dmc": ["dmc/ball-in-cup-catch,reacher-easy"],
    "envpool": ["envpool/CartPole-v1,CartPole-v0"],
    "fetch": ["fetch/FetchReach,FetchPush"],
    "football": ["football/academy_empty_goal_close,academy_empty_goal"],
    "gym": ["gym/CartPole-v1,CartPole-v0", "gym/strangers:Steers-v0,strangers:Dials-v0?stack=2"],
    "hand": ["hand/HandReach,HandManipulatePen"],
    "highway": ["highway/HighwayFast,Parking"],
    "jumanji": ["jumanji/Sokoban,SearchAndRescue", "jumanji/TSP,BinPack,Connector"],
    "kitchen": ["kitchen/FrankaKitchen+fetch/FetchReach"],
    "maze": ["maze/PointMaze_UMaze,PointMaze_Open"],
    "mujoco": ["mujoco/Hopper,Walker2d"],
    "myosuite": ["myosuite/myoElbowPose1D6MRandom,myoHandReachRandom"],
    "playground": ["playground/Go1JoystickFlatTerrain,PandaPickCube"],
    "procgen": ["procgen/CoinRun,Jumper"],
    "toy_text": ["toy_text/FrozenLake,Taxi"],
    "vizdoom": ["vizdoom/Basic,TakeCover"],
}
"""Suites of families that name none themselves, or only long ones; as a rule of two tasks, so that slots can move from one to the other."""
SLOW = frozenset(EXAMPLES) - {"chaos", "classic", "envpool", "gym", "toy_text"}
"""Families that are left to the slow tests: their simulators start in seconds."""
DETERMINISTIC = ("toy/", "chaos/toy/", "jumanji/Sokoban")  # nothing is drawn, so that seeds make no difference


def first_tasks(name: str) -> TaskSuite:
    """The suite with its first two tasks alone: 57 games would take minutes to start."""
    suite = suite_or_skip(name)
    return replace(suite, tasks=suite.tasks[:2]) if suite.num_tasks > 2 else suite


def suite_or_skip(name: str) -> TaskSuite:
    """The suite. Skips the test where its simulator is not installed."""
    try:
        with warnings.catch_warnings(action="ignore"):  # Gymnasium's, that CartPole-v0 is old
            return make_suite(name)
    except SuiteError as error:
        pytest.skip(_lacking(error))


def suite_names(family: str) -> list[str]:
    """The family's named suites, or else its examples."""
    return EXAMPLES.get(family) or [f"{family}/{name}" for name in FAMILIES[family].names()]


def cases() -> list[Any]:
    """Pairs of suite and backend. Of a family's suites with the same first tasks there is one; a missing simulator is a skipped pair."""
    found: list[Any] = []
    for family in (*FAMILIES, CHAOS):
        marks = [pytest.mark.slow] if family in SLOW else []
        seen: set[tuple[str, ...]] = set()
        for name in suite_names(family):
            try:
                suite = first_tasks(name)
            except pytest.skip.Exception as skipped:
                found.append(pytest.param(name, None, marks=pytest.mark.skip(str(skipped))))
                continue
            if suite.names not in seen:
                seen.add(suite.names)
                found += [pytest.param(name, backend, id=f"{name}-{backend}", marks=marks) for backend in suite.backends]
    return found


def listed_suites() -> list[Any]:
    """The names of all named suites; those of families in `SLOW`, and the one of all Atari games, are slow."""
    slow = {name: name.partition("/")[0] in SLOW or name == "atari/57" for name in list_suites()}
    return [pytest.param(name, marks=[pytest.mark.slow] if slow[name] else []) for name in slow]


def start(suite: TaskSuite, counts: int | list[int], backend: str, **options: int) -> tuple[VectorTasks, dict[str, np.ndarray]]:
    """Environments and their first observations. Skips the test where the backend's simulator is not installed."""
    try:
        tasks = make_vector(suite, counts, backend=backend, **options)  # type: ignore[arg-type]
        return tasks, tasks.reset()
    except SuiteError as error:
        pytest.skip(_lacking(error))


def random_actions(suite: TaskSuite, steps: int, slots: int, seed: int = 0) -> np.ndarray:
    """Of any action space, [steps, slots, ...]."""
    space = suite.action_space
    space.seed(seed)
    return np.array([[space.sample() for _ in range(slots)] for _ in range(steps)])


def optimal_value(task: str, discount: float) -> float:
    """The discounted value of the first state of one of the tasks of `toy/three` under the best policy, by hand."""
    if task == "constant":
        return 1.0 / (1.0 - discount)  # reward 1 for ever
    if task == "corridor":
        return discount**4  # reward 1 in the fifth step
    return 0.25 * (1 + discount + discount**2 + discount**3)


def _lacking(error: SuiteError) -> str:
    """Why a simulator is missing; any other error is raised again."""
    if not isinstance(error, MissingPackageError) and not isinstance(error.__context__, ImportError):
        raise error
    return str(error)
