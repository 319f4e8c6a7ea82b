"""What a policy reads of one of EnvPool's environments, and how it acts there: the one place that says which spaces are served.

- Observations of one picture become `frames`, bytes with the channels first.
- All others become `vector`: the numbers of every array, one after the other in the alphabetical order of their keys, as float32. A
  Discrete value of up to `MOST_ONE_HOT` kinds is one-hot, a larger one is a fraction of its range.
- `action_mask` says which choices are allowed, as `envs.actions.read_mask` has them.
- Actions are Discrete from 0, a Box of floats in [-1, 1] that is mapped to its bounds (`envs.actions`), or, for a box of integers, a
  MultiDiscrete from 0; where a mask names the allowed combinations of its choices, each combination is one action of a Discrete.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete

from envs.actions import MOST_CHOICES, action_rule, canonical_box, choices_of, same
from envs.errors import SuiteError
from envs.observations import MASK
from envs.pools.actions import Combination, Counted, Scaled, ToPool

SMALLEST_PICTURE = 32
"""Pixels of the shorter side. A smaller array of bytes is a board, whose cells are no picture's."""
MOST_CHANNELS = 16
MOST_ONE_HOT = 1024
MOST_COMBINATIONS = 10_000
"""Of choices that are allowed or forbidden together. A policy has an output for each."""
NO_LIMIT = 1e10
"""A bound from here on is none: MuJoCo's largest number stands for a missing one."""


class View(NamedTuple):
    """How a policy sees an environment and acts in it."""

    observation_space: Dict
    action_space: gymnasium.Space
    to_pool: ToPool | None
    """Turns actions [N, ...] of `action_space` into EnvPool's; None where they are the same."""
    action_rule: str | None
    """What `to_pool` does, in words."""
    adapt: FramesView | VectorView
    """As that of a `TaskSuite`. Those of two environments are equal if they read the same arrays."""


def view_of(observations: gymnasium.Space, actions: gymnasium.Space) -> View:
    """The view of an environment with these spaces.

    Raises:
        SuiteError: no policy can read or act in it. The message says why, for the end of a sentence that names the environment.
    """
    adapt: FramesView | VectorView
    mask_space: Any = observations.spaces.get(MASK) if isinstance(observations, Dict) else None
    acted = _actions(actions, None if mask_space is None else tuple(mask_space.shape))
    if _is_picture(observations):
        shape: Any = observations.shape
        adapt = FramesView(channels_last=shape[-1] <= MOST_CHANNELS)
        frames = (shape[-1], *shape[:-1]) if adapt.channels_last else shape
        seen = Dict({"frames": Box(0, 255, frames, np.uint8)})
    else:
        choices = None if mask_space is None else choices_of(acted[0])
        adapt = VectorView(tuple(part for part in _parts(observations) if part.path != (MASK,)), choices)
        seen = Dict({"vector": Box(-np.inf, np.inf, (adapt.size,), np.float32)})
        if choices is not None:
            seen = Dict({**seen.spaces, MASK: MultiBinary(sum(choices))})
    return View(seen, *acted, adapt)


class Part(NamedTuple):
    """One of the arrays of an observation."""

    path: tuple[str, ...]
    """The keys that lead to it."""
    dimensions: int
    """Those of the array of one environment."""
    size: int
    """Its numbers in the vector."""
    kinds: int | None
    """The number of values that it can have; None where it is a number."""
    start: int
    """The least of these values."""


@dataclass(frozen=True)
class VectorView:
    """Reads an observation of one environment, or of a pool, as one vector `[..., size]`, and its mask of actions if it has one."""

    parts: tuple[Part, ...]
    choices: tuple[int, ...] | None = None
    """The numbers of values of the choices that a mask allows or forbids; None where there is no mask."""

    @functools.cached_property
    def size(self) -> int:
        """The vector's numbers."""
        return sum(part.size for part in self.parts)

    def __call__(self, observation: Any) -> dict[str, np.ndarray]:
        """The observation as `vector`, and `action_mask`."""
        arrays = [_at(observation, part.path) for part in self.parts]
        shape = arrays[0].shape
        leading = shape[: len(shape) - self.parts[0].dimensions]
        vector = np.empty((*leading, self.size), np.float32)
        end = 0
        for part, array in zip(self.parts, arrays, strict=True):
            rows, end = slice(end, end + part.size), end + part.size
            vector[..., rows] = _encoded(part, array).reshape(*leading, part.size)
        mask = {} if self.choices is None else {MASK: _allowed(observation[MASK].reshape(*leading, -1), self.choices)}
        return {"vector": vector, **mask}


@dataclass(frozen=True)
class FramesView:
    """Reads a picture of one environment, or those of a pool, as `frames` with the channels first."""

    channels_last: bool

    def __call__(self, observation: Any) -> dict[str, np.ndarray]:
        """The observation as `frames`."""
        frames = np.asarray(observation)
        return {"frames": np.ascontiguousarray(np.moveaxis(frames, -1, -3)) if self.channels_last else frames}


def _is_picture(space: gymnasium.Space) -> bool:
    if not (isinstance(space, Box) and space.dtype == np.uint8 and len(space.shape) == 3):
        return False
    first, _, last = space.shape
    return min(first, last) <= MOST_CHANNELS and sorted(space.shape)[1] >= SMALLEST_PICTURE


def _parts(space: gymnasium.Space, path: tuple[str, ...] = ()) -> Iterator[Part]:
    if isinstance(space, Dict):
        for name, inner in sorted(space.spaces.items()):
            yield from _parts(inner, (*path, name))
    elif isinstance(space, Discrete):
        count = int(space.n)
        yield Part(path, 0, count if count <= MOST_ONE_HOT else 1, count, int(space.start))
    elif isinstance(space, Box | MultiBinary) and not _is_picture(space):
        yield Part(path, len(space.shape or ()), int(np.prod(space.shape or ())), None, 0)
    else:
        where = f"{':'.join(path)!r} of what it observes" if path else "what it observes"
        raise SuiteError(f"{where} is {space}, which is neither a picture alone nor a part of a vector")


def _encoded(part: Part, array: np.ndarray) -> np.ndarray:
    if part.kinds is None:
        return array
    values = array.astype(np.int64) - part.start
    if part.size == 1:
        return values / max(1, part.kinds - 1)
    return np.eye(part.kinds, dtype=np.float32)[values]


def _at(observation: Any, path: tuple[str, ...]) -> np.ndarray:
    for name in path:
        observation = observation[name]
    return np.asarray(observation)


def _allowed(mask: np.ndarray, choices: tuple[int, ...]) -> np.ndarray:
    """The mask `[..., sum of the choices]` as int8. Simulators forbid everything when an episode has ended: all is allowed then."""
    parts = np.split(mask != 0, np.cumsum(choices)[:-1], axis=-1)
    return np.concatenate([part | ~part.any(-1, keepdims=True) for part in parts], axis=-1).astype(np.int8)


def _actions(space: gymnasium.Space, mask: tuple[int, ...] | None) -> tuple[gymnasium.Space, ToPool | None, str | None]:
    """The space that a policy acts in, and `to_pool` and `action_rule` of a `View`.

    Args:
        space: EnvPool's.
        mask: the shape of the mask of allowed actions; None where there is none.
    """
    if isinstance(space, Discrete) and int(space.start) == 0 and mask in (None, (space.n,)):
        return Discrete(int(space.n)), None, None
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.integer) and len(space.shape) == 1:
        counts = tuple((space.high.astype(np.int64) - space.low + 1).tolist())
        if mask == counts and np.prod(counts) <= MOST_COMBINATIONS:
            return Discrete(int(np.prod(counts))), Combination(counts, tuple(space.low.tolist()), str(space.dtype)), None
        if max(counts) <= MOST_CHOICES if mask is None else set(counts) == {mask[-1]} and mask == (len(counts), mask[-1]):
            return MultiDiscrete(list(counts)), Counted(tuple(space.low.tolist()), str(space.dtype)), None
    if isinstance(space, Box) and np.issubdtype(space.dtype, np.floating) and mask is None:
        low, high = (np.where(np.abs(bound) >= NO_LIMIT, np.copysign(np.inf, bound), bound) for bound in (space.low, space.high))
        acted, to_environment = canonical_box(Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32))
        if to_environment is same and space.dtype == np.float32:
            return acted, None, None
        bounds = [tuple(bound.astype(np.float32).reshape(-1).tolist()) for bound in (low, high)]
        return acted, Scaled(bounds[0], bounds[1], tuple(space.shape), str(space.dtype)), action_rule(space)
    masked = "" if mask is None else f" with an {MASK} of shape {mask}"
    raise SuiteError(f"its actions are {space}{masked}, and a policy acts in one Discrete, one Box of floats, or a few integers")
