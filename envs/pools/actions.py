"""Actions of a policy as those of EnvPool's environments, and the same as code for a script that plays without this project."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from gymnasium.spaces import Box

from envs.actions import canonical_box

Numbers = tuple[float, ...]


class ToPool(Protocol):
    """Turns actions [N, ...] of a policy into EnvPool's."""

    @property
    def source(self) -> str | None:
        """An expression of Python for it, of `actions` and `numpy`; None where there is none."""

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """EnvPool's actions."""


@dataclass(frozen=True)
class Scaled:
    """Numbers from -1 to 1, brought to the bounds of a box; where a bound is infinite they are the environment's own."""

    low: Numbers
    high: Numbers
    shape: tuple[int, ...]
    dtype: str

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """See `ToPool`."""
        return np.asarray(self._to_environment(actions), self.dtype)

    @functools.cached_property
    def _to_environment(self) -> Callable[[np.ndarray], np.ndarray]:
        # Once: each step of every pool needs it.
        low, high = (np.array(bound, np.float32).reshape(self.shape) for bound in (self.low, self.high))
        return canonical_box(Box(low, high, dtype=np.float32))[1]

    @property
    def source(self) -> str | None:
        """See `ToPool`."""
        if not np.isfinite([*self.low, *self.high]).all():
            return None
        centre = [(low + high) / 2 for low, high in zip(self.low, self.high, strict=True)]
        scale = [(high - low) / 2 for low, high in zip(self.low, self.high, strict=True)]
        values = f"numpy.array({centre}) + numpy.array({scale}) * actions"
        return f"numpy.clip({values}, {list(self.low)}, {list(self.high)}).reshape(-1, *{self.shape}).astype({self.dtype!r})"


@dataclass(frozen=True)
class Combination:
    """Each combination of choices as one action."""

    counts: tuple[int, ...]
    low: tuple[int, ...]
    dtype: str

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """See `ToPool`."""
        return np.stack(np.unravel_index(actions, self.counts), axis=-1).astype(self.dtype) + np.array(self.low, self.dtype)

    @property
    def source(self) -> str | None:
        """See `ToPool`."""
        return f"(numpy.stack(numpy.unravel_index(actions, {self.counts}), axis=-1) + {list(self.low)}).astype({self.dtype!r})"


@dataclass(frozen=True)
class Counted:
    """Choices that are counted from 0, as those of an environment that counts from another number."""

    low: tuple[int, ...]
    dtype: str

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """See `ToPool`."""
        return actions.astype(self.dtype) + np.array(self.low, self.dtype)

    @property
    def source(self) -> str | None:
        """See `ToPool`."""
        return f"(actions + {list(self.low)}).astype({self.dtype!r})"
