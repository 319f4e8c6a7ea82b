"""One HTML file about one run or several: nothing to install, nothing fetched from the network."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline
from markupsafe import Markup

from mtrl.dashboard.aggregates import Comparison, compare
from mtrl.dashboard.figures import curves, expert_weights, heat_map, profiles, task_curves
from mtrl.dashboard.runs import Run, read_run
from mtrl.errors import UserError

FILM_BYTES = 20 * 2**20  # of one run's films in a page


class Row(NamedTuple):
    """A line of the summary."""

    run: Run
    frames: int | None
    hours: float | None
    frames_per_second: float | None
    training_score: float | None
    evaluation: dict[str, Any] | None  # the newest


def write_report(paths: Sequence[Path], output: Path) -> list[Run]:
    """Reads the runs in `paths` and writes `output`.

    Returns:
        the runs, with what could not be read of each.

    Raises:
        UserError: a folder does not exist, or the file cannot be written.
    """
    for path in paths:
        if not path.is_dir():
            raise UserError(f"there is no run directory {path}")
    runs = [read_run(path) for path in paths]
    try:
        output.write_text(render(runs), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
    return runs


def render(runs: Sequence[Run]) -> str:
    """The page. Every name out of a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtrl.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    comparison = compare(runs)
    return environment.get_template("report.html").render(
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        made=time.strftime("%Y-%m-%d %H:%M"),
        rows=[_row(run) for run in runs],
        tasks=_tasks(runs),
        comparison=comparison,
        films={run.name: films for run in runs if (films := _inlined(run))},
        overview=[_html(figure) for figure in _overview(runs, comparison)],
        details=[(run, [_html(figure) for figure in _details(run)]) for run in runs] if len(runs) <= 5 else [],
        differences=differences(runs),
        versions=_versions(runs),
        style=Markup((Path(__file__).parent / "static" / "style.css").read_text()),
        plotly=Markup(plotly.offline.get_plotlyjs()),
    )


def figures_of(runs: Sequence[Run]) -> list[go.Figure]:
    """All figures about the runs; those of single tasks for one run alone."""
    return _overview(runs, compare(runs)) + (_details(runs[0]) if len(runs) == 1 else [])


def differences(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """The fields in which the runs' experiments differ, each with the runs' values."""
    flat = [_flatten(run.config) for run in runs]
    names = sorted({name for values in flat for name in values})
    table = [(name, [str(values.get(name, "not set")) for values in flat]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def _row(run: Run) -> Row:
    speeds = run.column("summary/frames_per_second")
    known = speeds[~np.isnan(speeds)]
    return Row(
        run=run,
        frames=int(run.frames[-1]) if run.num_rows else None,
        hours=float(run.hours[-1]) if run.num_rows else None,
        frames_per_second=float(np.median(known)) if len(known) else None,
        training_score=run.last("summary/score_mean"),
        evaluation=run.evaluations[-1] if run.evaluations else None,
    )


def _tasks(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def _overview(runs: Sequence[Run], comparison: Comparison | None) -> list[go.Figure]:
    figures = [
        curves(runs, "summary/score_mean", "Mean score of training episodes", "score", top=1.02),
        curves(runs, "summary/score_mean", "The same over wall-clock time", "score", over="hours", top=1.02),
    ]
    tasks = _tasks(runs)
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


def _details(run: Run) -> list[go.Figure]:
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
    if run.evaluations and task in run.evaluations[-1]["tasks"]:
        return float(run.evaluations[-1]["tasks"][task]["score"]["value"])
    score = run.last(f"tasks/{task}/score")
    return np.nan if score is None else score


def _inlined(run: Run) -> dict[str, str]:
    """Films as data addresses, while they fit: a page of a hundred megabytes opens nowhere."""
    found, room = {}, FILM_BYTES
    for task, path in run.films.items():
        content = path.read_bytes()
        room -= len(content)
        if room >= 0:
            found[task] = "data:video/mp4;base64," + base64.b64encode(content).decode()
    return found


def _distinct(names: list[str]) -> list[str]:
    """Names with a number where two are the same: a heat map would put them into one column."""
    return [f"{name} #{i + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _versions(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return [(name, [str(run.versions.get(name, "unknown")) for run in runs]) for name in names]


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def _html(figure: go.Figure) -> Markup:
    """The figure as data, which the page's script draws when it comes into view. With `<` escaped no name can end the script."""
    content = figure.to_json().replace("<", "\\u003c")
    return Markup(f'<div class="plot"></div><script type="application/json">{content}</script>')
