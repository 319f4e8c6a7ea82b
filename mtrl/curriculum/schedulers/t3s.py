"""T3S: a mixture of two softmaxes prefers tasks that are far from solved and tasks that improve slowly."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.scheduler import ProgressScheduler, RatedOptions, softmax


class T3SOptions(RatedOptions):
    """Options of `t3s`."""

    temperature: float = Field(0.2, gt=0)
    """Temperature of both softmaxes; the paper does not state its value."""
    progress_weight: float = Field(0.5, ge=0, le=1)
    """Share decided by what is left to learn; the rest goes by how slowly it is learned."""


class T3S(ProgressScheduler):
    """½ softmax((1 - p) / τ) + ½ softmax(-Δp / τ), with Δp the certain change of the success rate in 100 episodes.

    The paper takes the change between two observations; of ten episodes each, that is noise.
    """

    Options: ClassVar[type[Section]] = T3SOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The mixture of both softmaxes over the tasks observed so far."""
        observed = self.num_observations > 0
        weights = np.zeros(len(self.names))
        tau, share = self.options.temperature, self.options.progress_weight
        gap, speed = 1.0 - success_posterior(evidence).mean[observed], self.gains[observed]
        weights[observed] = share * softmax(gap / tau) + (1.0 - share) * softmax(-speed / tau)
        return weights
