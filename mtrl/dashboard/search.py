"""The page of a search: score against cost, and the effect of each field."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from mtrl.dashboard.drawing import COLOURS, new_figure
from mtrl.dashboard.page import standalone
from mtrl.storage.sealed import replace_text
from mtrl.storage.search_record import FILE, TrialRecord, read_search

PAGE = "search.html"
LOGARITHMIC = ("log", "log_int")
UNITS = {"frames": 0, "seconds": 1}  # of the points of a trial's curve


def write_search_page(folder: Path) -> Path:
    """Writes `search.html` beside the runs of a search; returns its path.

    Raises:
        UserError: there is no search.
    """
    trials = [trial for trial in read_search(folder) if trial.curve]
    plan = json.loads((folder / FILE).read_text(encoding="utf-8"))
    page = standalone(
        "search.html",
        f"Search over {plan['experiment']['name']}",
        method=plan["method"],
        budget=f"{plan['budget'][1]:,.0f} {plan['budget'][0]}",
        planned=plan["planned_trials"],
        trials=trials,
        fields=list(plan["space"]),
        figures=[frontier_figure(trials, unit) for unit in UNITS] + [progress_figure(trials, plan["budget"][0])],
        effects=[effect_figure(trials, field, kind) for field, (kind, _) in plan["space"].items()],
    )
    replace_text(folder / PAGE, page)
    return folder / PAGE


def frontier(trials: Sequence[TrialRecord], unit: str) -> list[tuple[float, float]]:
    """Cost and score of every report that no cheaper report of any trial has reached, by growing cost."""
    points = sorted((point[UNITS[unit]], point[2]) for trial in trials for point in trial.curve)
    best, found = float("-inf"), []
    for cost, score in points:
        if score > best:
            best = score
            found.append((cost, score))
    return found


def spent_until_best(trials: Sequence[TrialRecord], unit: str) -> list[tuple[float, float]]:
    """The best score so far against the cost of all trials together, as if they had run one after the other in order of their names."""
    total, best, found = 0.0, float("-inf"), []
    for trial in sorted(trials, key=lambda trial: trial.name):
        for point in trial.curve:
            if point[2] > best:
                best = point[2]
                found.append((total + point[UNITS[unit]], best))
        total += trial.curve[-1][UNITS[unit]]
    return [*found, (total, best)] if found else found


def frontier_figure(trials: Sequence[TrialRecord], unit: str) -> go.Figure:
    """Every trial's best score against its cost at that time, and the frontier."""
    figure = new_figure(f"Score against {unit} of a trial", unit, "score")
    best = [max(trial.curve, key=lambda point: point[2]) for trial in trials]
    names = [_text(trial) for trial in trials]
    figure.add_scatter(
        x=[point[UNITS[unit]] for point in best],
        y=[point[2] for point in best],
        text=names,
        mode="markers",
        name="best report of each trial",
        marker={"color": COLOURS[0]},
        hovertemplate="%{text}<extra></extra>",
    )
    edge = frontier(trials, unit)
    figure.add_scatter(
        x=[cost for cost, _ in edge],
        y=[score for _, score in edge],
        mode="lines",
        line={"shape": "hv", "color": COLOURS[1]},
        name="best score of any trial at this cost",
    )
    return figure.update_layout(hovermode="closest", showlegend=True, legend={"orientation": "h", "y": -0.25})


def progress_figure(trials: Sequence[TrialRecord], unit: str) -> go.Figure:
    """The best score so far against the cost of all trials together."""
    figure = new_figure("Best score so far", f"{unit} of all trials", "score")
    steps = spent_until_best(trials, unit)
    figure.add_scatter(
        x=[cost for cost, _ in steps], y=[score for _, score in steps], mode="lines", line={"shape": "hv", "color": COLOURS[0]}
    )
    return figure.update_layout(showlegend=False)


def effect_figure(trials: Sequence[TrialRecord], field: str, kind: str) -> go.Figure:
    """The best score of each trial against its value of one field; larger dots cost more."""
    figure = new_figure(field, field, "score")
    most = max((trial.curve[-1][0] for trial in trials), default=1.0)
    values: list[Any] = [trial.values.get(field) for trial in trials]
    figure.add_scatter(
        x=[str(value) for value in values] if kind == "choice" else values,
        y=[trial.best for trial in trials],
        text=[_text(trial) for trial in trials],
        mode="markers",
        marker={"color": COLOURS[0], "opacity": 0.7, "size": [6 + 10 * trial.curve[-1][0] / most for trial in trials]},
        hovertemplate="%{text}<extra></extra>",
    )
    if kind in LOGARITHMIC:
        figure.update_xaxes(type="log")
    elif kind == "choice":
        figure.update_xaxes(type="category", categoryorder="category ascending")
    return figure.update_layout(hovermode="closest", showlegend=False)


def _text(trial: TrialRecord) -> str:
    settings = "<br>".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in trial.values.items())
    return (
        f"{trial.name}, {trial.state}: {trial.best:.3f} after {trial.curve[-1][0]:,.0f} frames, {trial.curve[-1][1]:,.0f} s<br>{settings}"
    )
