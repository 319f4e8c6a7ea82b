"""One HTML file about one run or several: nothing to install, nothing fetched from the network."""

from __future__ import annotations

import base64
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
import plotly.graph_objects as go
import plotly.offline
from markupsafe import Markup

from mtrl.dashboard.aggregates import compare
from mtrl.dashboard.overview import all_tasks, differences, overview_figures, run_figures
from mtrl.dashboard.runs import Run, read_run
from mtrl.errors import UserError
from mtrl.evaluation.results import EvaluationResults
from mtrl.storage.sealed import replace_text

VIDEO_BYTES = 20 * 2**20  # of one run's videos in a page


class Row(NamedTuple):
    """A line of the summary."""

    run: Run
    frames: int | None
    hours: float | None
    frames_per_second: float | None
    training_score: float | None
    evaluation: EvaluationResults | None  # the newest


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
        if output.exists() and not output.is_file():  # a pipe, such as /dev/stdout
            output.write_text(render(runs), encoding="utf-8")
        else:
            replace_text(output, render(runs))
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
        tasks=all_tasks(runs),
        comparison=comparison,
        videos={run.name: videos for run in runs if (videos := _inlined(run))},
        overview=[_html(figure) for figure in overview_figures(runs, comparison)],
        details=[(run, [_html(figure) for figure in run_figures(run)]) for run in runs] if len(runs) <= 5 else [],
        differences=differences(runs),
        versions=_versions(runs),
        style=Markup((Path(__file__).parent / "static" / "style.css").read_text()),
        plotly=Markup(plotly.offline.get_plotlyjs()),
    )


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


def _inlined(run: Run) -> dict[str, str]:
    """Films as data addresses, while they fit: a page of a hundred megabytes opens nowhere."""
    found, room = {}, VIDEO_BYTES
    for task, path in run.videos.items():
        content = path.read_bytes()
        room -= len(content)
        if room >= 0:
            found[task] = "data:video/mp4;base64," + base64.b64encode(content).decode()
    return found


def _versions(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    names = dict.fromkeys(name for run in runs for name in run.versions)
    return [(name, [str(run.versions.get(name, "unknown")) for run in runs]) for name in names]


def _html(figure: go.Figure) -> Markup:
    """The figure as data, which the page's script draws when it comes into view. With `<` escaped no name can end the script."""
    content = figure.to_json().replace("<", "\\u003c")
    return Markup(f'<div class="plot"></div><script type="application/json">{content}</script>')
