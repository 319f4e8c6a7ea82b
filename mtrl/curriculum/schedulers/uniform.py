"""The baseline (no paper): every task gets the same share."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class Uniform(RatedScheduler):
    """The baseline: no task is preferred."""

    Options: ClassVar[type[Section]] = RatedOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """All the same."""
        return np.ones(len(self.names))
