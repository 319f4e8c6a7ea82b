"""Curves of metrics and evaluations: a line for each method, with a band where it has several runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import plotly.graph_objects as go

from mtrl.dashboard.aggregates import changed_text
from mtrl.dashboard.drawing import COLOURS, add_band, error_bars, new_figure, subtitle, with_legend
from mtrl.dashboard.methods import Method, methods_of
from mtrl.dashboard.runs import Run
from mtrl.evaluation.statistics import mean_band

Bands = Literal["range", "interval"]
"""What the band of a curve over several runs is: from the lowest to the highest run, or the 95 % interval of the mean."""
Line = tuple[np.ndarray, np.ndarray]  # x, y

POINTS = 200  # of a mean over seeds, and of one run's curve among many
NEVER_NEGATIVE = ("frames/s", "updates", "steps", "mean |cosine|", "mean |error|")  # units
FEW_RUNS = 5  # up to this number of runs, curves are drawn with all points
FEW_POINTS = 30  # up to this number of points, all lines of a figure have markers


def curves(
    runs: Sequence[Run], metric: str, title: str, unit: str, *, over: str = "frames", top: float | None = None, bands: Bands = "range"
) -> go.Figure:
    """One metric over trained frames or hours; a line for each method, and a band where it has several runs."""
    factor, axis = (1.0, "trained frames") if over == "frames" else _unit_of_time(runs)
    figure = new_figure(title, axis, unit)

    def line(run: Run) -> Line:
        x, y = run.frames if over == "frames" else factor * run.hours, run.column(metric)
        known = ~np.isnan(y)
        return _thinned(x[known], len(runs)), _thinned(y[known], len(runs))

    _draw_methods(figure, methods_of(runs), line, bands)
    mark_changes(figure, runs, lambda run, frames: frames if over == "frames" else float(np.interp(frames, run.frames, factor * run.hours)))
    figure.update_xaxes(rangemode="tozero")
    if unit in NEVER_NEGATIVE:
        figure.update_yaxes(rangemode="tozero")
    if top is not None:
        figure.update_yaxes(range=[0, top])
    return figure


def evaluation_curves(runs: Sequence[Run], title: str, *, bands: Bands = "range") -> go.Figure:
    """The mean score of every evaluation over the frames of its policy. One run alone is drawn with its evaluations' intervals."""
    figure = new_figure(title, "trained frames of the evaluated policy", "mean score")
    if len(runs) == 1 and runs[0].evaluations:
        results = runs[0].evaluations
        estimates = [each.score_mean for each in results]
        notes = [
            f"{min((t.n for t in each.tasks.values()), default=0)} episodes or more of each task, {each.protocol} {changed_text(each)}"
            for each in results
        ]
        figure.add_scatter(
            x=[each.step for each in results],
            y=[each.value for each in estimates],
            error_y=error_bars(estimates),
            mode="lines+markers",
            name=runs[0].name,
            showlegend=False,
            text=notes,
            line={"color": COLOURS[0]},
            hovertemplate="%{y:.3f}<br>%{text}",
        )
        subtitle(figure, "bars: 95 % intervals over episodes")
    else:

        def line(run: Run) -> Line:
            scores = [each.score_mean.value for each in run.evaluations]
            return np.array([each.step for each in run.evaluations], float), np.array(scores)

        _draw_methods(figure, methods_of(runs), line, bands)
    mark_changes(figure, runs)
    figure.update_xaxes(rangemode="tozero")
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


def mark_changes(figure: go.Figure, runs: Sequence[Run], place: Callable[[Run, int], float] = lambda run, frames: float(frames)) -> None:
    """A line where a resumed run changed its experiment, at the `place` on the axis of its frames at that time."""
    if len(runs) > FEW_RUNS:
        return
    for run in runs:
        for frames in run.changes:
            line = {"dash": "dot", "width": 1, "color": "#888888"}
            figure.add_vline(x=place(run, frames), line=line, annotation_text="changed", annotation_font_size=10)


def _draw_methods(figure: go.Figure, methods: Sequence[Method], line: Callable[[Run], Line], bands: Bands) -> None:
    """A line for each method with data: a run's own, or the mean of several with a band."""
    drawn = [(method, [points for run in method.runs if len((points := line(run))[0])]) for method in methods]
    banded = any(_in_common(lines) is not None for _, lines in drawn)
    # A mean lies between the points of its runs and has no markers, and then no line of the figure has.
    markers = not banded and all(len(x) <= FEW_POINTS for _, lines in drawn for x, _ in lines)
    for index, (method, lines) in enumerate(drawn):
        colour = COLOURS[index % len(COLOURS)]
        if (part := _in_common(lines)) is not None:
            start, stop = part
            grid = np.linspace(start, stop, POINTS)
            values = np.array([np.interp(grid, x, y) for x, y in lines])
            low, high = (values.min(0), values.max(0)) if bands == "range" else mean_band(values)
            add_band(figure, grid, values.mean(0), low, high, method.name, colour)
            continue
        for number, (x, y) in enumerate(lines):  # one run, or several that have no frames in common
            figure.add_scatter(
                x=x,
                y=y,
                name=method.name,
                legendgroup=method.name,
                showlegend=number == 0,
                line={"color": colour},
                mode="lines+markers" if markers or len(x) == 1 else "lines",
            )
    if banded:
        meaning = "lowest to highest" if bands == "range" else "95 % interval of the mean"
        subtitle(figure, f"line: mean over runs; band: {meaning}")
    with_legend(figure, len(methods) > 1 or len(methods[0].runs) > 1)


def _in_common(lines: Sequence[Line]) -> tuple[float, float] | None:
    """The first and last x that the lines of several runs have in common; None where they have none."""
    if len(lines) < 2:
        return None
    start, stop = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    return (start, stop) if start < stop else None


def _unit_of_time(runs: Sequence[Run]) -> tuple[float, str]:
    """What hours are multiplied by, and the name of the axis, so that short runs have readable numbers."""
    hours = max((float(run.hours[-1]) for run in runs if run.num_rows), default=0.0)
    factor, name = (3600.0, "seconds") if hours < 1 / 30 else (60.0, "minutes") if hours < 1 else (1.0, "hours")
    return factor, f"{name} of training"


def _thinned(values: np.ndarray, runs: int) -> np.ndarray:
    """At most `POINTS` values, evenly taken, where many runs share a figure."""
    if runs <= FEW_RUNS or len(values) <= POINTS:
        return values
    return values[np.linspace(0, len(values) - 1, POINTS).astype(int)]
