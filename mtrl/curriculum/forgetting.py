"""Notices when a task that was mastered is being lost again, independently of the scheduler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from mtrl.curriculum.evidence import WINDOW, Evidence

MASTERED = 0.9  # mean success rate from which a task counts as mastered
LOSS = 0.1  # of success below the best, at which it counts as being forgotten
MEAN_EPISODES = 200  # that the exponential mean of success looks back
NOISE = 1.5  # standard errors of a window's success rate that are let pass beside `LOSS`


class ForgettingWatch:
    """The best success rate of each task so far, and which mastered ones have fallen by more than `LOSS` below it.

    The best one is the largest value of a slow mean. The largest of many windows would be a lucky window, and a task that stays at 0.9
    would be below it half of the time.
    """

    def __init__(self, names: Sequence[str]):
        n = len(names)
        self._names = tuple(names)
        self.best = np.zeros(n)
        self.forgotten = np.zeros(n, bool)
        self._mean = np.full(n, np.nan)  # exponential mean of success over episodes; NaN before the first window is full
        self._episodes, self._successes = np.zeros((2, n))  # that are in the mean

    def update(self, evidence: Evidence) -> list[str]:
        """Takes in the newest rates; a sentence for each task whose state has changed."""
        full = evidence.episodes >= WINDOW  # a window half full swings by more than `LOSS`
        rates = np.where(full, np.nan_to_num(evidence.success_rates), 0.0)
        self._take_in(evidence, rates, full)
        self.best = np.maximum(self.best, np.nan_to_num(self._mean))
        noise = NOISE * np.sqrt(self.best * (1 - self.best) / np.maximum(evidence.window, 1))
        lost = full & (self.best >= MASTERED) & (rates < self.best - LOSS - noise)
        # Back only when it has made up half of the loss, so that a rate at the edge does not report itself again and again.
        still = self.forgotten & (rates < self.best - LOSS / 2)
        before, self.forgotten = self.forgotten, lost | still
        return [
            f"{self._names[task]} is being forgotten: its success rate fell from {self.best[task]:.2f} to {rates[task]:.2f}"
            if self.forgotten[task]
            else f"{self._names[task]} is back at a success rate of {rates[task]:.2f}"
            for task in np.flatnonzero(before != self.forgotten)
        ]

    def _take_in(self, evidence: Evidence, rates: np.ndarray, full: np.ndarray) -> None:
        """Moves the means by the episodes since the last call; a task's first one is its first full window."""
        episodes, successes = evidence.episodes - self._episodes, evidence.success_sums - self._successes
        new = full & (episodes > 0)
        recent = successes / np.maximum(episodes, 1)
        step = 1 - np.exp(-episodes / MEAN_EPISODES)
        moved = np.where(np.isnan(self._mean), rates, self._mean + step * (recent - self._mean))
        self._mean = np.where(new, moved, self._mean)
        self._episodes, self._successes = evidence.episodes.astype(float), evidence.success_sums.astype(float)

    def boosted(self, probabilities: np.ndarray, factor: float) -> np.ndarray:
        """Shares with those of forgotten tasks multiplied by `factor` and all made to sum to 1 again."""
        weights = probabilities * np.where(self.forgotten, factor, 1.0)
        return weights / weights.sum()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on."""
        counts = {"episodes": self._episodes.copy(), "successes": self._successes.copy()}
        return {"best": self.best.copy(), "forgotten": self.forgotten.copy(), "mean": self._mean.copy(), **counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.best, self.forgotten = np.array(state["best"]), np.array(state["forgotten"])
        if "mean" in state:  # states of version 1 have none
            self._mean, self._episodes, self._successes = (np.array(state[name]) for name in ("mean", "episodes", "successes"))
