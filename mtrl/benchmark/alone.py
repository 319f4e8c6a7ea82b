"""Which tasks lose by being learned together: every task of an experiment alone with its part of the frames, against all in one policy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs import TaskSuite, make_suite, single_task
from mtrl.config import ExperimentConfig, override
from mtrl.dashboard.alone import PAGE, write_alone_page
from mtrl.dashboard.runs import Run, read_run
from mtrl.distributed.sweep import runs_of_seeds, train_side_by_side
from mtrl.evaluation.intervals import Estimate
from mtrl.evaluation.statistics import mean_interval

TOGETHER = "together"
BEHIND = 0.1  # of the score, by which a task counts as behind
EQUAL_SHARES: dict[str, Any] = {"curriculum.scheduler": "uniform", "curriculum.options": {}, "curriculum.boost_forgotten": 1.0}
"""So that a task has as many frames together as alone."""


class TaskComparison(NamedTuple):
    """One task, learned together and alone with equal frames of the task. Scores are means over its newest 100 training episodes."""

    name: str
    together: Estimate
    alone: Estimate
    difference: Estimate  # together less alone, paired by seed
    behind_since: float | None  # frames of the task from which on it stays behind to the end; None if it does not
    conflict: float  # mean share of the other tasks with an opposed gradient; NaN where it was not measured
    entropy_together: float  # of the task's policy at the end, in nats; NaN where it was not measured
    entropy_alone: float


def compare_alone(config: ExperimentConfig, seeds: int, folder: Path, *, full_batches: bool = False) -> list[TaskComparison]:
    """Trains all tasks together and each alone, and writes a page. Runs that are in the folder already are kept.

    Alone, a task has its equal part of the experiment's frames, and of its slots, so that it makes as many updates from as many frames.

    Args:
        config: the experiment; all tasks get the same shares, whatever its curriculum is.
        seeds: runs of each.
        folder: holds a folder of runs for `together` and for each task.
        full_batches: whether a task alone has all slots of the experiment, and so fewer and larger updates.

    Returns:
        the tasks, the one that loses most first.

    Raises:
        SuiteError: a task has no suite of its own.
    """
    suite = make_suite(config.suite.name)
    config = override(config, EQUAL_SHARES)
    plans = plans_alone(config, suite, full_batches=full_batches)
    of_all = runs_of_seeds(config, range(seeds), folder / TOGETHER)
    of_tasks = {name: runs_of_seeds(plan, range(seeds), folder / name.replace("/", "-")) for name, plan in plans.items()}
    train_side_by_side({path: planned for runs in (of_all, *of_tasks.values()) for path, planned in runs.items()}, folder)
    together = [read_run(path) for path in of_all]
    alone = {name: [read_run(path) for path in runs] for name, runs in of_tasks.items()}
    found = [compare_task(name, together, runs) for name, runs in alone.items()]
    found.sort(key=lambda task: (math.isnan(task.difference.value), task.difference.value))
    write_alone_page(folder / PAGE, config.name, [task._asdict() for task in found], together, alone)
    return found


def plans_alone(config: ExperimentConfig, suite: TaskSuite, *, full_batches: bool = False) -> dict[str, ExperimentConfig]:
    """The experiment of each task alone."""
    count = suite.num_tasks
    slots = config.env_runners.slots if full_batches else max(1, config.env_runners.slots // count)
    changes: dict[str, Any] = {
        "total_frames": max(1, config.total_frames // count),
        "env_runners.slots": slots,
        "env_runners.slots_per_task": None,
        **EQUAL_SHARES,
        **({"model.experts": 1} if config.model.gate == "one_per_task" else {}),
    }
    names = {task: single_task(suite, place) for place, task in enumerate(suite.names)}
    return {task: override(config, changes | {"suite.name": name, "name": f"{config.name}-{task}"}) for task, name in names.items()}


def compare_task(name: str, together: Sequence[Run], alone: Sequence[Run]) -> TaskComparison:
    """One task in runs of the same seeds."""
    scores = [np.array([_last_score(name, run) for run in runs]) for runs in (together, alone)]
    conflicts = [run.column(f"tasks/{name}/gradient_conflict") for run in together]
    known = np.concatenate([column[~np.isnan(column)] for column in conflicts])
    return TaskComparison(
        name,
        mean_interval(scores[0]),
        mean_interval(scores[1]),
        mean_interval(scores[0] - scores[1]),
        behind_since(name, together, alone),
        float(known.mean()) if len(known) else float("nan"),
        _mean_last(f"tasks/{name}/entropy", together),
        _mean_last("learner/entropy", alone),
    )


def _mean_last(metric: str, runs: Sequence[Run]) -> float:
    """The mean of a figure at the ends of runs; NaN where none has it."""
    known = [value for value in (run.last(metric) for run in runs) if value is not None]
    return float(np.mean(known)) if known else float("nan")


def _last_score(name: str, run: Run) -> float:
    """A task's score at the end of a run; NaN where none of its episodes has ended."""
    score = run.last(f"tasks/{name}/score")
    return float("nan") if score is None else score


def behind_since(name: str, together: Sequence[Run], alone: Sequence[Run]) -> float | None:
    """The task's frames from which on its mean score together stays `BEHIND` below that alone until the end."""
    lines = [[curve_of(name, run) for run in runs] for runs in (together, alone)]
    if any(len(x) < 2 for each in lines for x, _ in each):
        return None
    grid = np.linspace(0, min(x[-1] for each in lines for x, _ in each), 200)
    ours, theirs = (np.mean([np.interp(grid, x, y) for x, y in each], axis=0) for each in lines)
    behind = theirs - ours >= BEHIND
    if not behind[-1]:
        return None
    caught_up = np.flatnonzero(~behind)
    return float(grid[caught_up[-1] + 1]) if len(caught_up) else 0.0


def curve_of(name: str, run: Run) -> tuple[np.ndarray, np.ndarray]:
    """The task's score over its own frames."""
    x, y = run.column(f"tasks/{name}/frames"), run.column(f"tasks/{name}/score")
    known = ~np.isnan(x) & ~np.isnan(y)
    return x[known], y[known]
