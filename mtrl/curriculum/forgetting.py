"""Notices when a task that was mastered is being lost again, independently of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.curriculum.evidence import WINDOW, Evidence

MASTERED = 0.9  # success rate over the window from which a task counts as mastered
LOSS = 0.1  # of success below the best, at which it counts as being forgotten


class ForgettingWatch:
    """The best success rate of each task so far, and which mastered ones have fallen by more than `LOSS` below it."""

    def __init__(self, names: Sequence[str]):
        self._names = tuple(names)
        self.best = np.zeros(len(names))
        self.forgotten = np.zeros(len(names), bool)

    def update(self, evidence: Evidence) -> list[str]:
        """Takes in the newest rates; a sentence for each task whose state has changed."""
        full = evidence.episodes >= WINDOW  # a window half full swings by more than `LOSS`
        rates = np.where(full, np.nan_to_num(evidence.success_rates), 0.0)
        self.best = np.maximum(self.best, rates)
        mastered = self.best >= MASTERED
        lost = full & mastered & (rates < self.best - LOSS)
        # Back only when it has made up half of the loss, so that a rate at the edge does not report itself again and again.
        still = self.forgotten & (rates < self.best - LOSS / 2)
        before, self.forgotten = self.forgotten, lost | still
        return [
            f"{self._names[task]} is being forgotten: its success rate fell from {self.best[task]:.2f} to {rates[task]:.2f}"
            if self.forgotten[task]
            else f"{self._names[task]} is back at a success rate of {rates[task]:.2f}"
            for task in np.flatnonzero(before != self.forgotten)
        ]

    def boosted(self, probabilities: np.ndarray, factor: float) -> np.ndarray:
        """Shares with those of forgotten tasks multiplied by `factor` and all made to sum to 1 again."""
        weights = probabilities * np.where(self.forgotten, factor, 1.0)
        return weights / weights.sum()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        return {"best": self.best.copy(), "forgotten": self.forgotten.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.best, self.forgotten = np.array(state["best"]), np.array(state["forgotten"])
