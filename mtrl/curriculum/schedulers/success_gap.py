"""The baseline rule (no paper): tasks get frames in proportion to the probability that an episode fails."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class SuccessGapOptions(RatedOptions):
    """Options of `success_gap`."""

    power: float = Field(1.0, gt=0)
    """Exponent of the probability of failure; above 1 the worst tasks get more."""


class SuccessGap(RatedScheduler):
    """The expectation of (1 - p)^power, with p the probability of success as the window of recent episodes shows it (a Beta posterior)."""

    Options: ClassVar[type[Section]] = SuccessGapOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Probabilities of failure."""
        return success_posterior(evidence).moment(0.0, self.options.power)
