"""What templates need: figures as data, and the facts at the head of a run's page."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import plotly.graph_objects as go
import plotly.offline
import yaml
from markupsafe import Markup

from mtrl.config import ExperimentConfig, flatten
from mtrl.dashboard.aggregates import changed_text
from mtrl.dashboard.methods import as_written
from mtrl.dashboard.runs import Run
from mtrl.dashboard.summary import Summary

UNKNOWN = "–"
TALL = 600  # pixels of a figure, above which it has a row of the page to itself: beside it would be a hole
PASSING_FIELDS = ("name", "seed", "suite.name", "total_frames")  # shown by themselves


class Head(NamedTuple):
    """The facts at the head of a run's page."""

    run: Run
    summary: Summary
    facts: list[tuple[str, str]]
    options: list[tuple[str, str, str]]
    """Fields that differ from their defaults: name, value, default."""


def make_templates() -> jinja2.Environment:
    """The environment of all templates. Every name out of a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtrl.dashboard"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"figure": figure_html, "count": count, "duration": duration, "changed": changed_text}
    environment.filters |= {"cell": cell, "yaml": as_yaml}
    return environment


def standalone(template: str, title: str, **values: Any) -> str:
    """A page in one file, with style, script and Plotly in it, and the time at which it was made."""
    static = Path(__file__).parent / "static"
    return (
        make_templates()
        .get_template(template)
        .render(
            title=title,
            made=time.strftime("%Y-%m-%d %H:%M"),
            style=Markup((static / "style.css").read_text()),
            script=Markup((static / "figures.js").read_text()),
            plotly=Markup(plotly.offline.get_plotlyjs()),
            **values,
        )
    )


def figure_html(figure: go.Figure) -> Markup:
    """The figure as data, which the page's script draws when it comes into view. With `<` escaped no name can end the script."""
    content = figure.to_json().replace("<", "\\u003c")
    height = int(figure.layout.height or 0)
    wide = " wide" if height > TALL or (figure.layout.meta or {}).get("wide") else ""
    return Markup(f'<div class="plot{wide}" style="min-height:{height}px"></div><script type="application/json">{content}</script>')


def head_of(run: Run, summary: Summary) -> Head:
    """State, progress, scores, command and configuration of a run."""
    facts = [("state", summary.state + (f": {summary.reason}" if summary.reason else ""))]
    facts.append(("experiment", summary.experiment or UNKNOWN))
    facts.append(("seed", UNKNOWN if summary.seed is None else str(summary.seed)))
    facts.append(("suite", summary.suite or UNKNOWN))
    facts.append(("tasks", str(len(run.tasks))))
    share = "" if summary.progress is None else f" ({summary.progress:.0%} of {summary.total_frames:,.0f})"
    facts.append(("frames", f"{count(summary.frames)}{share}"))
    hours = float(run.hours[-1]) if run.num_rows else None
    speed = "" if summary.frames_per_second is None else f", {summary.frames_per_second:,.0f} frames/s in the last report"
    if run.num_rows and not math.isnan(first := float(run.column("time")[0])):
        facts.append(("first report", time.strftime("%Y-%m-%d %H:%M", time.localtime(first))))
    facts.append(("training time", ("–" if hours is None else duration(3600 * hours)) + speed))
    if summary.seconds_left is not None:
        facts.append(("time left", duration(summary.seconds_left)))
    score = run.last("summary/score_mean")
    facts.append(("training score", UNKNOWN if score is None else f"{score:.3f}"))
    if run.evaluations:
        newest = run.evaluations[-1]
        rules = f"{newest.protocol}{' but ' + changed_text(newest) if newest.changed else ''}"
        facts.append(("evaluated score", f"{newest.score_mean.text(3)} at {newest.step:,} frames, {rules}"))
    else:
        facts.append(("evaluated score", f"none yet: python launch.py evaluate {run.path}"))
    if run.unseen is not None and run.unseen.unseen_score_mean is not None:
        tasks = ", ".join(f"{name} {row.score.text()}" for name, row in run.unseen.tasks.items() if row.unseen)
        facts.append(("score on tasks not trained", f"{run.unseen.unseen_score_mean.text(3)} at {run.unseen.step:,} frames: {tasks}"))
    faults = {task: run.last(f"tasks/{task}/faults") or 0.0 for task in run.tasks}
    if any(faults.values()):
        facts.append(("faults", ", ".join(f"{task} {number:,.0f}" for task, number in faults.items() if number)))
    if command := run.state.get("command"):
        facts.append(("command", str(command)))
    facts.append(("commit", str(run.versions.get("commit", UNKNOWN))))
    if summary.tags:
        facts.append(("tags", ", ".join(summary.tags)))
    return Head(run, summary, facts, options_of(run))


def options_of(run: Run) -> list[tuple[str, str, str]]:
    """The fields of the experiment that differ from their defaults: name, value and default."""
    defaults = flatten(ExperimentConfig().model_dump())
    found = []
    for name, value in flatten(run.config).items():
        default = as_written(defaults[name]) if name in defaults else "not set"
        if name not in PASSING_FIELDS and as_written(value) != default:
            found.append((name, as_written(value), default))
    return found


def cell(value: Any) -> str:
    """The value of a field or metric in a table."""
    return UNKNOWN if value is None else f"{value:.4g}" if isinstance(value, float) else as_written(value)


def as_yaml(config: dict[str, Any]) -> str:
    """An experiment as its file has it."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True) if config else UNKNOWN


def count(value: float | None) -> str:
    """A whole number with separators, or a dash."""
    return UNKNOWN if value is None or math.isnan(value) else f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """A time such as `45 s`, `12 min` or `3 h 20 min`."""
    if seconds is None or not math.isfinite(seconds):
        return UNKNOWN
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
