"""The page of a comparison of tasks learned together and alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go

from mtrl.dashboard.drawing import COLOURS, add_band, error_bars, new_figure, subtitle, with_legend
from mtrl.dashboard.page import standalone
from mtrl.dashboard.runs import Run
from mtrl.dashboard.task_figures import gradient_conflicts
from mtrl.storage.sealed import replace_text

PAGE = "alone.html"
POINTS = 100  # of a mean over runs


def write_alone_page(
    path: Path, experiment: str, tasks: Sequence[Mapping[str, Any]], together: Sequence[Run], alone: Mapping[str, Sequence[Run]]
) -> None:
    """Writes the table of the tasks, the differences, the tasks' curves, and the conflicts of their gradients.

    Args:
        path: of the page.
        experiment: its name.
        tasks: fields of each `TaskComparison`, the one that loses most first.
        together: runs of all tasks.
        alone: runs of each task.
    """
    conflicts = [gradient_conflicts(run) for run in together[:1]]
    figures = [differences_figure(tasks), *(figure for figure in conflicts if figure is not None)]
    page = standalone(
        "alone.html",
        f"{experiment}: tasks together and alone",
        seeds=len(together),
        tasks=tasks,
        figures=figures,
        curves=[both_curves(task["name"], together, alone[task["name"]]) for task in tasks],
    )
    replace_text(path, page)


def differences_figure(tasks: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The difference of each task as a dot with its interval."""
    figure = new_figure("Score together less score alone", "difference", "")
    differences = [task["difference"] for task in tasks]
    figure.add_scatter(
        x=[difference.value for difference in differences],
        y=[task["name"] for task in tasks],
        error_x=error_bars(differences),
        mode="markers",
        marker={"color": COLOURS[0], "size": 8},
        hovertemplate="%{y}: %{x:.3f}<extra></extra>",
    )
    figure.add_vline(x=0, line={"dash": "dot", "width": 1, "color": "#888888"})
    figure.update_yaxes(autorange="reversed", tickmode="linear", dtick=1)
    figure.update_layout(height=max(240, 120 + 18 * len(tasks)), hovermode="closest", showlegend=False)
    subtitle(figure, "left of 0: worse together; bars: 95 % intervals over seeds")
    return figure


def both_curves(task: str, together: Sequence[Run], alone: Sequence[Run]) -> go.Figure:
    """The score of a task over its own frames, learned both ways: means over runs, with bands from the lowest to the highest."""
    figure = new_figure(task, "frames of the task", "score")
    for index, (name, runs) in enumerate((("together", together), ("alone", alone))):
        lines = [(run.column(f"tasks/{task}/frames"), run.column(f"tasks/{task}/score")) for run in runs]
        known = [(x[there], y[there]) for x, y in lines if (there := ~np.isnan(x) & ~np.isnan(y)).any()]
        if not known:
            continue
        grid = np.linspace(max(x[0] for x, _ in known), min(x[-1] for x, _ in known), POINTS)
        values = np.array([np.interp(grid, x, y) for x, y in known])
        add_band(figure, grid, values.mean(0), values.min(0), values.max(0), name, COLOURS[index])
    figure.update_yaxes(range=[0, 1.02])
    figure.update_xaxes(rangemode="tozero")
    subtitle(figure, "band: from the lowest to the highest seed")
    return with_legend(figure)
