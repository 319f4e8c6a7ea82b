"""ROLLIN (Li et al. 2023): one context after another, the next when this one is mastered.

Its other half, that episodes of a context begin where the policy came in the one before, is the environments': `context/…+rollin`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class ROLLINOptions(RatedOptions):
    """Options of `rollin`."""

    mastered: float = Field(0.9, gt=0, lt=1)
    """Success rate from which the next context begins, where the window of recent episodes makes it more likely than not."""
    lost: float = Field(0.6, ge=0, lt=1)
    """Success rate of a context mastered before, below which training goes back to it."""
    rehearsal: float = Field(0.2, ge=0, lt=1)
    """Part that goes to the contexts mastered before, which one policy for all would otherwise forget."""


class ROLLIN(RatedScheduler):
    """The current context, and a part for those before it, in the order of contexts, or of the suite where there are none."""

    Options: ClassVar[type[Section]] = ROLLINOptions
    STATE = ("current",)

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.current = np.int64(0)  # how many contexts come before the one that is trained

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Goes on to the next context if this one is mastered, and back to the first one that is lost."""
        order = self._order(evidence)
        before = order[: self.current]
        lost = (self.num_observations[before] > 0) & (success_posterior(evidence).of(before).above(self.options.lost) < 0.5)
        if lost.any():
            self.current = np.int64(lost.argmax())
        while self.current < len(order) - 1 and self._mastered(evidence, order[self.current]):
            self.current += 1

    def weights(self, evidence: Evidence) -> np.ndarray:
        """One context and those before it; all alike once the last is mastered."""
        n, order = len(self.names), self._order(evidence)
        if self.current == n - 1 and self._mastered(evidence, order[-1]):
            return np.ones(n)
        weights = np.zeros(n)
        before = order[: self.current]
        weights[before] = self.options.rehearsal / max(1, len(before))
        weights[order[self.current]] = 1.0 - weights.sum()
        return weights

    def tasks_changed(self) -> None:
        """The order begins anew; what is mastered already is passed over at the next observation."""
        self.current = np.int64(0)

    def _mastered(self, evidence: Evidence, task: int) -> bool:
        posterior = success_posterior(evidence).of(np.array([task]))
        return bool(self.num_observations[task] > 0 and posterior.above(self.options.mastered)[0] > 0.5)

    def _order(self, evidence: Evidence) -> np.ndarray:
        return np.arange(len(self.names)) if evidence.contexts is None else np.argsort(evidence.contexts, kind="stable")
