"""Fixed shares (no paper): the weights in the configuration, scaled to sum to 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mtrl.config import ConfigError, Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler


class FixedOptions(RatedOptions):
    """Options of `fixed`."""

    weights: dict[str, float]
    """Weight of each task by name; tasks that are not named have weight 1."""


class Fixed(RatedScheduler):
    """Always the same shares, in proportion to `weights`."""

    Options: ClassVar[type[Section]] = FixedOptions

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        unknown = set(options.weights) - set(names)
        if unknown:
            raise ConfigError(f"curriculum.options.weights: no task {sorted(unknown)[0]!r}; tasks are {', '.join(names)}")
        weights = np.array([options.weights.get(name, 1.0) for name in names])
        if (weights < 0).any() or weights.sum() <= 0:
            raise ConfigError(f"curriculum.options.weights: must be 0 or more and not all 0, got {options.weights}")
        self._weights = weights / weights.sum()

    def probabilities(self, evidence: Evidence) -> np.ndarray:
        """The written shares, whatever the tasks show."""
        return self._weights
