"""Prioritised level replay (Jiang et al. 2021) over tasks: those with the largest value errors, and those not observed for long."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class PLROptions(RatedOptions):
    """Options of `plr`."""

    temperature: float = Field(0.5, gt=0)
    """Temperature of the ranks (β). The paper uses 0.1 for levels, which would leave one of ten tasks."""
    staleness: float = Field(0.1, ge=0, le=1)
    """Share given by how long a task has not been observed (ρ)."""


class PLR(RatedScheduler):
    """(1 - ρ) P_S + ρ P_C: P_S ∝ 1 / rank^(1/β) by the mean size of the advantages, P_C ∝ observations since its last one."""

    Options: ClassVar[type[Section]] = PLROptions
    STATE = ("clock", "last_observed")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.clock = np.int64(0)
        self.last_observed = np.zeros(len(names), np.int64)

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Time passes for the tasks that have nothing new to show."""
        self.clock += 1
        self.last_observed = np.where(due, self.clock, self.last_observed)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Ranks and staleness; without any value error yet, all the same."""
        errors = np.nan_to_num(evidence.value_errors)
        ranks = 1 + np.argsort(np.argsort(-errors, kind="stable"), kind="stable")
        by_score = ranks ** (-1.0 / self.options.temperature)
        if not errors.any():
            by_score = np.ones(len(errors))
        stale = (self.clock - self.last_observed).astype(float)
        by_staleness = stale / stale.sum() if stale.any() else np.full(len(stale), 1 / len(stale))
        return (1.0 - self.options.staleness) * by_score / by_score.sum() + self.options.staleness * by_staleness
