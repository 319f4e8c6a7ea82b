"""SPaCE (Eimer et al. 2021): trains on a growing set of tasks, and adds the tasks with the largest rise in initial value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class SPaCEOptions(RatedOptions):
    """Options of `space`."""

    start: int = Field(1, ge=1)
    """Tasks in the first set."""
    growth: int = Field(1, ge=1)
    """Tasks that come into the set when values have settled (κ)."""
    settled: float = Field(0.1, ge=0)
    """Relative change of the set's mean value from one round to the next up to which it has settled (η)."""


class SPaCE(RatedScheduler):
    """All tasks of the set alike. A round ends when each has been observed; then the set may grow and is chosen anew.

    Values at the start are those of the critic at episodes' first observations. The floor keeps those of all tasks up to date.
    """

    Options: ClassVar[type[Section]] = SPaCEOptions
    STATE = ("size", "chosen", "values", "mean_value", "observations_at_start")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        n = len(names)
        self.size = np.int64(min(options.start, n))
        self.chosen = np.zeros(n, bool)  # no task, before every task was observed
        self.values = np.full(n, np.nan)  # at the end of the last round
        self.mean_value = np.float64(np.nan)  # of the set, then
        self.observations_at_start = np.zeros(n, np.int64)  # of the round

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Ends a round that is over."""
        if (self.num_observations == 0).any():
            return
        if not self.chosen.any() or (self.num_observations > self.observations_at_start)[self.chosen].all():
            self._begin_round(np.asarray(evidence.initial_values, float))

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The tasks of the set."""
        return self.chosen.astype(float)

    def tasks_changed(self) -> None:
        """A new round begins."""
        self.chosen = np.zeros(len(self.names), bool)
        self.size = np.int64(min(int(self.size), len(self.names)))

    def _begin_round(self, values: np.ndarray) -> None:
        mean = _mean(values[self.chosen])
        if abs(mean - self.mean_value) <= self.options.settled * abs(mean):
            self.size = np.int64(min(self.size + self.options.growth, len(self.names)))
        improvement = np.nan_to_num(values - self.values)  # nothing is known of a task that had no first observation
        order = np.argsort(-improvement, kind="stable")
        self.chosen = np.isin(np.arange(len(values)), order[: self.size])
        self.mean_value = np.float64(_mean(values[self.chosen]))
        self.values = values.copy()
        self.observations_at_start = self.num_observations.copy()


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
