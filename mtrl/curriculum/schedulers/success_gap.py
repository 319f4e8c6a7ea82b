"""The baseline rule (no paper): tasks get frames in proportion to 1 - success rate."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import NoOptions, RatedScheduler


class SuccessGap(RatedScheduler):
    """In proportion to 1 - success rate, over the window of recent episodes."""

    Options: ClassVar[type[Section]] = NoOptions

    def weights(self, evidence: Evidence) -> np.ndarray:
        """1 - success rate."""
        return 1.0 - np.nan_to_num(evidence.success_rates)
