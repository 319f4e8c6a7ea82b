"""Other people's environments behind one contract: spaces that policies act in, arrays that encoders read, plain numbers, and errors that
name what is wrong.

`Adapted` wraps any environment that `gymnasium.make` makes. Its actions are those of `envs.actions`, and its observations those of
`envs.observations`, unless the suite reads them itself. Where the environment says which actions are allowed, as `action_mask` in its
observation or in `info`, the observation has an array `action_mask`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, MultiBinary
from gymnasium.spaces.utils import flatdim

from envs.actions import action_rule, canonical_actions, choices_of, read_mask
from envs.errors import MisfitError, SuiteError
from envs.observations import GRID_SHAPE, MASK, Arrays, Observations, leaf_kind, read_observations, shown


class Adapted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment with canonical actions, observations, rewards, ends and `info["success"]`.

    Args:
        env: the environment.
        observations: how its observations are read; by default as `read_observations` does.
        masked: whether `info` has an `action_mask`. One in the observation is found without.

    Raises:
        SuiteError: no policy can act in the environment's action space, or read what it observes.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], observations: Observations | None = None, *, masked: bool = False):
        super().__init__(env)
        self.action_space, self._to_environment = canonical_actions(env.action_space)
        self.action_rule = action_rule(env.action_space)
        self._choices = choices_of(env.action_space)
        space: Any = env.observation_space
        self._mask_observed = self._choices is not None and isinstance(space, Dict) and MASK in space.spaces
        if self._mask_observed:
            if flatdim(space[MASK]) != sum(self._choices or ()):
                raise SuiteError(
                    f"it observes an action_mask {shown(space[MASK])} that has not one number for each of its {sum(self._choices or ())} "
                    "actions; correct it, or give it another name"
                )
            space = Dict({name: part for name, part in space.items() if name != MASK})
        self._masked = self._mask_observed or (masked and self._choices is not None)
        own = observations or read_observations(space)
        self._read, self.left_out, self.rounded = own.read, own.left_out, own.rounded
        mask = {MASK: MultiBinary(sum(self._choices))} if self._masked and self._choices is not None else {}
        self.observation_space = Dict(own.space.spaces | mask)
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Arrays, dict[str, Any]]:
        """Begins an episode. The options that our own environments read are not handed on.

        Raises:
            MisfitError: the observation is not of the environment's space, or no action is allowed.
        """
        with staying_here():
            observation, info = self.env.reset(seed=seed)
        self._steps = 0
        return self._arrays(observation, info or {}, ended=False), info or {}

    def step(self, action: Any) -> tuple[Arrays, float, bool, bool, dict[str, Any]]:
        """A step. Rewards and ends may be NumPy's scalars, or arrays of one element.

        Raises:
            MisfitError: the observation is not of the environment's space, or no action is allowed.
        """
        observation, reward, terminated, truncated, info = self.env.step(self._to_environment(action))
        self._steps += 1
        info = dict(info or {})
        success = truth("info['success']", info.get("success", info.get("is_success", False)))
        over, cut = truth("terminated", terminated), truth("truncated", truncated)
        arrays = self._arrays(observation, info, ended=over or cut)
        return arrays, number("the reward", reward), over, cut, info | {"success": success}

    def _arrays(self, observation: Any, info: dict[str, Any], *, ended: bool) -> Arrays:
        try:
            arrays = self._read(observation)
            if not self._masked and self._choices is not None and info.get(MASK) is not None:
                raise MisfitError("info has an action_mask, and the first reset had none; give it there as well, so that policies read it")
            if self._masked:
                arrays[MASK] = self._mask(observation, info, ended=ended)
        except MisfitError as error:
            when = f"after step {self._steps}" if self._steps else "at the beginning of an episode"
            raise MisfitError(f"{error} ({when})") from None
        return arrays

    def _mask(self, observation: Any, info: dict[str, Any], *, ended: bool) -> np.ndarray:
        """The allowed actions; all where the environment names none, and at an episode's end, after which nobody acts."""
        assert self._choices is not None
        given = observation.get(MASK) if self._mask_observed else info.get(MASK)
        if given is None or ended:
            return np.ones(sum(self._choices), np.int8)
        return read_mask(given, self.env.action_space)


class StackedImages(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Images beside those of the steps before, as further channels, the oldest first; at the beginning the first one is repeated.

    Args:
        env: an environment with the arrays of `Adapted`.
        count: images side by side.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], count: int):
        own: Any = env.observation_space
        super().__init__(gymnasium.wrappers.FrameStackObservation(env, count))
        self._images = images_of(own)
        stacked: Any = self.env.observation_space
        joined = {name: (self._joined(stacked[name].low), self._joined(stacked[name].high)) for name in self._images}
        self.observation_space = Dict(
            {name: Box(*joined[name], dtype=space.dtype) if name in joined else space for name, space in own.items()}
        )

    def observation(self, observation: Arrays) -> Arrays:
        """All images of an array as one, and of all other arrays the newest."""
        return {name: self._joined(array) if name in self._images else array[-1] for name, array in observation.items()}

    @staticmethod
    def _joined(images: np.ndarray) -> np.ndarray:
        return images.reshape(-1, *images.shape[2:])


def images_of(space: Dict) -> list[str]:
    """The arrays of `Adapted` that are images; MiniGrid's view is none."""
    return [name for name, part in space.items() if leaf_kind(part) == "image" and part.shape != GRID_SHAPE]


def number(what: str, value: Any) -> float:
    """A number given as Python's, NumPy's, or an array of one element.

    Raises:
        TypeError: it is anything else.
    """
    try:
        (single,) = np.asarray(value if value is not None else (), np.float64).reshape(-1)
    except (TypeError, ValueError):
        raise TypeError(f"{what} is {shown(value)}; it has to be one number") from None
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
        raise TypeError(f"{what} is {shown(value)}; it has to be true or false") from None


@contextlib.contextmanager
def staying_here() -> Iterator[None]:
    """Comes back to the current folder, on which the paths of a run depend."""
    here = os.getcwd()
    try:
        yield
    finally:
        if os.getcwd() != here:
            os.chdir(here)
