"""Learning progress (Kanitscheider et al. 2021): tasks with a success rate that changes, up or down, get the frames."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions


class LearningProgressOptions(RatedOptions):
    """Options of `learning_progress`."""

    rate: float = Field(0.1, gt=0, lt=1)
    """Step of the slow average; the fast one is twice as quick."""
    threshold: float = Field(0.1, gt=0, lt=1)
    """Success rate that counts as half of the way: progress on hard tasks weighs more than on easy ones (p_θ)."""


class LearningProgress(ProgressScheduler):
    """|f(fast) - f(slow)| of two averages of the success rate, standardised over tasks and passed through a sigmoid.

    The averages of a task that stands still differ as well, by the noise of its episodes. So the slow one is taken to be where a change of
    `gains` has left it, which is 0 for what may be noise. Tasks without a change get nothing while others have one.
    """

    Options: ClassVar[type[Section]] = LearningProgressOptions
    STATE = ("fast",)

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.fast = np.zeros(len(names))

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Moves the fast average; the first observation sets it."""
        super().observe(due, evidence)
        first = due & (self.num_observations == 1)
        rate = self.options.rate
        self.fast = np.where(due, self.fast + min(1.0, 2 * rate) * (self.latest - self.fast), self.fast)
        self.fast = np.where(first, self.latest, self.fast)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The sigmoid of the standardised progress; a task that neither moves nor ever succeeds gets nothing."""
        lag = self.episodes_wanted * (1 - self.options.rate) / self.options.rate  # episodes of the slow average behind the fast
        slow = np.clip(self.fast - self.gains / 100 * lag, 0.0, 1.0)
        progress = np.abs(self.reweigh(self.fast) - self.reweigh(slow))
        if progress.max() <= 0:
            return np.zeros(len(self.names))
        observed = self.num_observations > 0
        deviation = progress[observed].std()
        standard = (progress - progress[observed].mean()) / (deviation if deviation > 0 else 1.0)
        return np.where(progress > 0, 1.0 / (1.0 + np.exp(-standard)), 0.0)

    def reweigh(self, rates: np.ndarray) -> np.ndarray:
        """The function `f(p) = p (1 - θ) / (p + θ (1 - 2p))`, which stretches small success rates."""
        theta = self.options.threshold
        return rates * (1 - theta) / (rates + theta * (1 - 2 * rates))
