"""Levels: what an episode of a task is played on. A level is a seed, or numbers that an environment takes, and its seed besides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np


class Level(NamedTuple):
    """A level of a task."""

    number: int  # the seed of its episodes, which all begin alike
    parameters: tuple[float, ...] = ()  # in the order of the task's `LevelSpace`; empty where a level is a seed alone
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


class EditSettings(NamedTuple):
    """How far an edit of a level goes (ACCEL, Parker-Holder et al. 2022)."""

    size: float  # of a number: standard deviation of Gaussian noise, or the largest change by uniform noise, as a part of its range
    noise: Literal["gaussian", "uniform"]  # the distribution of the changes of a number
    cells: int  # of a grid: cells that are written anew


class LevelSpace(Protocol):
    """The P numbers that make a level of a task: how they are drawn and edited, and a sequence that a network can learn."""

    @property
    def names(self) -> tuple[str, ...]:
        """A name for each of the P numbers."""

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """A random level, [P]."""

    def of_training_levels(self, count: int) -> np.ndarray:
        """The training levels 0 to `count` - 1, [count, P]; a level is the same one whatever the count."""

    def edited(self, parameters: np.ndarray, settings: EditSettings, rng: np.random.Generator) -> np.ndarray:
        """A level near the one with these parameters, [P]."""

    def sequences_of(self, parameters: np.ndarray) -> np.ndarray:
        """N levels as sequences of S vectors with F numbers in -1 … 1, [N, S, F] float32."""

    def of_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """The parameters of N levels from sequences of any numbers, [N, P] float64."""


@dataclass(frozen=True)
class ParameterSpace:
    """A `LevelSpace` of numbers within bounds."""

    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Parameters drawn uniformly within the bounds, [P]."""
        return rng.uniform(self.low, self.high)

    def of_training_levels(self, count: int) -> np.ndarray:
        """The parameters of the levels 0 to `count` - 1, [count, P]; a level has the same ones whatever the count."""
        return np.random.default_rng(0).uniform(self.low, self.high, (count, len(self.names)))

    def edited(self, parameters: np.ndarray, settings: EditSettings, rng: np.random.Generator) -> np.ndarray:
        """Every number with noise, within the bounds, [P]."""
        low, high = np.array(self.low), np.array(self.high)
        noise = rng.standard_normal(len(low)) if settings.noise == "gaussian" else rng.uniform(-1.0, 1.0, len(low))
        return np.clip(parameters + settings.size * (high - low) * noise, low, high)

    def sequences_of(self, parameters: np.ndarray) -> np.ndarray:
        """Each number's place in its range, [N, P, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return (2.0 * (parameters - low) / (high - low) - 1.0).astype(np.float32)[..., None]

    def of_sequences(self, sequences: np.ndarray) -> np.ndarray:
        """The numbers at these places, within the bounds, [N, P]."""
        low, high = np.array(self.low), np.array(self.high)
        return low + (np.clip(sequences[..., 0], -1.0, 1.0) + 1.0) / 2.0 * (high - low)
