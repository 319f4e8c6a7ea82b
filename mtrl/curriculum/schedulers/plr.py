"""Prioritised level replay (Jiang et al. 2021) over tasks: where values err most, and what has not been played for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedScheduler


class PLROptions(Section):
    """Options of `plr`."""

    temperature: float = Field(0.5, gt=0)
    """How sharply ranks are told apart (β); levels use 0.1, which for ten tasks leaves one of them."""
    staleness: float = Field(0.1, ge=0, le=1)
    """Share given by how long a task has not been looked at (ρ)."""


class PLR(RatedScheduler):
    """(1 - ρ) P_S + ρ P_C with P_S ∝ 1 / rank^(1/β) by the mean size of the advantages, and P_C ∝ looks since the last one."""

    Options: ClassVar[type[Section]] = PLROptions
    STATE = ("clock", "seen")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.clock = np.int64(0)
        self.seen = np.zeros(len(names), np.int64)

    def look(self, due: np.ndarray, stats: Evidence) -> None:
        """Time passes for those that were not looked at."""
        self.clock += 1
        self.seen = np.where(due, self.clock, self.seen)

    def weigh(self, stats: Evidence) -> np.ndarray:
        """Ranks and staleness; without any value error yet, all the same."""
        errors = np.nan_to_num(stats.value_errors)
        ranks = 1 + np.argsort(np.argsort(-errors, kind="stable"), kind="stable")
        by_score = ranks ** (-1.0 / self.options.temperature)
        if not errors.any():
            by_score = np.ones(len(errors))
        stale = (self.clock - self.seen).astype(float)
        by_staleness = stale / stale.sum() if stale.any() else np.full(len(stale), 1 / len(stale))
        return (1.0 - self.options.staleness) * by_score / by_score.sum() + self.options.staleness * by_staleness
