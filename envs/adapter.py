"""Other people's environments behind one contract: spaces that policies act in, plain numbers, and errors that name what is wrong.

`Adapted` wraps any environment that `gymnasium.make` makes. Actions of the policy are

- `Discrete`: 0 … n - 1, shifted by the space's `start`;
- `Box` of floats of any shape: a vector. A dimension with finite bounds is mapped from [-1, 1] to them, as RLlib's `normalize_actions`
  does; one with an infinite bound stays in the environment's units and is clipped at the finite one.

Observations are what `FlattenObservation` gives, a vector of float32, unless the suite reads them itself.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Text, Tuple

from envs.errors import SuiteError

READABLE = (Box, Discrete, MultiBinary, MultiDiscrete, Text)
"""Spaces that a vector can hold."""


class Adapted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment with canonical actions, rewards, ends and `info["success"]`.

    Raises:
        SuiteError: no policy can act in the environment's action space.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]):
        super().__init__(env)
        self.action_space, self._to_environment = canonical_actions(env.action_space)
        self.action_rule = self._action_rule()

    def _action_rule(self) -> str | None:
        """What is done to the policy's actions; None where they are given to the environment as they are."""
        if isinstance(self.env.action_space, Box) and self._to_environment is not _same:
            return f"from -1 … 1 to the bounds of {_shown(self.env.action_space)}"
        return None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode. The options that our own environments read are not handed on."""
        with staying_here():
            observation, info = self.env.reset(seed=seed)
        return observation, info or {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """A step. Rewards and ends may be NumPy's scalars, or arrays of one element."""
        observation, reward, terminated, truncated, info = self.env.step(self._to_environment(action))
        info = dict(info or {})
        success = truth("info['success']", info.get("success", info.get("is_success", False)))
        return (
            observation,
            number("the reward", reward),
            truth("terminated", terminated),
            truth("truncated", truncated),
            info | {"success": success},
        )


def canonical_actions(space: gymnasium.Space[Any] | None) -> tuple[gymnasium.Space[Any], Callable[[Any], Any]]:
    """The space that a policy acts in, and the function from its actions to those of `space`.

    Raises:
        SuiteError: it is a space of another kind. The message says what to wrap.
    """
    if isinstance(space, Discrete):
        start, kind = int(space.start), np.dtype(space.dtype).type
        return Discrete(int(space.n)), lambda action: kind(start + int(action))
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating):
        return _canonical_box(space)
    raise SuiteError(
        f"its actions are {space}; a policy acts in one Discrete or one Box of floats, so wrap it in one of Gymnasium's action wrappers "
        "(TransformAction, DiscretizeAction, or an ActionWrapper of your own)"
    )


def _canonical_box(space: Box) -> tuple[Box, Callable[[Any], Any]]:
    low, high = space.low.astype(np.float64).reshape(-1), space.high.astype(np.float64).reshape(-1)
    with np.errstate(over="ignore"):  # finite in float64, infinite in float32
        finite = np.isfinite(space.low.astype(np.float32)) & np.isfinite(space.high.astype(np.float32))
    finite = finite.reshape(-1)
    if (low >= high)[finite].any():
        raise SuiteError(f"its actions are {space}, in which a dimension has only one value; wrap it in an ActionWrapper without it")
    scale = np.where(finite, (np.where(finite, high, 0) - np.where(finite, low, 0)) / 2, 1.0)
    centre = np.where(finite, np.where(finite, low, 0) + scale, 0.0)

    def to_environment(action: Any) -> Any:
        values = np.clip(centre + scale * np.asarray(action, np.float64).reshape(-1), low, high).astype(space.dtype)
        return np.clip(values.reshape(space.shape), space.low, space.high)

    bounds = (np.where(finite, -1.0, low).astype(np.float32), np.where(finite, 1.0, high).astype(np.float32))
    free = np.isinf(low) & np.isinf(high)
    unchanged = space.dtype == np.float32 and len(space.shape) == 1 and bool(np.where(finite, (low == -1) & (high == 1), free).all())
    return Box(*bounds, dtype=np.float32), (_same if unchanged else to_environment)


def vector_view(env: gymnasium.Env[Any, Any]) -> tuple[gymnasium.Env[Any, Any], list[str]]:
    """The environment with its observation as one vector, and the names of parts that a vector cannot hold and that were left out.

    Raises:
        SuiteError: nothing is left. The message says what to wrap.
    """
    space, left_out = env.observation_space, list[str]()
    if isinstance(space, Dict):
        left_out = [name for name, part in space.items() if not readable(part)]
        kept = [name for name in space if name not in left_out]
        if left_out and kept:
            env = gymnasium.wrappers.FilterObservation(env, filter_keys=kept)
    if not readable(env.observation_space):
        raise SuiteError(
            f"it observes {space}, which is no vector of fixed size; wrap it in one of Gymnasium's observation wrappers "
            "(TransformObservation, or an ObservationWrapper of your own)"
        )
    return gymnasium.wrappers.FlattenObservation(env), left_out


def readable(space: gymnasium.Space[Any] | None) -> bool:
    """Whether the space's values have one size and can be flattened. Subclasses do not count: they may have changed their values."""
    if isinstance(space, Dict | Tuple):
        parts = list(space.values()) if isinstance(space, Dict) else list(space)
        return bool(parts) and all(map(readable, parts))
    return type(space) in READABLE


def number(what: str, value: Any) -> float:
    """A number given as Python's, NumPy's, or an array of one element.

    Raises:
        TypeError: it is anything else.
    """
    try:
        (single,) = np.asarray(value if value is not None else (), np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {_shown(value)}; it has to be one number") from None
    return float(single)


def truth(what: str, value: Any) -> bool:
    """True or false, given as Python's, NumPy's, a number, or an array of one element; None and NaN are false.

    Raises:
        TypeError: it is anything else.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    try:
        (single,) = np.asarray(value).reshape(-1)
        return bool(single == single and float(single) != 0)  # NaN is not equal to itself
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {_shown(value)}; it has to be true or false") from None


@contextlib.contextmanager
def staying_here() -> Iterator[None]:
    """Comes back to the current folder, on which the paths of a run depend."""
    here = os.getcwd()
    try:
        yield
    finally:
        if os.getcwd() != here:
            os.chdir(here)


def _same(action: Any) -> Any:
    return action


def _shown(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else text[:79] + "…"
