"""Figures about methods side by side, after Agarwal et al. 2021 (rliable)."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from mtrl.dashboard.aggregates import Comparison, MethodScores, pairwise_improvement
from mtrl.dashboard.curves import mark_changes
from mtrl.dashboard.drawing import COLOURS, ROW_HEIGHT, add_band, add_share, error_bars, heat_map, new_figure, style, subtitle, with_legend
from mtrl.dashboard.methods import Method
from mtrl.dashboard.runs import Run
from mtrl.evaluation.statistics import iqm_band, performance_profile, profile_band

SHARE_POINTS = 100  # of a curve of shares
IQM_POINTS = 25  # of a curve of interquartile means, each of which is a bootstrap


def interval_estimates(comparison: Comparison) -> go.Figure:
    """IQM, median, mean and optimality gap of each method as dots with their 95 % intervals."""
    methods = comparison.evaluated
    titles = ("IQM", "median", "mean", "optimality gap (lower is better)")
    figure = make_subplots(1, 4, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for column, figures in enumerate(zip(*((m.iqm, m.median, m.mean, m.gap) for m in methods), strict=True), 1):
        for index, (method, found) in enumerate(zip(methods, figures, strict=True)):
            if found is not None:
                dot = {"color": COLOURS[index % len(COLOURS)], "size": 9}
                figure.add_scatter(
                    x=[found.value],
                    y=[method.name],
                    error_x=error_bars([found]),
                    mode="markers",
                    marker=dot,
                    showlegend=False,
                    hovertemplate=f"{found.text(3)}<extra></extra>",
                    row=1,
                    col=column,
                )
    figure.update_yaxes(autorange="reversed", automargin=True)
    figure.update_xaxes(nticks=5, title="score")
    figure.update_xaxes(title="1 - score", col=len(titles))
    style(figure, "Interval estimates", 170 + 30 * len(methods))
    figure.update_layout(margin_t=90, meta={"wide": True})
    subtitle(figure, f"dot: {_number_of_runs(methods)}, {len(comparison.tasks)} tasks; bar: 95 % interval over runs")
    return figure


def iqm_curves(comparison: Comparison) -> go.Figure | None:
    """The IQM over runs and tasks while training, with its 95 % interval; None where no method has two evaluations of two runs."""
    figure = new_figure("IQM of evaluations over training", "trained frames of the evaluated policy", "IQM")
    for index, method in enumerate(comparison.methods):
        runs = [run for run in method.runs if len(run.evaluations) > 1]
        if len(runs) < 2:
            continue
        start, stop = max(run.evaluations[0].step for run in runs), min(run.evaluations[-1].step for run in runs)
        if start >= stop:
            continue
        grid = np.linspace(start, stop, IQM_POINTS)
        scores = np.array([[_task_line(run, task, grid) for task in comparison.tasks] for run in runs])  # [runs, tasks, points]
        value, low, high = iqm_band(np.moveaxis(scores, 2, 0), np.random.default_rng(0))
        add_band(figure, grid, value, low, high, method.name, COLOURS[index % len(COLOURS)])
    if not figure.data:
        return None
    figure.update_yaxes(range=[0, 1.02])
    mark_changes(figure, [run for method in comparison.methods for run in method.runs])
    subtitle(figure, f"{_number_of_runs(comparison.evaluated)}; band: 95 % interval over runs")
    return with_legend(figure)


def profiles(comparison: Comparison) -> go.Figure:
    """For each method the share of its runs and tasks above each score."""
    figure = new_figure("Performance profile", "score", "share of runs and tasks above")
    thresholds = np.linspace(0.0, 1.0, 101)
    for index, method in enumerate(comparison.evaluated):
        shares, colour = performance_profile(method.scores, thresholds), COLOURS[index % len(COLOURS)]
        if len(method.scores) > 1:
            low, high = profile_band(method.scores, thresholds, np.random.default_rng(0))
            add_band(figure, thresholds, shares, low, high, method.name, colour)
        else:
            figure.add_scatter(x=thresholds, y=shares, name=method.name, line={"color": colour, "shape": "hv"})
    figure.update_yaxes(range=[0, 1.02])
    subtitle(figure, f"{_number_of_runs(comparison.evaluated)}; band: 95 % interval over runs; one run has none")
    return with_legend(figure)


def improvements(comparison: Comparison) -> go.Figure | None:
    """The probability that one method scores more than another with its interval, for each pair of methods with two runs or more; None
    where there are fewer than three, since the table says it.
    """
    names, found = pairwise_improvement(comparison)
    if len(names) < 3:
        return None
    values = np.array([[estimate.value for estimate in row] for row in found])
    marks = np.array([[f"<br>({each.low:.2f} – {each.high:.2f})" if each.bounded else "" for each in row] for row in found], object)
    title = "Probability that the row scores more than the column"
    figure = heat_map(
        names, names, values, title, low=0, high=1, diverging=True, marks=marks, axes=("method", "other method"), unit="probability"
    )
    figure.update_layout(height=max(240, 120 + 2 * ROW_HEIGHT * len(names)))
    subtitle(figure, "a run of each on a random task; ties count half; in parentheses: 95 % intervals over runs")
    return figure


def _number_of_runs(methods: Sequence[MethodScores]) -> str:
    """Such as `5 runs`, or `2 to 5 runs of a method`."""
    counts = sorted({len(method.runs) for method in methods})
    if len(counts) > 1:
        return f"{counts[0]} to {counts[-1]} runs of a method"
    return f"{counts[0]} run{'s' if counts[0] > 1 else ''} of a method"


def _task_line(run: Run, task: str, grid: np.ndarray) -> np.ndarray:
    """A task's evaluated scores at the grid's frames, between evaluations that played it."""
    known = [(results.step, results.tasks[task].score.value) for results in run.evaluations if task in results.tasks]
    steps, scores = zip(*known, strict=True)
    return np.interp(grid, steps, scores)


def shares_by_method(methods: Sequence[Method]) -> list[go.Figure]:
    """The share of each task over trained frames as a mean over the runs of a method: a figure for each method.

    Only where methods of several runs or more than one are told apart by their schedulers; else the figures of single runs show it.
    """
    rules = {json.dumps(method.runs[0].config.get("curriculum"), sort_keys=True, default=str) for method in methods}
    return [figure for method in methods if (figure := _mean_shares(method)) is not None] if len(rules) > 1 else []


def _mean_shares(method: Method) -> go.Figure | None:
    runs = [run for run in method.runs if run.num_rows > 1 and 1 < len(run.tasks) <= len(COLOURS)]
    if not runs or any(run.tasks != runs[0].tasks for run in runs):
        return None
    grid = np.linspace(max(run.frames[0] for run in runs), min(run.frames[-1] for run in runs), SHARE_POINTS)
    figure = new_figure(f"Shares of the tasks, {method.name}", "trained frames", "share")
    for index, task in enumerate(runs[0].tasks):
        lines = [np.interp(grid, *_known(run.frames, run.column(f"tasks/{task}/share_trained"))) for run in runs]
        add_share(figure, grid, np.mean(lines, axis=0), task, COLOURS[index])
    figure.update_yaxes(range=[0, 1.02])
    subtitle(figure, f"trained frames, mean over {len(runs)} run{'s' if len(runs) > 1 else ''}")
    return with_legend(figure)


def _known(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    known = ~np.isnan(y)
    return (x[known], y[known]) if known.any() else (x, np.zeros_like(x))
