"""Per-task running statistics: the only source of per-task metrics and of the curriculum's input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import trim_mean

from envs import Episode, TaskSuite

WINDOW = 100  # episodes of a task that its current figures are averaged over
VALUE_ERROR_RATE = 0.1  # step of the running mean of value errors, per update
SIMILARITY_RATE = 0.1  # of the gradients' cosines


class Evidence(NamedTuple):
    """What schedulers read, [num_tasks] each; NaN where a task has shown nothing yet."""

    episodes: np.ndarray  # finished so far
    success_sums: np.ndarray  # of them successful
    success_rates: np.ndarray  # over the window of recent episodes
    frames: np.ndarray  # trained on so far
    value_errors: np.ndarray  # running mean of |r + γ v' - V|
    similarity: np.ndarray | None = None  # [num_tasks, num_tasks], cosine of the tasks' gradients at the mixed feature


class TaskStatistics:
    """What each task's recent episodes and trained frames say. Arrays are `[num_tasks]`; NaN where a task has no episode yet."""

    def __init__(self, suite: TaskSuite):
        self._suite = suite
        n = suite.num_tasks
        self.episodes = np.zeros(n, np.int64)  # finished so far
        self.frames = np.zeros(n, np.int64)  # trained on so far
        self.retired_frames = 0  # trained on tasks that the run no longer has
        self.success_sums = np.zeros(n)  # successful episodes so far
        self.value_errors = np.full(n, np.nan)  # running mean of |r + γ v' - V|, NaN before the first update
        self.similarity: np.ndarray | None = None  # running mean of the gradients' cosines; None before the first
        self._last_episode = np.zeros(n, np.int64)  # all trained frames when a task's last episode came
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
            self.success_sums[task] += episode.success
            self._last_episode[task] = self.frames.sum()

    def add_value_errors(self, errors: np.ndarray) -> None:
        """Takes in one update's mean size of the advantages, [num_tasks]; NaN for tasks that had no frame."""
        known = ~np.isnan(errors)
        before = np.where(np.isnan(self.value_errors), errors, self.value_errors)
        self.value_errors = np.where(known, before + VALUE_ERROR_RATE * (errors - before), self.value_errors)

    def evidence(self) -> Evidence:
        """A copy of what schedulers read."""
        counted = (self.episodes.copy(), self.success_sums.copy(), self.success_rates, self.frames.copy())
        return Evidence(*counted, self.value_errors.copy(), None if self.similarity is None else self.similarity.copy())

    def add_similarity(self, similarity: np.ndarray) -> None:
        """Takes in one batch's cosines of the tasks' gradients, [num_tasks, num_tasks]; NaN where a task had no frame."""
        before = np.full_like(similarity, np.nan) if self.similarity is None else self.similarity
        before = np.where(np.isnan(before), similarity, before)
        self.similarity = np.where(np.isnan(similarity), before, before + SIMILARITY_RATE * (similarity - before))

    @property
    def frames_since_episode(self) -> np.ndarray:
        """Frames trained on, over all tasks, since each task's last episode ended."""
        return self.frames.sum() - self._last_episode

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
        scores = np.stack([self._suite.score(task, self._returns[task], self._successes[task]) for task in range(self._suite.num_tasks)])
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
        return {name: getattr(self, name).copy() for name in _STATE} | {
            "similarity": self.similarity,
            "retired_frames": self.retired_frames,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of the same tasks."""
        for name in _STATE:
            setattr(self, name, np.array(state[name]))
        self.retired_frames = int(state.get("retired_frames", 0))
        similarity = state.get("similarity")
        self.similarity = None if similarity is None else np.array(similarity)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of `values` [..., n]: a quarter at either end, rounded down, is left out."""
    return trim_mean(values, 0.25, axis=-1)


_STATE = ("episodes", "frames", "success_sums", "value_errors", "_last_episode", "_returns", "_lengths", "_successes")


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the places still empty, NaN where all are."""
    filled = ~np.isnan(values)
    counts = filled.sum(-1)
    sums = np.where(filled, values, 0.0).sum(-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
