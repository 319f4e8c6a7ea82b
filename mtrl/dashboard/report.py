"""One HTML file about one run or several: nothing to install, nothing fetched from the network."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mtrl.dashboard.aggregates import by_tasks, compare
from mtrl.dashboard.curves import Bands
from mtrl.dashboard.methods import distinct_names
from mtrl.dashboard.overview import changes, differences, overview_figures, run_figures
from mtrl.dashboard.page import standalone
from mtrl.dashboard.runs import Run, read_run
from mtrl.errors import UserError
from mtrl.evaluation.results import EvaluationResults
from mtrl.storage.layout import RunLayout
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
    changes: list[tuple[int, list[tuple[str, list[str]]]]]
    """Changes of the experiment by resumed runs, see `overview.changes`."""


def write_report(paths: Sequence[Path], output: Path, bands: Bands = "range") -> list[Run]:
    """Reads the runs in `paths`, and those in folders of `paths` that hold runs, and writes `output`.

    Returns:
        the runs, with what could not be read of each.

    Raises:
        UserError: a folder does not exist or holds no run, or the file cannot be written.
    """
    found = [run for path in paths for run in _runs_in(path)]
    runs = [read_run(path, name) for path, name in zip(found, distinct_names(found), strict=True)]
    try:
        if output.exists() and not output.is_file():  # a pipe, such as /dev/stdout
            output.write_text(render(runs, bands), encoding="utf-8")
        else:
            replace_text(output, render(runs, bands))
    except OSError as error:
        raise UserError(f"cannot write {output}: {error.strerror}") from None
    return runs


def render(runs: Sequence[Run], bands: Bands = "range") -> str:
    """The page. Every name out of a run is escaped."""
    comparisons = compare(runs)
    return standalone(
        "report.html",
        runs[0].name if len(runs) == 1 else f"Comparison of {len(runs)} runs",
        rows=[_row(run) for run in runs],
        task_sets=len(by_tasks(runs)),
        comparisons=comparisons,
        videos={run.name: videos for run in runs if (videos := _inlined(run))},
        captions={run.name: run.captions for run in runs},
        overview=overview_figures(runs, comparisons, bands),
        details=[(run, run_figures(run)) for run in runs] if len(runs) <= 5 else [],
        differences=differences(runs),
        versions=_versions(runs),
    )


def _runs_in(path: Path) -> list[Path]:
    """The run in a folder, or the runs in its subfolders, such as those of a sweep.

    Raises:
        UserError: there is no such folder.
    """
    if not path.is_dir():
        raise UserError(f"there is no run directory {path}")
    layout = RunLayout(path)
    if layout.config.exists() or layout.metrics.exists():
        return [path]
    inner = sorted(entry for entry in path.iterdir() if entry.is_dir() and RunLayout(entry).config.exists())
    if not inner and not any(path.iterdir()):
        raise UserError(f"there is no run in {path}")
    return inner or [path]


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
        changes=changes(run),
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
