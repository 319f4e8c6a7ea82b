"""Figures about the tasks and experts of one run."""

from __future__ import annotations

import math
import re

import numpy as np
import plotly.graph_objects as go

from mtrl.dashboard.curves import mark_changes
from mtrl.dashboard.drawing import COLOURS, ROW_HEIGHT, add_share, error_bars, heat_map, new_figure, subtitle, with_legend
from mtrl.dashboard.runs import Run

FEW_TASKS = 9  # up to this number of tasks, each has a line
TIME_BINS = 60  # columns of a heat map over time
USAGE = "Use of the experts over time"


def task_curves(run: Run, metric: str, title: str, unit: str, *, stacked: bool = False) -> go.Figure:
    """One metric of every task of a run over trained frames: lines of a few tasks, colours of many, the lowest at the end on top."""
    if len(run.tasks) > FEW_TASKS:
        return _task_history(run, metric, title, unit)
    figure = new_figure(title, "trained frames", unit)
    figure.update_xaxes(rangemode="tozero")
    values = np.array([run.column(f"tasks/{task}/{metric}") for task in run.tasks])  # [tasks, rows]
    known = ~np.isnan(values).all(axis=0)  # a line about an evaluation has none
    for task, own, colour in zip(run.tasks, values, COLOURS, strict=False):
        if stacked:
            add_share(figure, run.frames[known], own[known], task, colour)
        else:
            there = ~np.isnan(own)  # what is measured in some lines alone would be points without a line between them
            figure.add_scatter(x=run.frames[there], y=own[there], name=task, line={"color": colour})
    if unit in ("score", "share"):
        figure.update_yaxes(range=[0, 1.02])
    mark_changes(figure, [run])
    _link(figure, run, metric)
    return with_legend(figure)


def task_estimates(run: Run) -> go.Figure | None:
    """The score of each task in the newest evaluation with its interval, the lowest first; None without an evaluation."""
    if not run.evaluations:
        return None
    found = sorted(run.evaluations[-1].tasks.items(), key=lambda item: item[1].score.value)
    figure = new_figure("Newest evaluation by task", "score", "")
    estimates = [task.score for _, task in found]
    figure.add_scatter(
        x=[estimate.value for estimate in estimates],
        y=[name for name, _ in found],
        error_x=error_bars(estimates),
        mode="markers",
        marker={"color": COLOURS[0], "size": 8},
        text=[f"{task.n} episodes" for _, task in found],
        hovertemplate="%{x:.3f}, %{text}<extra></extra>",
    )
    figure.update_xaxes(range=[-0.02, 1.02] if all(0 <= estimate.value <= 1 for estimate in estimates) else None)
    figure.update_yaxes(range=[len(found) - 0.5, -0.5], tickmode="linear", dtick=1)
    figure.update_layout(height=max(240, 110 + ROW_HEIGHT * len(found)), hovermode="closest", meta={"run": run.name})
    counts = sorted({task.n for _, task in found}) or [0]
    episodes = f"{counts[0]} episodes each" if len(counts) == 1 else f"{counts[0]} to {counts[-1]} episodes"
    subtitle(figure, f"policy of {run.evaluations[-1].step:,} frames, {episodes}; bars: 95 % intervals over episodes")
    return figure


def expert_weights(run: Run) -> go.Figure | None:
    """The gate's weights of each task, from the newest row that has them; None if no row has."""
    named = {match[1] for key in run.columns if (match := re.fullmatch(r"experts/.*/weight_(\d{1,4})", key))}
    experts = sorted(named, key=int)
    if not experts:
        return None
    found = [[run.last(f"experts/{task}/weight_{k}") for k in experts] for task in run.tasks]
    values = np.array(found, float)  # None is NaN
    if np.isnan(values).all():
        return None
    limit = float(np.nanmax(np.abs(values)))
    names, title = [f"expert {k}" for k in experts], "Task weights of the experts"
    return heat_map(run.tasks, names, values, title, low=-limit, high=limit, diverging=True, axes=("task", "expert"), unit="weight")


def expert_usage(run: Run) -> go.Figure | None:
    """The share of each expert in the tasks' mixtures over time: its part of the sizes of a task's weights, as a mean over tasks."""
    named = {match[1] for key in run.columns if (match := re.fullmatch(r"experts/.*/weight_(\d{1,4})", key))}
    experts = sorted(named, key=int)
    if not experts or not run.tasks:
        return None
    sizes = np.abs([[run.column(f"experts/{task}/weight_{k}") for k in experts] for task in run.tasks])  # [tasks, experts, rows]
    known = ~np.isnan(sizes).any(axis=(0, 1))
    if not known.any():
        return None
    totals = sizes.sum(axis=1, keepdims=True)
    shares = np.divide(sizes, totals, out=np.full_like(sizes, 1 / len(experts)), where=totals > 0).mean(axis=0)
    if len(experts) > FEW_TASKS:
        kept = np.unique(np.linspace(0, known.sum() - 1, min(TIME_BINS, int(known.sum()))).astype(int))
        frames = [f"{frame:,.0f}" for frame in run.frames[known][kept]]
        values = shares[:, known][:, kept]
        rows, axes = [f"expert {k}" for k in experts], ("expert", "trained frames")
        return heat_map(rows, frames, values, USAGE, low=0.0, high=float(values.max()), axes=axes, unit="share")
    figure = new_figure(USAGE, "trained frames", "share")
    for index, k in enumerate(experts):
        add_share(figure, run.frames[known], shares[index, known], f"expert {k}", COLOURS[index])
    figure.update_yaxes(range=[0, 1.02])
    subtitle(figure, "sizes of the task weights, mean over tasks")
    mark_changes(figure, [run])
    return with_legend(figure)


def gradient_conflicts(run: Run) -> go.Figure | None:
    """The cosine of the gradients of each two tasks, as a mean over the newest quarter of its measurements; None where there is none.

    The gradients are those at the mixed feature of the experts. Below 0, learning one task moves the other back.
    """
    if not run.tasks or not any(name.startswith("gradients/") for name in run.columns):
        return None
    measured = [[run.column(f"gradients/{task}/cosine_{k}") for k in range(len(run.tasks))] for task in run.tasks]
    cosines = np.array(measured)  # [tasks, tasks, rows]
    cosines = cosines[:, :, ~np.isnan(cosines).all(axis=(0, 1))]  # most lines of metrics may have none
    if not cosines.shape[2]:
        return None
    cosines = cosines[:, :, -math.ceil(cosines.shape[2] / 4) :]
    known = ~np.isnan(cosines)
    sums, counts = np.where(known, cosines, 0.0).sum(axis=2), known.sum(axis=2)
    values = np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)
    numbers = [str(k) for k in range(1, len(run.tasks) + 1)]  # the columns': names would take the room of the cells
    named = [f"{number} {task}" for number, task in zip(numbers, run.tasks, strict=True)]
    figure = heat_map(
        named,
        numbers,
        values,
        "Cosine of the tasks' gradients",
        low=-1.0,
        high=1.0,
        diverging=True,
        axes=("task", "number of the other task"),
        unit="cosine",
    )
    figure.update_xaxes(type="category")
    subtitle(figure, "newest quarter; below 0: opposed; grey: none")
    return figure


def _task_history(run: Run, metric: str, title: str, unit: str) -> go.Figure:
    """Tasks by time as colours. Each column is the last value in its part of the training."""
    values = np.array([run.column(f"tasks/{task}/{metric}") for task in run.tasks])  # [tasks, rows]
    known = ~np.isnan(values).all(axis=0)
    values, frames = values[:, known], run.frames[known]
    if not len(frames):
        return new_figure(title, "trained frames", unit)
    kept = np.unique(np.linspace(0, len(frames) - 1, min(TIME_BINS, len(frames))).astype(int))
    values, frames = values[:, kept], frames[kept]
    order = np.argsort(np.nan_to_num(values[:, -1], nan=-1.0), kind="stable")
    high = 1.0 if metric == "score" else float(np.nanmax(values)) or 1.0
    names = [run.tasks[index] for index in order]
    figure = heat_map(
        names, [f"{frame:,.0f}" for frame in frames], values[order], title, low=0.0, high=high, axes=("task", "trained frames"), unit=unit
    )
    figure.data[0].hovertemplate = f"%{{y}} at %{{x}} frames: %{{z:.3f}} {unit}<extra></extra>"
    figure.data[0].text = figure.data[0].texttemplate = None
    figure.update_xaxes(nticks=8)
    mark_changes(figure, [run], lambda run, changed: float(np.searchsorted(frames, changed)) - 0.5)  # between two columns
    _link(figure, run, metric)
    subtitle(figure, "the lowest at the end on top")
    return figure


def _link(figure: go.Figure, run: Run, metric: str) -> None:
    """Lets a click on a share lead to the decision behind it, and one on a row of another table to the task."""
    if metric == "share_trained":
        figure.update_layout(meta={"run": run.name, "decisions": True})
    elif len(run.tasks) > FEW_TASKS:
        figure.update_layout(meta={"run": run.name})
