"""Per-task running statistics: the only source of per-task metrics and of the curriculum's input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from envs import Episode, TaskSuite

WINDOW = 100  # episodes of a task that its current figures are averaged over


class TaskStatistics:
    """What each task's recent episodes and trained frames say. Arrays are `[num_tasks]`; NaN where a task has no episode yet."""

    def __init__(self, suite: TaskSuite):
        self._suite = suite
        n = suite.num_tasks
        self.episodes = np.zeros(n, np.int64)  # finished so far
        self.frames = np.zeros(n, np.int64)  # trained on so far
        self._returns = np.full((n, WINDOW), np.nan)
        self._lengths = np.full((n, WINDOW), np.nan)
        self._successes = np.full((n, WINDOW), np.nan)

    def add_episodes(self, episodes: Iterable[Episode]) -> None:
        """Counts finished episodes; the oldest of the window make room."""
        for episode in episodes:
            task, place = episode.task_id, self.episodes[episode.task_id] % WINDOW
            self._returns[task, place] = episode.episode_return
            self._lengths[task, place] = episode.length
            self._successes[task, place] = episode.success
            self.episodes[task] += 1

    def add_frames(self, frames: np.ndarray) -> None:
        """Counts trained frames per task, [num_tasks]."""
        self.frames += frames

    @property
    def returns(self) -> np.ndarray:
        """Mean undiscounted return of the last episodes."""
        return _window_mean(self._returns)

    @property
    def scores(self) -> np.ndarray:
        """Mean score of the last episodes, 0 to 1; an episode's score is its return within the task's published range."""
        scores = np.stack([self._suite.score(task, self._returns[task]) for task in range(self._suite.num_tasks)])
        return _window_mean(scores)

    @property
    def success_rates(self) -> np.ndarray:
        """Share of the last episodes that succeeded."""
        return _window_mean(self._successes)

    @property
    def episode_lengths(self) -> np.ndarray:
        """Mean number of steps of the last episodes."""
        return _window_mean(self._lengths)

    def state_dict(self) -> dict[str, Any]:
        """Everything above, as arrays."""
        return {name: getattr(self, name).copy() for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of the same tasks."""
        for name in _STATE:
            setattr(self, name, np.array(state[name]))


def interquartile_mean(values: np.ndarray) -> float:
    """The mean of the middle half: a quarter of the values is left out at either end, rounded down."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


_STATE = ("episodes", "frames", "_returns", "_lengths", "_successes")


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the places still empty, NaN where all are."""
    filled = ~np.isnan(values)
    counts = filled.sum(-1)
    sums = np.where(filled, values, 0.0).sum(-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
