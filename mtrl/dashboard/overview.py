"""Which figures and differences a page shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from mtrl.config import flatten
from mtrl.dashboard.aggregates import Comparison, by_tasks, compare
from mtrl.dashboard.curves import Bands, curves, evaluation_curves
from mtrl.dashboard.drawing import heat_map, subtitle
from mtrl.dashboard.method_figures import improvements, interval_estimates, iqm_curves, profiles, shares_by_method
from mtrl.dashboard.methods import as_written, methods_of
from mtrl.dashboard.runs import Run
from mtrl.dashboard.task_figures import FEW_TASKS, expert_usage, expert_weights, gradient_conflicts, task_curves, task_estimates


def figures_of(runs: Sequence[Run], bands: Bands = "range") -> list[go.Figure]:
    """All figures about the runs; those of single tasks for one run alone."""
    return overview_figures(runs, compare(runs), bands) + (run_figures(runs[0]) if len(runs) == 1 else [])


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The fields in which the runs' experiments differ, each with the runs' values."""
    return _differences([run.config for run in runs])


def changes(run: Run) -> list[tuple[int, list[tuple[str, list[str]]]]]:
    """For each time that a resumed run changed its experiment: until which frames, and the fields with the value before and after."""
    configs = [*run.changes.values(), run.config]
    return [(frames, _differences(configs[index : index + 2])) for index, frames in enumerate(run.changes)]


def all_tasks(runs: Sequence[Run]) -> list[str]:
    """The tasks of all runs, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def overview_figures(runs: Sequence[Run], comparisons: Sequence[Comparison], bands: Bands = "range") -> list[go.Figure]:
    """Figures that show all runs side by side. Scores of runs with unlike tasks are in figures of their own."""
    figures: list[go.Figure] = []
    groups = by_tasks(runs)
    for suite, members in groups.items():
        of = f", {suite}" if len(groups) > 1 else ""
        if any(run.evaluations for run in members):
            figures.append(evaluation_curves(members, f"Mean score of evaluations{of}", bands=bands))
        training = f"Mean score of training episodes{of}"
        figures.append(curves(members, "summary/score_mean", training, "score", top=1.02, bands=bands))
        figures.append(curves(members, "summary/score_mean", f"{training}, over time", "score", over="hours", top=1.02, bands=bands))
    for comparison in comparisons:
        drawn = [interval_estimates(comparison), iqm_curves(comparison), profiles(comparison), improvements(comparison)]
        figures += [figure for figure in drawn if figure is not None]
    for members in groups.values():
        figures += shares_by_method(methods_of(members))
    tasks = all_tasks(runs)
    if len(runs) > 1 and tasks:
        figures.append(_newest_scores(runs, tasks))
    figures += [
        curves(runs, "summary/frames_per_second", "Speed", "frames/s", bands=bands),
        curves(runs, "summary/policy_lag", "Policy lag", "updates", bands=bands),
        curves(runs, "learner/entropy", "Entropy of the policy", "nats", bands=bands),
    ]
    return [figure for figure in figures if figure.data]


def run_figures(run: Run) -> list[go.Figure]:
    """Figures about the tasks and experts of one run."""
    if not run.num_rows:
        return []
    estimates = task_estimates(run)
    figures = [estimates] if estimates is not None else []
    figures += [
        task_curves(run, "score", "Score by task", "score"),
        task_curves(run, "share_trained", "Share of trained frames by task", "share", stacked=len(run.tasks) <= FEW_TASKS),
    ]
    figures += [figure for figure in (gradient_conflicts(run), expert_weights(run), expert_usage(run)) if figure is not None]
    if not np.isnan([run.column(f"tasks/{task}/private_share") for task in run.tasks]).all():
        figures.append(task_curves(run, "private_share", "Share of the private branch by task", "share"))
    if not np.isnan([run.column(f"tasks/{task}/gradient_conflict") for task in run.tasks]).all():
        figures.append(task_curves(run, "gradient_conflict", "Share of the other tasks with an opposed gradient", "share"))
    if not np.isnan(run.column("experts/gram_offdiagonal")).all():
        figures.append(
            curves([run], "experts/gram_offdiagonal", "Similarity of the experts before they are made orthogonal", "mean |cosine|")
        )
    return [figure for figure in figures if figure.data]


def _differences(configs: Sequence[dict[str, object]]) -> list[tuple[str, list[str]]]:
    flat = [flatten(config) for config in configs]
    names = sorted({name for values in flat for name in values})
    table = [(name, [as_written(values[name]) if name in values else "not set" for values in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def _newest_scores(runs: Sequence[Run], tasks: Sequence[str]) -> go.Figure:
    """Evaluated scores, and marked ones of training episodes where a run has no evaluation of a task."""
    values, marks = np.full((len(tasks), len(runs)), np.nan), np.full((len(tasks), len(runs)), "", dtype=object)
    for column, run in enumerate(runs):
        evaluated = run.evaluations[-1].tasks if run.evaluations else {}
        for row, task in enumerate(tasks):
            if task in evaluated:
                values[row, column] = evaluated[task].score.value
            elif (score := run.last(f"tasks/{task}/score")) is not None:
                values[row, column], marks[row, column] = score, "*"
    # The name of a run without evaluations is marked as well: large tables have no numbers.
    names = [run.name if run.evaluations else f"{run.name} *" for run in runs]
    figure = heat_map(tasks, names, values, "Newest score by task and run", low=0, high=1, marks=marks, axes=("task", "run"), unit="score")
    if (marks == "*").any():
        subtitle(figure, "*: not evaluated, score of training episodes")
    return figure
