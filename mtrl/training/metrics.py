"""Speed, lag and the learner's means between two lines of metrics."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np

from envs import TaskSuite
from mtrl.rollouts.collector import Collected
from mtrl.rollouts.rollout import Rollout


class Interval:
    """What adds up between two reports."""

    def __init__(self, suite: TaskSuite):
        self._suite = suite
        self._start = time.perf_counter()
        self._frames = np.zeros(suite.num_tasks)
        self._slots = np.zeros(suite.num_tasks)  # slots seen, over all updates
        self._lags = np.zeros(suite.num_tasks)  # versions that those slots lay behind, added up
        self._sums: dict[str, float] = defaultdict(float)
        self._counts: dict[str, int] = defaultdict(int)
        self._updates = 0
        self._env_steps = 0
        self._rollouts = 0
        self._runners: set[int] = set()  # that a rollout has come from
        self._observations = 0
        self._learner_seconds = 0.0
        self._env_seconds = self._inference_seconds = 0.0  # in the runners, added up
        self.queue_wait_seconds = 0.0

    def add_collected(self, collected: Collected) -> None:
        """Counts a rollout that has arrived."""
        self._env_steps += collected.rollout.valid.size
        self._rollouts += 1
        self._runners.add(collected.runner)
        self._env_seconds += collected.env_seconds
        self._inference_seconds += collected.inference_seconds

    def add_update(self, statistics: dict[str, float], rollout: Rollout, frames: np.ndarray, version: int, seconds: float) -> None:
        """Counts an update on `rollout` that took `seconds` and began at the learner's `version`."""
        self._updates += 1
        self._learner_seconds += seconds
        self._observations += rollout.valid.size + rollout.num_slots
        self._frames += frames
        self._slots += np.bincount(rollout.task_ids, minlength=self._suite.num_tasks)
        self._lags += np.bincount(rollout.task_ids, weights=version - rollout.version, minlength=self._suite.num_tasks)
        for name, value in statistics.items():
            self._sums[name] += value
            self._counts[name] += 1

    def metrics(self) -> dict[str, float]:
        """Means per update, rates per second, and each task's share and lag; the time waited alone if there was no update."""
        if self._updates == 0:
            return {"throughput/queue_wait_seconds": self.queue_wait_seconds}
        seconds = time.perf_counter() - self._start
        means = {name: value / self._counts[name] for name, value in self._sums.items() if name != "rows"}
        distinct = self._sums["rows"] / self._observations
        with np.errstate(invalid="ignore"):
            lags = self._lags / self._slots
            shares = self._frames / self._frames.sum()
        tasks = {f"tasks/{name}/policy_lag": lags[task] for task, name in enumerate(self._suite.names)}
        tasks |= {f"tasks/{name}/share_trained": shares[task] for task, name in enumerate(self._suite.names)}
        return {
            **means,
            "summary/frames_per_second": self._frames.sum() / seconds,
            "summary/policy_lag": self._lags.sum() / self._slots.sum(),
            "learner/updates_per_second": self._updates / seconds,
            "learner/distinct_fraction": distinct,
            "learner/busy_fraction": self._learner_seconds / seconds,
            "throughput/env_steps": self._env_steps / seconds,
            "throughput/rollouts": self._rollouts / seconds,
            "throughput/runners": len(self._runners),
            "throughput/learner_frames": self._frames.sum() / self._learner_seconds,
            "throughput/queue_wait_seconds": self.queue_wait_seconds,
            "throughput/env_seconds": self._env_seconds,
            "throughput/inference_seconds": self._inference_seconds,
            "throughput/learner_seconds": self._learner_seconds,
            **tasks,
        }
