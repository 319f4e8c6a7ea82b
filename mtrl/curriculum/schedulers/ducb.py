"""Discounted UCB (Fabisch and Metzen 2014): a bandit rewarded by the gain of a task's success rate, with a bonus for uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions, softmax


class DUCBOptions(RatedOptions):
    """Options of `ducb`."""

    discount: float = Field(0.95, gt=0, lt=1)
    """Discount of older rewards (γ)."""
    exploration: float = Field(0.002, ge=0)
    """Weight of what is uncertain (ξ)."""
    temperature: float = Field(0.05, gt=0)
    """Temperature of the softmax over the upper bounds; the bandit itself would choose the largest."""


class DUCB(ProgressScheduler):
    """The discounted mean of a task's gains, as parts of the largest, plus 2 √(ξ ln n / n_i).

    n_i are the task's discounted frames, in units of an equal share of the frames between two steps, and n is their sum over tasks. Numbers
    of observations would be uncertain for tasks with long episodes, however many frames these have.
    """

    Options: ClassVar[type[Section]] = DUCBOptions
    STATE = ("rewards", "counts", "frames")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.rewards = np.zeros(len(names))
        self.counts = np.zeros(len(names))
        self.frames = np.zeros(len(names))  # of each task at the last step

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Discounts rewards and counts, and adds the new ones."""
        super().observe(due, evidence)
        gains = np.maximum(0.0, self.gains)
        new = np.maximum(0.0, evidence.frames - self.frames)
        self.frames = np.array(evidence.frames, float)
        pulls = new / max(new.mean(), 1e-12)
        self.rewards = self.options.discount * self.rewards + pulls * gains / max(gains.max(), 1e-12)
        self.counts = self.options.discount * self.counts + pulls

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The bounds, through a softmax."""
        counts = np.maximum(self.counts, 1e-3)
        total = max(np.e, float(counts.sum()))
        bounds = self.rewards / counts + 2 * np.sqrt(self.options.exploration * np.log(total) / counts)
        return softmax(bounds / self.options.temperature)
