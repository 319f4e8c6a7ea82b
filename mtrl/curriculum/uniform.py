"""Every task gets the same share."""

from __future__ import annotations

from typing import Any

import numpy as np

from mtrl.stats import TaskStatistics


class Uniform:
    """The baseline: no task is preferred."""

    def __init__(self, num_tasks: int):
        self.num_tasks = num_tasks

    def probabilities(self, stats: TaskStatistics) -> np.ndarray:
        """1 / num_tasks each, [num_tasks]."""
        return np.full(self.num_tasks, 1.0 / self.num_tasks)

    def state_dict(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""
