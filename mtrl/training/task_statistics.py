"""Per-task running statistics: the only source of per-task metrics and of the curriculum's input."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from envs import Episode, TaskSuite
from mtrl.curriculum.evidence import WINDOW, Evidence
from mtrl.evaluation.results import EvaluationResults

VALUE_ERROR_RATE = 0.1  # step of the running mean of value errors, per update
SIMILARITY_RATE = 0.1  # of the gradients' cosines
FAST_RATE = 0.05  # of the fast mean of success, per episode; the slow one follows the fast one as fast


class TaskStatistics:
    """Statistics of each task's recent episodes and trained frames. Arrays are `[num_tasks]`; NaN where a task has no episode yet."""

    def __init__(self, suite: TaskSuite):
        self._suite = suite
        n = suite.num_tasks
        self.episodes = np.zeros(n, np.int64)  # finished so far
        self.frames = np.zeros(n, np.int64)  # trained on so far
        self.retired_frames = 0  # trained on tasks that the run no longer has
        self.success_sums = np.zeros(n)  # successful episodes so far
        self.value_errors = np.full(n, np.nan)  # running mean of |r + γ v' - V|, NaN before the first update
        self.initial_values = np.full(n, np.nan)  # running mean of V at the first observation of episodes
        self.similarity: np.ndarray | None = None  # running mean of the gradients' cosines; None before the first
        self.fast_successes = np.full(n, np.nan)  # exponential mean over episodes
        self.slow_successes = np.full(n, np.nan)  # exponential mean of the fast one, which lags behind it
        self.evaluated_episodes = np.zeros(n, np.int64)  # played in evaluations so far
        self.evaluated_success_sums = np.zeros(n)
        self.evaluated_success_rates = np.full(n, np.nan)  # in the newest evaluation
        self.evaluated_scores = np.full(n, np.nan)
        self.newest_evaluated = np.zeros(n, np.int64)  # episodes of the newest evaluation
        self._returns = np.full((n, WINDOW), np.nan)
        self._lengths = np.full((n, WINDOW), np.nan)
        self._successes = np.full((n, WINDOW), np.nan)
        self._scores = np.full((n, WINDOW), np.nan)  # of these returns and successes

    def add_episodes(self, episodes: Iterable[Episode]) -> None:
        """Counts finished episodes; the oldest of the window make room."""
        for episode in episodes:
            task, place = episode.task_id, self.episodes[episode.task_id] % WINDOW
            self._returns[task, place] = episode.episode_return
            self._lengths[task, place] = episode.length
            self._successes[task, place] = episode.success
            self._scores[task, place] = self._suite.score(task, episode.episode_return, episode.success)
            self.episodes[task] += 1
            self.success_sums[task] += episode.success
            self.fast_successes[task] = _nearer(self.fast_successes[task], float(episode.success), FAST_RATE)
            self.slow_successes[task] = _nearer(self.slow_successes[task], self.fast_successes[task], FAST_RATE)

    def add_values(self, errors: np.ndarray, initial_values: np.ndarray) -> None:
        """Takes in one update's mean sizes of advantages and mean values of first observations, [num_tasks]; NaN where there were none."""
        self.value_errors = _nearer(self.value_errors, errors, VALUE_ERROR_RATE)
        self.initial_values = _nearer(self.initial_values, initial_values, VALUE_ERROR_RATE)

    def add_evaluation(self, results: EvaluationResults) -> None:
        """Takes in an evaluation's results."""
        for name, row in results.tasks.items():
            task = self._suite.index(name)
            self.evaluated_episodes[task] += row.n
            self.evaluated_success_sums[task] += row.successes
            self.evaluated_success_rates[task] = row.success_rate.value
            self.evaluated_scores[task] = row.score.value
            self.newest_evaluated[task] = row.n

    def evidence(self, *, evaluated: bool = False) -> Evidence:
        """A copy of what schedulers read; with `evaluated`, episodes are those of evaluations instead of training's."""
        return Evidence(
            episodes=(self.evaluated_episodes if evaluated else self.episodes).copy(),
            success_sums=(self.evaluated_success_sums if evaluated else self.success_sums).copy(),
            success_rates=self.evaluated_success_rates.copy() if evaluated else self.success_rates,
            frames=self.frames.copy(),
            value_errors=self.value_errors.copy(),
            scores=self.evaluated_scores.copy() if evaluated else self.scores,
            initial_values=self.initial_values.copy(),
            similarity=None if self.similarity is None else self.similarity.copy(),
            contexts=self._suite.contexts,
            rate_episodes=self.newest_evaluated.copy() if evaluated else None,
        )

    def add_similarity(self, similarity: np.ndarray) -> None:
        """Takes in one batch's cosines of the tasks' gradients, [num_tasks, num_tasks]; NaN where a task had no frame."""
        before = np.full_like(similarity, np.nan) if self.similarity is None else self.similarity
        self.similarity = _nearer(before, similarity, SIMILARITY_RATE)

    @property
    def progress(self) -> np.ndarray:
        """The recent rise of the success rate: its fast exponential mean less its slow one."""
        return self.fast_successes - self.slow_successes

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
        return _window_mean(self._scores)

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
            if name in state:  # `newest_evaluated` is not in those of former versions
                setattr(self, name, np.array(state[name]))
        windows = zip(self._returns, self._successes, strict=True)
        self._scores = np.stack([self._suite.score(task, *window) for task, window in enumerate(windows)])
        self.retired_frames = int(state.get("retired_frames", 0))
        similarity = state.get("similarity")
        self.similarity = None if similarity is None else np.array(similarity)


_STATE = (
    "episodes",
    "frames",
    "success_sums",
    "value_errors",
    "initial_values",
    "fast_successes",
    "slow_successes",
    "evaluated_episodes",
    "evaluated_success_sums",
    "evaluated_success_rates",
    "evaluated_scores",
    "newest_evaluated",
    "_returns",
    "_lengths",
    "_successes",
)


def _nearer(mean: Any, new: Any, rate: float) -> Any:
    """A running mean that takes a step towards what is new; NaN is nothing new, and the first value is taken whole."""
    start = np.where(np.isnan(mean), new, mean)
    return np.where(np.isnan(new), mean, start + rate * (new - start))


def _window_mean(values: np.ndarray) -> np.ndarray:
    """Mean over the last axis without the places still empty, NaN where all are."""
    filled = ~np.isnan(values)
    counts = filled.sum(-1)
    sums = np.where(filled, values, 0.0).sum(-1)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
