"""Any environments with an id in Gymnasium's registry, a user's own among them: `gym/my_tasks:Reach-v0,my_tasks:Push-v0`."""

from __future__ import annotations

import contextlib
import difflib
import functools
import itertools
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.actions import choices_of
from envs.adapter import Adapted, StackedImages, images_of, staying_here
from envs.errors import SuiteError
from envs.mixed import mix
from envs.observations import LARGEST_WHOLE, MASK, Observations, shown
from envs.pools.options import options_of, return_range
from envs.suites.minigrid import OBSERVATION_SPACE as GRID
from envs.suites.minigrid import image_only
from envs.suites.minigrid_view import with_fast_view
from envs.task import Task, TaskSuite, just_below

MOST_STACKED = 64


def names() -> list[str]:
    """None: Gymnasium's registry is too long to be listed."""
    return []


def make(name: str) -> TaskSuite:
    """`ID,ID…[?low=RETURN&high=RETURN&stack=IMAGES]`; an id is Gymnasium's, with `module:` before it for a module that has to be imported.

    An episode succeeds if the environment's `info` says so (`success` or `is_success`), or if its return reaches the `reward_threshold`
    that the environment was registered with. Its score is its return between `low` and `high` where they are given, else 1 for a success.
    Its description is the environment's attribute `description`, if it has one; the words of its id stand in for it otherwise.
    Observations that contain MiniGrid's view are reduced to it; all others are read as `envs.observations` says, and `stack` puts that many
    images side by side. Actions are those of `envs.actions`. Consecutive tasks with equal spaces are one part of a mixed suite, where not
    all of them have the same.

    Raises:
        SuiteError: an environment cannot be made or served, or two tasks have the same name.
    """
    listed, _, query = name.partition("?")
    ids = [part.strip() for part in listed.split(",")]
    if not all(ids):
        raise SuiteError(f"gym/{name}: an id is empty; it has to be gym/ID,ID…")
    options = _options(name, query)
    looks = [_look(env_id, options.stack) for env_id in ids]
    if options.stack > 1 and not any(images_of(look.observation_space) for look in looks):
        raise SuiteError(f"gym/{name}: stack puts images side by side, and none of these tasks observes one")
    groups = [list(group) for _, group in itertools.groupby(looks, key=_Spaces)]
    parts = [_part(name if len(groups) == 1 else ",".join(look.env_id for look in group), group, options, groups) for group in groups]
    return parts[0] if len(parts) == 1 else mix(f"gym/{name}", parts)


class _Look(NamedTuple):
    """What one environment of a task says of itself."""

    env_id: str
    name: str
    observation_space: gymnasium.spaces.Dict
    action_space: gymnasium.Space
    reward_threshold: float | None
    action_rule: str | None  # what is done to actions
    masked: bool  # info says which actions are allowed
    description: str  # the environment's attribute of this name, if it has one


class _Spaces:
    """A look by its spaces, which are compared and have no order."""

    def __init__(self, look: _Look):
        self._spaces = (look.observation_space, look.action_space)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Spaces) and self._spaces == other._spaces

    __hash__ = None  # type: ignore[assignment]


class _Options(NamedTuple):
    """The options of a suite's name."""

    low: float
    high: float | None
    stack: int


def _part(name: str, looks: list[_Look], options: _Options, groups: list[list[_Look]]) -> TaskSuite:
    """A suite of tasks with equal spaces."""
    return TaskSuite(
        name=f"gym/{name}",
        tasks=tuple(_task(look, options) for look in looks),
        observation_space=looks[0].observation_space,
        action_space=looks[0].action_space,
        adapt=_same,
        scored_by="success" if options.high is None else "return",
        rules=_rules(looks, alone=len(groups) == 1),
    )


def _rules(looks: list[_Look], *, alone: bool) -> dict[str, str]:
    """What is done to the actions of the tasks; a policy that was trained by another rule acts wrongly."""
    found = {look.name: look.action_rule for look in looks if look.action_rule is not None}
    if not found:
        return {}
    same = alone and len(set(found.values())) == 1 and len(found) == len(looks)
    return {"actions": next(iter(found.values())) if same else "; ".join(f"{name}: {rule}" for name, rule in found.items())}


def _task(look: _Look, options: _Options) -> Task:
    threshold = look.reward_threshold
    return Task(
        name=look.name,
        make_env=functools.partial(_make_env, look, options.stack),
        low=options.low,
        high=options.high,
        success_return=None if threshold is None else just_below(threshold),
        description=look.description,
    )


def _make_env(look: _Look, stack: int, render_mode: str | None = None) -> gymnasium.Env:
    _, env = _adapted(_made(look.env_id, render_mode), stack, masked=look.masked)
    for what, ours, first in (
        ("observes", env.observation_space, look.observation_space),
        ("acts in", env.action_space, look.action_space),
    ):
        if ours != first:
            raise SuiteError(
                f"gym: {look.env_id} is not always made with the same spaces: an environment {what} {shown(ours)}, and the first one "
                f"{what} {shown(first)}"
            )
    return env


def _made(env_id: str, render_mode: str | None = None) -> gymnasium.Env:
    drawn: dict[str, Any] = {} if render_mode is None else {"render_mode": render_mode}  # those that cannot be drawn take none
    with staying_here():
        env: gymnasium.Env = gymnasium.make(env_id, disable_env_checker=True, **drawn)
    return env


def _adapted(env: gymnasium.Env, stack: int, *, masked: bool) -> tuple[Adapted, gymnasium.Env]:
    """The environment with arrays and canonical actions, and the same with stacked images."""
    grid, space = None, env.observation_space
    if isinstance(space, gymnasium.spaces.Dict) and space.spaces.get("image") == GRID["image"]:
        left_out = [name for name in space if name != "image" and not (masked and name == MASK)]
        env, grid = with_fast_view(env), Observations(GRID, image_only, left_out, [])
    adapted = Adapted(env, grid, masked=masked)
    read: Any = adapted.observation_space
    stacked = stack > 1 and images_of(read)
    return adapted, StackedImages(adapted, stack) if stacked else adapted


@functools.cache
def _look(env_id: str, stack: int) -> _Look:
    with contextlib.ExitStack() as stopping:
        try:
            made = _made(env_id)
            stopping.callback(_close, made)
            masked = _masks_in_info(made)
            if masked and choices_of(made.action_space) is None:
                what = f"policies do not read its action_mask, since its actions are {shown(made.action_space)}"
                warnings.warn(f"gym: of {env_id} {what}; masks are those of Discrete and MultiDiscrete", stacklevel=2)
            adapted, env = _adapted(made, stack, masked=masked)
        except SuiteError as error:
            raise SuiteError(f"gym: {env_id} cannot be served: {error}") from None
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a user's own environment may raise anything, and also call sys.exit
            reason = " ".join(str(error).split())
            if isinstance(error, gymnasium.error.UnregisteredEnv):
                reason = reason.partition(" Did you mean")[0].rstrip(".") + _near(env_id)
            raise SuiteError(f"gym: {env_id} cannot be made: {type(error).__name__}: {reason}") from error
        if adapted.left_out:
            warnings.warn(f"gym: of what {env_id} observes, policies do not read {', '.join(adapted.left_out)}", stacklevel=2)
        if adapted.rounded:
            what = f"whole numbers beyond {LARGEST_WHOLE:,} are rounded to float32: {', '.join(adapted.rounded)}"
            warnings.warn(f"gym: of what {env_id} observes, {what}", stacklevel=2)
        spec: Any = adapted.spec
        name = (spec.id if spec is not None else env_id.rpartition(":")[2]).replace("/", "-")
        description = str(getattr(env.unwrapped, "description", ""))
        threshold = spec.reward_threshold if spec is not None else None
        space: Any = env.observation_space
        return _Look(env_id, name, space, env.action_space, threshold, adapted.action_rule, masked, description)


def _masks_in_info(env: gymnasium.Env) -> bool:
    """Whether the environment says in `info` which actions are allowed, as only an episode shows."""
    # An environment that cannot start is reported when it is to be trained, as those are that fail later.
    with contextlib.suppress(Exception, SystemExit), staying_here():
        return (env.reset(seed=0)[1] or {}).get(MASK) is not None
    return False


def _close(env: gymnasium.Env) -> None:
    with contextlib.suppress(Exception, SystemExit):
        env.close()


def _near(env_id: str) -> str:
    """The end of a sentence about an unknown id: the most similar registered ones."""
    near = difflib.get_close_matches(env_id.rpartition(":")[2], gymnasium.registry, n=3, cutoff=0.4)
    return f"; the most similar ids are {', '.join(near)}" if near else ""


def _same(observation: object) -> dict[str, np.ndarray]:
    return observation  # type: ignore[return-value]


def _options(name: str, query: str) -> _Options:
    options = options_of(f"gym/{name}", query, _Options._fields)
    low, high = return_range(f"gym/{name}", options)
    stack = options.get("stack", "1")
    if not (stack.isascii() and stack.isdigit() and 1 <= int(stack) <= MOST_STACKED):
        raise SuiteError(f"gym/{name}: stack is a number of images from 1 to {MOST_STACKED}, got {stack!r}")
    return _Options(low, high, int(stack))
