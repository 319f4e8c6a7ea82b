"""Levels: what an episode of a task is played on. A level is a seed, or numbers that an environment takes, and its seed besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np


class Level(NamedTuple):
    """A level of a task."""

    number: int  # the seed of its episodes, which all begin alike
    parameters: tuple[float, ...] = ()  # in the order of the task's `ParameterSpace`; empty where a level is a seed alone
    only_rated: bool = False  # whether an episode only rates the level, and nothing is learned from it


class SlotLevels(NamedTuple):
    """The levels that B slots play."""

    numbers: np.ndarray  # [B] int64
    only_rated: np.ndarray  # [B] bool
    environments: np.ndarray  # [B] int64, the number of the slot's environment among those of its task


class LevelSource(Protocol):
    """Says which level an episode is played on."""

    def draw(self, task: int) -> Level:
        """The level of a new episode of a task."""


@dataclass(frozen=True)
class ParameterSpace:
    """The numbers that make a level of a task, each with its bounds."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters drawn uniformly within the bounds, [len(names)]."""
        return rng.uniform(self.low, self.high)

    def of_training_levels(self, count: int) -> np.ndarray:
        """The parameters of the levels 0 to `count` - 1, [count, len(names)]; a level has the same ones whatever the count."""
        return np.random.default_rng(0).uniform(self.low, self.high, (count, len(self.names)))
