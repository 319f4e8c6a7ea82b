"""Any suite with environments that fail or are slow, to test how a run copes: `chaos/minigrid/mt3?raise=0.0002&hang=0.000001`."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np

from envs.errors import SuiteError
from envs.task import Task, TaskSuite

KINDS = ("raise", "nan", "shape", "hang", "crash")
FOR_EVER = 10**6  # seconds


class ChaosEnv(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Fails in a step with the given chance of each kind, and waits `sleep` seconds in every step."""

    def __init__(self, make_env: Callable[..., gymnasium.Env], chances: dict[str, float], sleep: float, **options: Any):
        super().__init__(make_env(**options))
        self._chances, self._sleep = chances, sleep
        self._rng = np.random.default_rng()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """The environment's own reset; the seed also determines the failures."""
        if seed is not None:
            self._rng = np.random.default_rng([seed, 1])
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """The environment's own step, or a failure."""
        if self._sleep:
            time.sleep(self._sleep)
        observation, reward, terminated, truncated, info = self.env.step(action)
        draw = self._rng.random()
        for kind, chance in self._chances.items():
            draw -= chance
            if draw < 0:
                observation, reward = self._fail(kind, observation, reward)
                break
        return observation, reward, terminated, truncated, info

    def _fail(self, kind: str, observation: Any, reward: Any) -> tuple[Any, Any]:
        if kind == "raise":
            raise RuntimeError("chaos: this environment raises")
        if kind == "hang":
            time.sleep(FOR_EVER)
        if kind == "crash":
            os._exit(3)
        if kind == "nan":
            return observation, float("nan")
        return {name: array[..., None] for name, array in observation.items()}, reward


def disturb(suite: TaskSuite, query: str) -> TaskSuite:
    """`suite` with failures.

    Args:
        suite: the tasks.
        query: `KIND=CHANCE&…`, the chance of each kind of failure in a step. `only=TASK,TASK` disturbs these tasks alone, and
            `sleep=SECONDS` makes each of their steps wait.

    Raises:
        SuiteError: there is no such kind or task, or a chance is not a number from 0 to 1.
    """
    name = f"{suite.name}?{query}" if query else suite.name
    options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    only = options.pop("only", ",".join(suite.names)).split(",")
    for task in only:
        suite.index(task)
    sleep = _fraction(name, "sleep", options.pop("sleep", "0"), "seconds")
    chances = {kind: _chance(name, kind, text) for kind, text in options.items()}
    return suite.changed(f"chaos/{name}", lambda task: _failing(task, chances, sleep) if task.name in only else _python_only(task))


def _failing(task: Task, chances: dict[str, float], sleep: float) -> Task:
    return dataclasses.replace(
        _python_only(task),
        make_env=functools.partial(ChaosEnv, task.make_env, chances, sleep),
        make_evaluation_env=task.make_evaluation_env or task.make_env,
    )


def _python_only(task: Task) -> Task:
    """The task without EnvPool, whose environments cannot be made to fail."""
    return dataclasses.replace(task, envpool_id=None)


def _chance(name: str, kind: str, text: str) -> float:
    if kind not in KINDS:
        raise SuiteError(f"chaos/{name}: no failure {kind!r}; there are {', '.join(KINDS)}, sleep and only")
    return _fraction(name, kind, text, "a chance")


def _fraction(name: str, kind: str, text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise SuiteError(f"chaos/{name}: {kind} is {what} from 0 to 1, got {text!r}")
    return value
