"""The figures of a running training that a terminal shows, from its metrics."""

from __future__ import annotations

import math
import shlex
import time
from pathlib import Path
from typing import NamedTuple

from envs import TaskSuite
from mtrl.cli.formatting import duration, number, short_names
from mtrl.config import ExperimentConfig
from mtrl.storage.checkpoint import named_step
from mtrl.storage.layout import RunLayout

Metrics = dict[str, float]


class TaskFigures(NamedTuple):
    """One task's row. NaN stands for what is not known yet."""

    name: str
    score: float
    episodes: float
    share: float
    returns: float = math.nan
    """Mean return, where it says more than the score: in suites without a published score."""

    @property
    def text(self) -> str:
        """The task with its score, and its return where that says more."""
        returns = "" if math.isnan(self.returns) else f" return {self.returns:.4g}"
        return f"{self.name} {number(self.score, '.2f')}{returns}"


class RunView:
    """The run's identity, its latest figures and what they say about time."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite, directory: Path):
        self.config = config
        self.suite = suite
        self.directory = directory
        self._names = short_names(suite.names)
        self._metrics: Metrics = {}
        self._started = self._updated = time.monotonic()

    def update(self, metrics: Metrics) -> None:
        """Takes new figures by the names of `Trainer.metrics`; those that are missing stay what they were, or unknown."""
        self._metrics |= metrics
        self._updated = time.monotonic()

    @property
    def tasks(self) -> list[TaskFigures]:
        """The tasks' rows in the suite's order."""
        return [
            TaskFigures(
                short,
                self._get(f"tasks/{task.name}/score"),
                self._get(f"tasks/{task.name}/episodes"),
                self._get(f"tasks/{task.name}/share_trained"),
                self._get(f"tasks/{task.name}/return") if self.suite.protocol is None else math.nan,
            )
            for short, task in zip(self._names, self.suite.tasks, strict=True)
        ]

    @property
    def frames(self) -> float:
        """Frames trained on so far."""
        return self._metrics.get("summary/frames", 0.0)

    @property
    def speed(self) -> float:
        """Frames per second of the last interval."""
        return self._get("summary/frames_per_second")

    @property
    def score(self) -> float:
        """Mean score over the tasks."""
        return self._get("summary/score_mean")

    @property
    def policy_lag(self) -> float:
        """Updates that the acting weights are behind, on average."""
        return self._get("summary/policy_lag")

    @property
    def elapsed(self) -> float:
        """Seconds since the start of this process's part of the run."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds to go at the speed of the last interval."""
        if not self.speed > 0:
            return math.nan
        return max((self.config.total_frames - self.frames) / self.speed - (time.monotonic() - self._updated), 0.0)

    @property
    def fraction(self) -> float:
        """Part of the frames that is done, 0 to 1."""
        return min(self.frames / self.config.total_frames, 1.0)

    @property
    def left_out(self) -> list[str]:
        """Tasks whose environments keep failing, which are not trained for now."""
        return [short for short, name in zip(self._names, self.suite.names, strict=True) if self._get(f"tasks/{name}/quarantined") == 1]

    def _get(self, name: str) -> float:
        return self._metrics.get(name, math.nan)

    def line(self) -> str:
        """The figures in one line; of many tasks only the weakest."""
        tasks = self.tasks
        if len(tasks) > 10:
            tasks = sorted(tasks, key=lambda task: math.inf if math.isnan(task.score) else task.score)[:5]
        scores = ", ".join(task.text for task in tasks)
        return (
            f"{self.frames:,.0f} of {self.config.total_frames:,} frames ({self.fraction:.1%}), {number(self.speed, ',.0f')} frames/s, "
            f"{duration(self.left)} left, score {number(self.score, '.3f')} "
            f"({'lowest: ' if len(tasks) < self.suite.num_tasks else ''}{scores}), policy lag {number(self.policy_lag, '.1f')}"
            + (f", left out: {', '.join(self.left_out)}" if self.left_out else "")
        )

    def farewell(self, program: str) -> str:
        """The run's directory, and the next command that a user needs."""
        directory = shlex.quote(str(self.directory))
        lines = [f"run directory: {directory}"]
        saved = named_step(RunLayout(self.directory).checkpoints, "latest")
        if saved is not None:
            lines.append(f"saved at:      {saved:,} frames")
        if self.left_out:
            lines.append(f"left out:      {', '.join(self.left_out)} (their environments kept failing)")
        if (RunLayout(self.directory).checkpoints / "latest").exists():
            if self.frames < self.config.total_frames:
                lines.append(f"to go on:      {program} train --resume {directory}")
            lines.append(f"to evaluate:   {program} evaluate {directory}")
        return "\n".join(lines)
