"""EXP3.S (Auer et al. 2002, Graves et al. 2017): an adversarial bandit for rewards that change over time; weights grow with progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions, softmax

HISTORY = 200  # rewards that the quantiles are taken over


class Exp3SOptions(RatedOptions):
    """Options of `exp3s`."""

    rate: float = Field(0.1, gt=0)
    """Step of the weights (η)."""
    epsilon: float = Field(0.05, ge=0, le=1)
    """Share that is spread over all tasks."""


class Exp3S(ProgressScheduler):
    """Weights grow with the size of a task's gain, scaled to [-1, 1] between the 20 % and 80 % quantiles of recent gains, and leak into one
    another.

    Every observed task gives its reward at once, so nothing is divided by the probability of having been chosen.
    """

    Options: ClassVar[type[Section]] = Exp3SOptions
    STATE = ("log_weights", "rewards", "steps")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.log_weights = np.zeros(len(names))
        self.rewards = np.zeros(0)
        self.steps = np.int64(0)

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Adds the scaled rewards and lets 1/t of all weight be shared."""
        super().observe(due, evidence)
        rewards = np.abs(self.gains)
        self.rewards = np.concatenate([self.rewards, rewards[due & (self.num_observations > 1)]])[-HISTORY:]
        self.steps += 1
        if len(self.rewards) < 2:
            return
        low, high = np.quantile(self.rewards, [0.2, 0.8])
        if high <= low:  # most tasks stand still
            high = self.rewards.max()
        scaled = np.clip(2 * (rewards - low) / (high - low) - 1, -1, 1) if high > low else np.zeros_like(rewards)
        # All tasks at each step, those without a new observation by their last gain: else the weights of tasks with short episodes, which
        # are observed more often, would move more often.
        grown = np.where(self.num_observations > 1, self.log_weights + self.options.rate * scaled, self.log_weights)
        # log((1 - α) e^w_i + α / (n - 1) Σ_{j≠i} e^w_j) with α = 1/t
        n, alpha = len(self.names), 1.0 / (self.steps + 1)
        shifted = np.exp(grown - grown.max())
        others = (shifted.sum() - shifted) / max(1, n - 1)
        self.log_weights = np.log((1 - alpha) * shifted + alpha * others + 1e-12)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The shares `(1 - ε) softmax(w) + ε / n`."""
        return (1.0 - self.options.epsilon) * softmax(self.log_weights) + self.options.epsilon / len(self.names)
