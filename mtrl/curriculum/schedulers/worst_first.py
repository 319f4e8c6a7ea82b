"""Worst first with a budget (no paper): the tasks that fail most get the frames, each until it is solved or its budget is spent."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class WorstFirstOptions(RatedOptions):
    """Options of `worst_first`."""

    group: int = Field(3, ge=1)
    """Tasks that are trained at a time."""
    budget: float = Field(2.0, gt=0)
    """Frames after which a task is left to its floor, whenever it had them, in units of its equal part of the run's `total_frames`."""
    solved: float = Field(0.9, gt=0, lt=1)
    """Success rate from which a task needs nothing more, where the window of recent episodes makes it more likely than not."""


class WorstFirst(RatedScheduler):
    """The `group` unsolved tasks with the lowest probability of success and budget left, in equal parts.

    A task without hope takes no more than its budget from the others. Where nothing unsolved has budget left, all tasks are alike.
    """

    Options: ClassVar[type[Section]] = WorstFirstOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """1 for the tasks of the group."""
        posterior, tasks = success_posterior(evidence), len(self.names)
        budget = evidence.stage(0, self.options.budget / tasks)
        solved = posterior.above(self.options.solved) > 0.5
        candidates = np.flatnonzero((self.num_observations > 0) & ~solved & (evidence.frames < budget))
        if not len(candidates):
            return np.ones(tasks)
        weights = np.zeros(tasks)
        weights[candidates[np.argsort(posterior.mean[candidates], kind="stable")][: self.options.group]] = 1.0
        return weights
