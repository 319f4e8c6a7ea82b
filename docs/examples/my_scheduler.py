"""A scheduler of one's own: every frame goes to the task that succeeds least."""

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum import RatedScheduler
from mtrl.curriculum.evidence import Evidence


class HardestOptions(Section):
    """Options, set as `--curriculum.options '{margin: 0.1}'`."""

    margin: float = Field(0.05, ge=0)
    """Tasks within this distance of the lowest success rate share the frames."""


class Hardest(RatedScheduler):
    """Equal weights for the tasks with the lowest success rate, none for the others."""

    Options = HardestOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Non-negative weights [num_tasks]; they are scaled to shares, and mixed with the floor."""
        rates = np.nan_to_num(evidence.success_rates)
        return (rates <= rates.min() + self.options.margin).astype(float)
