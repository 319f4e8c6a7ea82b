"""Learning progress (Kanitscheider et al. 2021): tasks with a success rate that changes, up or down, get the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedScheduler


class LearningProgressOptions(Section):
    """Options of `learning_progress`."""

    rate: float = Field(0.1, gt=0, le=1)
    """Step of the slow average; the fast one is twice as quick."""
    threshold: float = Field(0.1, gt=0, lt=1)
    """Success rate that counts as half of the way: progress on hard tasks weighs more than on easy ones (p_θ)."""


class LearningProgress(RatedScheduler):
    """|f(fast) - f(slow)| of two averages of the success rate, standardised over tasks and passed through a sigmoid."""

    Options: ClassVar[type[Section]] = LearningProgressOptions
    STATE = ("fast", "slow")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.fast = np.zeros(len(names))
        self.slow = np.zeros(len(names))

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Moves both averages; the first observation sets them."""
        first = due & (self.num_observations == 1)
        rate = self.options.rate
        self.fast = np.where(due, self.fast + min(1.0, 2 * rate) * (self.latest - self.fast), self.fast)
        self.fast = np.where(first, self.latest, self.fast)
        # The slow one follows the fast one.
        self.slow = np.where(due, self.slow + rate * (self.fast - self.slow), self.slow)
        self.slow = np.where(first, self.latest, self.slow)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The sigmoid of the standardised progress; a task that neither moves nor ever succeeds gets nothing."""
        progress = np.abs(self.reweigh(self.fast) - self.reweigh(self.slow))
        if progress.max() <= 0:
            return np.zeros(len(self.names))
        observed = self.num_observations > 0
        deviation = progress[observed].std()
        standard = (progress - progress[observed].mean()) / (deviation if deviation > 0 else 1.0)
        return np.where((progress <= 0) & (self.latest <= 0), 0.0, 1.0 / (1.0 + np.exp(-standard)))

    def reweigh(self, rates: np.ndarray) -> np.ndarray:
        """The function `f(p) = p (1 - θ) / (p + θ (1 - 2p))`, which stretches small success rates."""
        theta = self.options.threshold
        return rates * (1 - theta) / (rates + theta * (1 - 2 * rates))
