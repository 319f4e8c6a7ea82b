"""Sampling for learnability (Rutherford et al. 2024): tasks in proportion to `p (1 - p)`, largest where half of the episodes succeed."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import NoOptions, RatedScheduler


class Learnability(RatedScheduler):
    """In proportion to p (1 - p), the variance of success, over the window of recent episodes."""

    Options: ClassVar[type[Section]] = NoOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The variance of success, `p (1 - p)`."""
        rates = np.nan_to_num(evidence.success_rates)
        return rates * (1.0 - rates)
