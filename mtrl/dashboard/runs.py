"""Reading a run's folder without trusting it: what is missing or damaged is said, and the rest is shown.

Nothing here loads tensors or objects; YAML is read by the safe loader and everything else is JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtrl.config import DamagedFileError, check_seal
from mtrl.storage.run_directory import video_file

MAX_POINTS = 600  # of one curve in a page
TAIL_BYTES = 2**17  # of metrics, in which the newest line is looked for


@dataclass
class Run:
    """One run as far as it could be read."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics by name, over lines that are evenly thinned; NaN where a line lacks one. All have the same length."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    """Results without their episodes, the newest checkpoint last."""
    videos: dict[str, Path] = field(default_factory=dict)
    """The newest video of each task."""
    problems: list[str] = field(default_factory=list)
    """What could not be read, a sentence each."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of the metrics."""
        return [key.split("/")[1] for key in self.columns if key.startswith("tasks/") and key.endswith("/frames")]

    @property
    def num_rows(self) -> int:
        """How many lines of metrics there are."""
        return len(next(iter(self.columns.values()), ()))

    @property
    def rows(self) -> list[dict[str, float]]:
        """The lines of metrics."""
        return [
            {name: float(values[i]) for name, values in self.columns.items() if not math.isnan(values[i])} for i in range(self.num_rows)
        ]

    def last(self, metric: str) -> float | None:
        """The newest value of a metric; None if there is none."""
        values = self.column(metric)
        known = values[~np.isnan(values)]
        return float(known[-1]) if len(known) else None

    @property
    def group(self) -> str:
        """What runs that differ in nothing but their seed have in common."""
        return json.dumps({key: value for key, value in self.config.items() if key != "seed"}, sort_keys=True, default=str)

    def column(self, metric: str) -> np.ndarray:
        """One metric over the rows; NaN where a row lacks it."""
        return self.columns.get(metric, np.full(self.num_rows, np.nan))

    @property
    def frames(self) -> np.ndarray:
        """Trained frames at each row."""
        return self.column("summary/frames")

    @property
    def hours(self) -> np.ndarray:
        """Wall-clock time at each row since the first, without the time between a stop and a resumption that exceeds ten minutes."""
        times = self.column("time")
        steps = np.diff(times, prepend=times[:1])
        return np.cumsum(np.where(steps > 600, 0.0, steps)) / 3600


def read_run(path: Path) -> Run:
    """Everything of a run that can be read. Never raises for what is in the folder."""
    run = Run(path)
    run.config = _mapping(run, "config.yaml", yaml.safe_load)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        try:
            check_seal(_text(path, "config.yaml"), path)
        except DamagedFileError:
            run.problems.append("config.yaml is damaged or was changed since it was written")
    run.versions = _mapping(run, "versions.json", json.loads)
    run.columns = _metrics(run)
    for task in run.tasks:
        if run.last(f"tasks/{task}/quarantined") == 1:
            faults = run.last(f"tasks/{task}/faults") or 0
            run.problems.append(f"{task} is left out for now: its environments keep failing ({faults:.0f} faults so far)")
    results = path / "evaluation"
    steps = (
        sorted((entry for entry in results.iterdir() if entry.name.isdigit()), key=lambda entry: int(entry.name))
        if results.is_dir()
        else []
    )
    for step in steps:
        found = _mapping(run, f"evaluation/{step.name}/results.json", _figures)
        if _is_evaluation(found):
            run.evaluations.append(found)
        elif found:
            run.problems.append(f"evaluation/{step.name}/results.json is no evaluation")
    for step in steps:
        run.videos |= videos_of(step, run.tasks)
    return run


def videos_of(evaluation: Path, tasks: Sequence[str]) -> dict[str, Path]:
    """The videos in one evaluation's folder, by task. Links are left out."""
    found = {task: evaluation / "video" / video_file(task) for task in tasks}
    return {task: path for task, path in found.items() if path.is_file() and path.resolve() == path.absolute()}


def last_row(path: Path) -> dict[str, float]:
    """The newest whole line of a run's metrics; empty where there is none."""
    try:
        with inside(path, "metrics.jsonl").open("rb") as stream:
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - TAIL_BYTES))
            lines = stream.read().splitlines()
    except OSError:
        return {}
    return next((row for line in reversed(lines) if (row := _row(line)) is not None), {})


def evaluation_of(path: Path) -> dict[str, Any] | None:
    """The newest evaluation that is whole."""
    folder = path / "evaluation"
    steps = sorted((entry.name for entry in folder.iterdir() if entry.name.isdigit()), key=int, reverse=True) if folder.is_dir() else []
    for step in steps:
        results = _mapping(Run(path), f"evaluation/{step}/results.json", _figures)
        if _is_evaluation(results):
            return results
    return None


def episodes_of(path: Path, results: dict[str, Any]) -> list[Any]:
    """The episodes of an evaluation of the run in `path`; empty where they cannot be read."""
    step = str(results["step"])
    try:
        # The step is what the file says of itself: anything but a number would be a way to other folders.
        episodes = json.loads(_text(path, f"evaluation/{int(step)}/results.json"))["episodes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return episodes if isinstance(episodes, list) else []


def _text(run: Path, file: str) -> str:
    return inside(run, file).read_text()


def inside(run: Path, file: str) -> Path:
    """A file of a run, unless it is a link to somewhere else: PermissionError."""
    path = run / file
    if not path.resolve().is_relative_to(run.resolve()):
        raise PermissionError(f"{file} leads out of the run")
    return path


def _mapping(run: Run, file: str, parse: Any) -> dict[str, Any]:
    try:
        values = parse(_text(run.path, file))
    except FileNotFoundError:
        run.problems.append(f"{file} is missing")
        return {}
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        run.problems.append(f"{file} cannot be read ({type(error).__name__})")
        return {}
    if not isinstance(values, dict):
        run.problems.append(f"{file} is not a mapping")
        return {}
    return values


def _figures(text: str) -> Any:
    """Results without their episodes, which come last and are nearly all of the text."""
    head, found, _ = text.partition(',\n "episodes": [')
    if found:
        with contextlib.suppress(ValueError):
            return json.loads(head + "}")
    values = json.loads(text)
    if isinstance(values, dict):
        values.pop("episodes", None)
    return values


def _metrics(run: Run) -> dict[str, np.ndarray]:
    try:
        lines = inside(run.path, "metrics.jsonl").read_bytes().splitlines()
    except OSError as error:
        run.problems.append("metrics.jsonl is missing" if isinstance(error, FileNotFoundError) else "metrics.jsonl cannot be read")
        return {}
    # Thinned before it is parsed: a week of training is a gigabyte of JSON, and a curve has a few hundred points.
    kept = lines if len(lines) <= MAX_POINTS else [lines[i] for i in np.linspace(0, len(lines) - 1, MAX_POINTS).astype(int)]
    rows, damaged = [], 0
    for line in kept:
        row = _row(line)
        if row is None:
            damaged += 1
        else:
            rows.append(row)
    if damaged:
        run.problems.append(f"metrics.jsonl has {damaged} damaged line{'s' if damaged > 1 else ''}")
    # As columns of numbers: a dictionary for each line takes thirty times the memory.
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


def _row(line: bytes) -> dict[str, float] | None:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(values, dict) or not isinstance(values.get("summary/frames"), int | float):
        return None
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float) and abs(value) < 1e300}


def _is_evaluation(results: dict[str, Any]) -> bool:
    """Whether everything that pages show is there, and of its kind."""
    try:
        for figures in [results["score_mean"], *(task[kind] for task in results["tasks"].values() for kind in ("score", "success_rate"))]:
            [float(figures[bound]) for bound in ("value", "low", "high")]
        for task in results["tasks"].values():
            [float(task[name]) for name in ("n", "return_mean", "length_mean")]
        return isinstance(results["protocol"], str) and {"step", "backend", "sampled_actions", "changed"} <= set(results)
    except (KeyError, TypeError, ValueError, AttributeError):
        return False
