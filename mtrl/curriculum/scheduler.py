"""What a scheduler is."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from mtrl.stats import TaskStatistics


class Scheduler(Protocol):
    """Turns what is known of each task into the share of trained frames it should get next."""

    def probabilities(self, stats: TaskStatistics) -> np.ndarray:
        """Wanted shares [num_tasks] float64 that sum to 1."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""


def with_floor(probabilities: np.ndarray, floor: float) -> np.ndarray:
    """Mixes in the uniform share, so that every task keeps at least `floor / num_tasks` and the sum stays 1."""
    return (1.0 - floor) * probabilities + floor / len(probabilities)
