"""Pictures of runs, as Plotly figures: curves with bands over seeds, heat maps, shares. Colours are Okabe and Ito's, told apart by all."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from mtrl.dashboard.runs import Run
from mtrl.evaluation.statistics import performance_profile

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#882255", "#999933", "#332288", "#44AA99")
POINTS = 200  # of a mean over seeds, and of one run's curve among many
FEW_RUNS = 5  # up to this number of runs, curves are drawn with all points
MOST_CELLS_WITH_NUMBERS = 400


def groups_of(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Runs that differ only in their seed, under the name of the first of them."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(run.group, []).append(run)
    return {members[0].name + (f" (+{len(members) - 1} seeds)" if len(members) > 1 else ""): members for members in found.values()}


def curves(runs: Sequence[Run], metric: str, title: str, unit: str, *, over: str = "frames", top: float | None = None) -> go.Figure:
    """One metric over trained frames or hours; a line for each group of runs, and a band from its lowest to its highest seed."""
    figure = _figure(title, "trained frames" if over == "frames" else "hours", unit)
    for index, (name, members) in enumerate(groups_of(runs).items()):
        colour = COLOURS[index % len(COLOURS)]
        lines = [(getattr(run, over), run.column(metric)) for run in members if run.num_rows]
        lines = [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in lines if (~np.isnan(y)).any()]
        lines = [(_thinned(x, len(runs)), _thinned(y, len(runs))) for x, y in lines]
        if len(lines) == 1:
            figure.add_scatter(x=lines[0][0], y=lines[0][1], name=name, line={"color": colour})
        elif lines:
            _add_band(figure, lines, name, colour)
    if top is not None:
        figure.update_yaxes(range=[0, top])
    return figure


def profiles(cells: Mapping[str, np.ndarray]) -> go.Figure:
    """For each method's scores [runs, tasks]: the share of them above each threshold."""
    figure = _figure("Performance profile: share of runs and tasks above a score", "score", "share above")
    thresholds = np.linspace(0.0, 1.0, 101)
    for index, (name, scores) in enumerate(cells.items()):
        shares = performance_profile(scores, thresholds)
        figure.add_scatter(x=thresholds, y=shares, name=name, line={"color": COLOURS[index % len(COLOURS)], "shape": "hv"})
    figure.update_yaxes(range=[0, 1.02])
    return figure


def one_task(runs: Sequence[Run], task: str) -> list[go.Figure]:
    """Everything about one task over trained frames."""
    kinds = [
        ("score", "Score of training episodes", "score", 1.02),
        ("success_rate", "Success rate", "share of episodes", 1.02),
        ("return", "Return", "return", None),
        ("episode_length", "Length of episodes", "steps", None),
        ("share_trained", "Share of trained frames", "share", None),
        ("value_error", "Error of the value", "mean |error|", None),
        ("policy_lag", "Policy lag", "updates", None),
    ]
    return [curves(runs, f"tasks/{task}/{metric}", title, unit, top=top) for metric, title, unit, top in kinds]


def task_curves(run: Run, metric: str, title: str, unit: str, *, stacked: bool = False) -> go.Figure:
    """One metric of every task of a run over trained frames."""
    figure = _figure(title, "trained frames", unit)
    for index, task in enumerate(run.tasks):
        line = {"color": COLOURS[index % len(COLOURS)], "dash": "solid" if index < len(COLOURS) else "dot"}
        extra = {"stackgroup": "tasks"} if stacked else {}
        figure.add_scatter(x=run.frames, y=run.column(f"tasks/{task}/{metric}"), name=task, line=line, **extra)
    if metric in ("score", "share_trained"):
        figure.update_yaxes(range=[0, 1.02])
    return figure


def heat_map(rows: Sequence[str], columns: Sequence[str], values: np.ndarray, title: str, *, low: float, high: float) -> go.Figure:
    """A table of numbers as colours, with the numbers in it. The scale runs from dark to light for all kinds of sight."""
    figure = _figure(title, "", "")
    # Numbers in a thousand cells take a browser a second to draw, and nobody can read them; each cell still says its own when pointed at.
    shown = values.size <= MOST_CELLS_WITH_NUMBERS
    text = [["" if np.isnan(value) else f"{value:.2f}" for value in row] for row in values]
    figure.add_heatmap(
        z=values,
        x=list(columns),
        y=list(rows),
        text=text if shown else None,
        texttemplate="%{text}" if shown else None,
        zmin=low,
        zmax=high,
        colorscale="Cividis",
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(showgrid=False)
    figure.update_layout(height=max(220, 90 + 26 * len(rows)))
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
    return heat_map(run.tasks, [f"expert {k}" for k in experts], values, "Task weights of the experts", low=-limit, high=limit)


def _thinned(values: np.ndarray, runs: int) -> np.ndarray:
    """At most `POINTS` values, evenly taken, where many runs share a figure."""
    if runs <= FEW_RUNS or len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).astype(int)]


def _add_band(figure: go.Figure, lines: list[tuple[np.ndarray, np.ndarray]], name: str, colour: str) -> None:
    start, stop = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    grid = np.linspace(start, stop, POINTS)
    values = np.array([np.interp(grid, x, y) for x, y in lines])
    edge = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "showlegend": False, "legendgroup": name}
    figure.add_scatter(x=grid, y=values.max(0), **edge)
    figure.add_scatter(x=grid, y=values.min(0), fill="tonexty", fillcolor=_faint(colour), **edge)
    figure.add_scatter(x=grid, y=values.mean(0), name=name, legendgroup=name, line={"color": colour})


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _figure(title: str, x: str, y: str) -> go.Figure:
    grid = {"gridcolor": "rgba(128,128,128,0.25)", "zerolinecolor": "rgba(128,128,128,0.4)", "automargin": True}
    return go.Figure(
        layout={
            "title": {"text": title, "font": {"size": 15}, "x": 0, "xanchor": "left"},
            "xaxis": {"title": x, **grid},
            "yaxis": {"title": y, **grid},
            "height": 340,
            "margin": {"l": 50, "r": 10, "t": 40, "b": 40},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {"family": "system-ui, sans-serif", "size": 12, "color": "#7a7f87"},
            "legend": {"orientation": "h", "y": -0.25},
            "hovermode": "x unified",
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.5)"},
        }
    )
