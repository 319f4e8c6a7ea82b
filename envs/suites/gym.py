"""Any environments with an id in Gymnasium's registry, a user's own among them: `gym/my_tasks:Reach-v0,my_tasks:Push-v0`."""

from __future__ import annotations

import contextlib
import functools
import urllib.parse
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.adapter import Adapted, staying_here, vector_view
from envs.errors import SuiteError
from envs.suites.minigrid import OBSERVATION_SPACE as GRID
from envs.suites.minigrid import image_only
from envs.suites.minigrid_view import with_fast_view
from envs.task import Task, TaskSuite


def names() -> list[str]:
    """None: Gymnasium's registry is too long to be listed."""
    return []


def make(name: str) -> TaskSuite:
    """`ID,ID…[?low=RETURN&high=RETURN]`; an id is Gymnasium's, with `module:` before it where a module has to be imported first.

    An episode succeeds if the environment's `info` says so (`success` or `is_success`), or if its return reaches the `reward_threshold`
    that the environment was registered with. Its score is its return between `low` and `high` where they are given, else 1 for a success.
    Its description is the environment's attribute `description`, if it has one; the words of its id stand in for it otherwise.
    Observations that contain MiniGrid's view are reduced to it; all others are flattened to one vector, without what no vector can hold.
    Actions are mapped from [-1, 1] to finite bounds (`envs.adapter`).

    Raises:
        SuiteError: an environment cannot be made or served, or the tasks' spaces differ.
    """
    listed, _, query = name.partition("?")
    ids = [part.strip() for part in listed.split(",")]
    if not all(ids):
        raise SuiteError(f"gym/{name}: an id is empty; it has to be gym/ID,ID…")
    low, high = _range(name, query)
    looks = [_look(env_id) for env_id in ids]
    for env_id, own in zip(ids, looks, strict=True):
        for what, ours, first in (
            ("observes", own.observation_space, looks[0].observation_space),
            ("acts in", own.action_space, looks[0].action_space),
        ):
            if ours != first:
                raise SuiteError(
                    f"gym/{name}: {env_id} {what} {ours}, but {ids[0]} {what} {first}; tasks of one suite share their spaces, and "
                    f"suites with different ones can be joined: {'+'.join(f'gym/{each}' for each in ids)}"
                )
    return TaskSuite(
        name=f"gym/{name}",
        tasks=tuple(_task(env_id, own, low, high) for env_id, own in zip(ids, looks, strict=True)),
        observation_space=looks[0].observation_space,
        action_space=looks[0].action_space,
        adapt=image_only if looks[0].observation_space == GRID else _as_vector,
        scored_by="success" if high is None else "return",
        rules=_rules(looks),
    )


class _Look(NamedTuple):
    """What one environment of a task says of itself."""

    name: str
    observation_space: gymnasium.spaces.Dict
    action_space: gymnasium.Space
    reward_threshold: float | None
    action_rule: str | None  # what is done to actions
    description: str  # the environment's attribute of this name, if it has one


def _rules(looks: list[_Look]) -> dict[str, str]:
    """What is done to the actions of the tasks; a policy that was trained by another rule acts wrongly."""
    found = {look.name: look.action_rule for look in looks if look.action_rule is not None}
    if not found:
        return {}
    same = len(set(found.values())) == 1 and len(found) == len(looks)
    return {"actions": next(iter(found.values())) if same else "; ".join(f"{name}: {rule}" for name, rule in found.items())}


def _task(env_id: str, look: _Look, low: float, high: float | None) -> Task:
    threshold = look.reward_threshold
    return Task(
        name=look.name,
        make_env=functools.partial(_make_env, env_id),
        low=low,
        high=high,
        success_return=None if threshold is None else float(np.nextafter(threshold, -np.inf)),  # the threshold itself succeeds
        description=look.description,
    )


def _make_env(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    return _adapted(env_id, render_mode)[0]


def _adapted(env_id: str, render_mode: str | None = None) -> tuple[Adapted, list[str]]:
    """The environment, and the names of parts of its observation that are left out."""
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}  # those that cannot be drawn take none
    with staying_here():
        env: Any = gymnasium.make(env_id, disable_env_checker=True, **drawn)
    if _sees_grid(env.observation_space):
        env, left_out = with_fast_view(env), [name for name in env.observation_space if name != "image"]
    else:
        env, left_out = vector_view(env)
    return Adapted(env), left_out


@functools.cache
def _look(env_id: str) -> _Look:
    try:
        env, left_out = _adapted(env_id)
    except SuiteError as error:
        raise SuiteError(f"gym: {env_id} cannot be served: {error}") from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a user's own environment may raise anything, and also call sys.exit
        reason = " ".join(str(error).split())
        raise SuiteError(f"gym: {env_id} cannot be made: {type(error).__name__}: {reason}") from error
    try:
        if left_out:
            warnings.warn(f"gym: of what {env_id} observes, policies do not read {', '.join(left_out)}", stacklevel=2)
        spec: Any = env.spec
        name = (spec.id if spec is not None else env_id.rpartition(":")[2]).replace("/", "-")
        description = str(getattr(env.unwrapped, "description", ""))
        threshold = spec.reward_threshold if spec is not None else None
        return _Look(name, _observations(env), env.action_space, threshold, env.action_rule, description)
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _observations(env: gymnasium.Env) -> gymnasium.spaces.Dict:
    if _sees_grid(env.observation_space):
        return GRID
    flat: Any = env.observation_space
    with np.errstate(over="ignore"):  # bounds of float64 that are infinite in float32
        low, high = flat.low.astype(np.float32), flat.high.astype(np.float32)
    return gymnasium.spaces.Dict({"vector": gymnasium.spaces.Box(low, high, flat.shape, np.float32)})


def _sees_grid(space: gymnasium.Space) -> bool:
    return isinstance(space, gymnasium.spaces.Dict) and space.spaces.get("image") == GRID["image"]


def _as_vector(observation: object) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):
        return {"vector": np.asarray(observation, np.float32)}


def _range(name: str, query: str) -> tuple[float, float | None]:
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise SuiteError(f"gym/{name}: an option is given twice")
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
