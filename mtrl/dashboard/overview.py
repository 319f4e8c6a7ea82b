"""Which figures and differences a page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mtrl.config import flatten
from mtrl.dashboard.aggregates import Comparison, compare
from mtrl.dashboard.figures import curves, expert_weights, heat_map, profiles, task_curves
from mtrl.dashboard.runs import Run


def figures_of(runs: Sequence[Run]) -> list[go.Figure]:
    """All figures about the runs; those of single tasks for one run alone."""
    return overview_figures(runs, compare(runs)) + (run_figures(runs[0]) if len(runs) == 1 else [])


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The fields in which the runs' experiments differ, each with the runs' values."""
    flat = [flatten(run.config) for run in runs]
    names = sorted({name for values in flat for name in values})
    table = [(name, [str(values.get(name, "not set")) for values in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def all_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks of all runs, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def overview_figures(runs: Sequence[Run], comparison: Comparison | None) -> list[go.Figure]:
    """Figures that show all runs side by side."""
    figures = [
        curves(runs, "summary/score_mean", "Mean score of training episodes", "score", top=1.02),
        curves(runs, "summary/score_mean", "The same over wall-clock time", "score", over="hours", top=1.02),
    ]
    tasks = all_tasks(runs)
    if tasks:
        scores = np.array([[_newest_score(run, task) for run in runs] for task in tasks])
        figures.append(heat_map(tasks, _distinct([run.name for run in runs]), scores, "Newest score by task and run", low=0, high=1))
    if comparison is not None:
        figures.append(profiles({method.name: method.scores for method in comparison.methods}))
    if any("summary/evaluation_score" in run.columns for run in runs):
        figures.append(curves(runs, "summary/evaluation_score", "Mean score of evaluations while training", "score", top=1.02))
    figures += [
        curves(runs, "summary/frames_per_second", "Speed", "frames/s"),
        curves(runs, "summary/policy_lag", "Policy lag", "updates"),
        curves(runs, "learner/entropy", "Entropy of the policy", "nats"),
    ]
    return figures


def run_figures(run: Run) -> list[go.Figure]:
    """Figures about the tasks and experts of one run."""
    if not run.num_rows:
        return []
    figures = [
        task_curves(run, "score", "Score by task", "score"),
        task_curves(run, "share_trained", "Share of trained frames by task", "share", stacked=True),
    ]
    weights = expert_weights(run)
    if weights is not None:
        figures.append(weights)
    if not np.isnan(run.column("experts/gram_offdiagonal")).all():
        figures.append(
            curves([run], "experts/gram_offdiagonal", "Similarity of the experts before they are made orthogonal", "mean |cosine|")
        )
    return figures


def _newest_score(run: Run, task: str) -> float:
    """Evaluated where there is an evaluation, else of training episodes."""
    if run.evaluations and task in run.evaluations[-1].tasks:
        return float(run.evaluations[-1].tasks[task].score.value)
    score = run.last(f"tasks/{task}/score")
    return np.nan if score is None else score


def _distinct(names: list[str]) -> list[str]:
    """Names with a number where two are the same: a heat map would put them into one column."""
    return [f"{name} #{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]
