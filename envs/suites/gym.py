"""Any environments with an id in Gymnasium's registry, a user's own among them: `gym/my_tasks:Reach-v0,my_tasks:Push-v0`."""

from __future__ import annotations

import functools
import urllib.parse
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import FlattenObservation

from envs.errors import SuiteError
from envs.suites.minigrid import OBSERVATION_SPACE as GRID
from envs.suites.minigrid import image_only
from envs.task import Task, TaskSuite


def names() -> list[str]:
    """None: Gymnasium's registry is too long to be listed."""
    return []


def make(name: str) -> TaskSuite:
    """`ID,ID…[?low=RETURN&high=RETURN]`; an id is Gymnasium's, with `module:` before it where a module has to be imported first.

    An episode succeeds if the environment's `info` says so (`success` or `is_success`), or if its return reaches the `reward_threshold`
    that the environment was registered with. Its score is its return between `low` and `high` where they are given, else 1 for a success.
    Observations that contain MiniGrid's view are reduced to it; all others are flattened to one vector.

    Raises:
        SuiteError: an environment cannot be made, or the tasks' spaces differ.
    """
    listed, _, query = name.partition("?")
    ids = [part.strip() for part in listed.split(",") if part.strip()]
    low, high = _range(name, dict(urllib.parse.parse_qsl(query, keep_blank_values=True)))
    spaces = [_spaces(env_id) for env_id in ids]
    for env_id, own in zip(ids, spaces, strict=True):
        for what, ours, first in zip(("observes", "acts in"), own, spaces[0], strict=True):
            if ours != first:
                raise SuiteError(f"gym/{name}: {env_id} {what} {ours}, but {ids[0]} {what} {first}; tasks of one suite share their spaces")
    observation_space, action_space = spaces[0]
    return TaskSuite(
        name=f"gym/{name}",
        tasks=tuple(_task(env_id, low, high) for env_id in ids),
        observation_space=observation_space,
        action_space=action_space,
        adapt=image_only if observation_space == GRID else _as_vector,
        scored_by="success" if high is None else "return",
    )


class _Reporting(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports `success` where an environment reports `is_success`, as Gymnasium-Robotics does."""

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, {"success": info.get("is_success", False), **info}


def _task(env_id: str, low: float, high: float | None) -> Task:
    threshold = gymnasium.spec(env_id.rpartition(":")[2]).reward_threshold
    return Task(
        name=env_id.rpartition(":")[2].replace("/", "-"),
        make_env=functools.partial(_make_env, env_id),
        low=low,
        high=high,
        success_return=None if threshold is None else float(np.nextafter(threshold, -np.inf)),  # the threshold itself succeeds
    )


def _make_env(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    env: Any = gymnasium.make(env_id, disable_env_checker=True, render_mode=render_mode)
    return _Reporting(env if _sees_grid(env.observation_space) else FlattenObservation(env))


@functools.cache
def _spaces(env_id: str) -> tuple[gymnasium.spaces.Dict, gymnasium.Space]:
    try:
        env = _make_env(env_id)
    except Exception as error:  # a user's own environment may raise anything
        reason = " ".join(str(error).split())
        raise SuiteError(f"gym: {env_id} cannot be made: {type(error).__name__}: {reason}") from error
    try:
        if _sees_grid(env.observation_space):
            return GRID, env.action_space
        flat: Any = env.observation_space
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
        return gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(low, high, flat.shape, np.float32)}), env.action_space
    finally:
        env.close()


def _sees_grid(space: gymnasium.Space) -> bool:
    return isinstance(space, gymnasium.spaces.Dict) and space.spaces.get("image") == GRID["image"]


def _as_vector(observation: object) -> dict[str, np.ndarray]:
    return {"vector": np.asarray(observation, np.float32)}


def _range(name: str, options: dict[str, str]) -> tuple[float, float | None]:
    unknown = sorted(set(options) - {"low", "high"})
    if unknown:
        raise SuiteError(f"gym/{name}: there is no option {unknown[0]!r}; there are low and high")
    try:
        low = float(options.get("low", 0.0))
        high = float(options["high"]) if "high" in options else None
    except ValueError:
        raise SuiteError(f"gym/{name}: low and high are returns, got {options}") from None
    if high is not None and high <= low:
        raise SuiteError(f"gym/{name}: high has to be above low, got {low:g} and {high:g}")
    return low, high
