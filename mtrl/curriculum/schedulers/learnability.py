"""Sampling for learnability (Rutherford et al. 2024): tasks in proportion to `p (1 - p)`, largest where half of the episodes succeed."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class LearnabilityOptions(RatedOptions):
    """Options of `learnability`."""

    successes: float = Field(1.0, ge=0)
    """Exponent of p: above 1, tasks that are nearly solved get more."""
    failures: float = Field(1.0, ge=0)
    """Exponent of 1 - p: above 1, tasks that hardly ever succeed get more."""


class Learnability(RatedScheduler):
    """The expectation of p^successes (1 - p)^failures, with p as the window of recent episodes shows it (a Beta posterior).

    The paper has the exponents 1 and the mean success rate for p, which gives nothing to a task without a success in the window.
    """

    Options: ClassVar[type[Section]] = LearnabilityOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Learnability of each task."""
        return success_posterior(evidence).moment(self.options.successes, self.options.failures)
