"""Teacher-student curriculum learning (Matiisen et al. 2017): a bandit on the slope of each task's learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions


class TeacherStudentOptions(RatedOptions):
    """Options of `teacher_student`."""

    rate: float = Field(0.1, gt=0, le=1)
    """Step of the average of a task's rewards (α)."""
    epsilon: float = Field(0.1, ge=0, le=1)
    """Share that is spread over all tasks."""


class TeacherStudent(ProgressScheduler):
    """Online variant with an ε-greedy choice: the reward is a task's gain, and the task with the largest |Q| is trained most.

    |Q| makes a task that is being forgotten as interesting as one that is being learned. Since many slots run at once the choice is a
    share: 1 - ε for the best task, and ε over all.
    """

    Options: ClassVar[type[Section]] = TeacherStudentOptions
    STATE = ("values",)

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.values = np.zeros(len(names))

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Q ← Q + α (gain - Q)"""
        super().observe(due, evidence)
        self.values = np.where(due, self.values + self.options.rate * (self.gains - self.values), self.values)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The greedy choice with ε of the rest."""
        size = np.abs(self.values)
        best = size == size.max()
        return (1.0 - self.options.epsilon) * best / best.sum() + self.options.epsilon / len(self.names)
