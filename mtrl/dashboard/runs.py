"""Reading a run's folder without trusting it: what is missing or damaged is said, and the rest is shown.

Nothing here loads tensors or objects; YAML is read by the safe loader and everything else is JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mtrl.config import DamagedFileError, check_seal
from mtrl.dashboard.newest import inside, parse_row
from mtrl.evaluation.results import EvaluationResults, ResultsError
from mtrl.storage.layout import UNSEEN_RESULTS, RunLayout

SAFE_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
MAX_POINTS = 600  # of one curve in a page
PAUSE_SECONDS = 600.0  # between two rows, above which the run was not training
MOST_NOTE = 20_000  # characters
PART_BYTES = 2**15  # of results, read at a time
EPISODES = ',\n "episodes": ['  # in results, before what pages do not show


@dataclass
class Run:
    """One run as far as it could be read."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Metrics by name, over lines that are evenly thinned; NaN where a line lacks one. All have the same length."""
    evaluations: list[EvaluationResults] = field(default_factory=list)
    """Results without their episodes, the newest checkpoint last."""
    unseen: EvaluationResults | None = None
    """The newest evaluation with tasks that the policy was not trained on."""
    videos: dict[str, Path] = field(default_factory=dict)
    """The newest video of each task."""
    captions: dict[str, str] = field(default_factory=dict)
    """What happens in that video."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each file that could not be read."""
    changes: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Experiments that were trained before a resumed run changed them, by the frames until which they were."""
    state: dict[str, Any] = field(default_factory=dict)
    """The content of `state.json`; empty for runs of former versions."""
    note: str = ""
    """What a person wrote about it in `note.md`."""
    name: str = ""
    """What pages call it: the folder's name, or more of its path where several runs have the same."""

    def __post_init__(self) -> None:
        self.name = self.name or self.path.name

    @property
    def tasks(self) -> list[str]:
        """The tasks' names, in the order of the metrics."""
        return [key.split("/")[1] for key in self.columns if key.startswith("tasks/") and key.endswith("/frames")]

    @property
    def num_rows(self) -> int:
        """The number of lines of metrics."""
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
        """The method of the run: equal for runs that differ only in their seed."""
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
        """Hours of training at each row, from the start of the run."""
        logged, estimated = self.column("summary/hours"), self._estimated_hours()
        known = ~np.isnan(logged)
        if not known.any():
            return estimated
        first = int(known.argmax())  # rows before it were written by a former version
        filled = np.maximum.accumulate(np.where(known, logged, -np.inf)[first:])
        if first and filled[0] < estimated[first - 1]:  # a run of a former version that was resumed counts from there
            filled = filled + estimated[first - 1]
        return np.concatenate([estimated[:first], filled])

    def _estimated_hours(self) -> np.ndarray:
        """From the rows' times of day: pauses of more than ten minutes do not count, and the speed of the first row says when it began."""
        times = self.column("time")
        if not len(times):
            return times
        steps = np.diff(times, prepend=times[:1])
        speed = self.column("summary/frames_per_second")[0]
        before = self.frames[0] / speed if speed > 0 else 0.0
        return (before + np.cumsum(np.where(steps > PAUSE_SECONDS, 0.0, steps))) / 3600


def read_run(path: Path, name: str = "") -> Run:
    """Everything of a run that can be read. Never raises for what is in the folder."""
    run = Run(path, name=name)
    layout = RunLayout(path)
    run.config = _mapping(run, layout.config, _read_yaml)
    with contextlib.suppress(OSError, UnicodeDecodeError):
        try:
            check_seal(_text(path, layout.config), path)
        except DamagedFileError:
            run.problems.append("config.yaml is damaged or was changed since it was written")
    run.changes = {frames: _mapping(run, file, _read_yaml) for frames, file in layout.archived_configs().items()}
    run.versions = _mapping(run, layout.versions, _read_json)
    run.columns = _metrics(run)
    run.state, run.note = read_state(path), read_note(path)
    for task in run.tasks:
        if run.last(f"tasks/{task}/quarantined") == 1:
            faults = run.last(f"tasks/{task}/faults") or 0
            run.problems.append(f"{task} is left out for now: its environments keep failing ({faults:.0f} faults so far)")
    for step in layout.evaluated_steps():
        if layout.results(step).exists() or not _unfinished(layout.evaluation(step)):
            results = _evaluation(run, layout.results(step))
            if results is not None:
                run.evaluations.append(results)
        if layout.unseen_results(step).exists():
            run.unseen = _evaluation(run, layout.unseen_results(step)) or run.unseen
        videos = videos_of(layout, step, run.tasks)
        run.videos |= videos
        run.captions |= {task: caption_of(path) for task, path in videos.items()}
    return run


def videos_of(layout: RunLayout, step: int, tasks: Sequence[str]) -> dict[str, Path]:
    """The videos of one evaluation, by task. Links are left out."""
    found = {task: layout.video(step, task) for task in tasks}
    return {task: path for task, path in found.items() if path.is_file() and path.resolve() == path.absolute()}


def caption_of(video: Path) -> str:
    """The outcome of the episode in a video, and how fast it is shown; that it is one episode where there is nothing else known."""
    path = video.with_suffix(".json")
    try:
        if path.resolve() != path.absolute():  # a link may lead anywhere
            return "one episode"
        outcome = json.loads(path.read_text(encoding="utf-8"))
        result = "success" if outcome["success"] else "no success"
        speed = f"{outcome['steps_per_second']:.3g} steps a second"
        return f"{result}, return {outcome['episode_return']:.3g} in {outcome['steps']:,} steps, {speed}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "one episode"


def read_state(path: Path) -> dict[str, Any]:
    """Whether the run in `path` trains, or how it ended; empty where it does not say so."""
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads(_text(path, RunLayout(path).state))
        if isinstance(values, dict):
            return values
    return {}


def read_note(path: Path) -> str:
    """What a person wrote about the run in `path`."""
    with contextlib.suppress(OSError, ValueError):
        return _text(path, RunLayout(path).note)[:MOST_NOTE]
    return ""


def evaluation_of(path: Path) -> EvaluationResults | None:
    """The newest evaluation that is whole, without its episodes."""
    layout = RunLayout(path)
    found = (_evaluation(Run(path), layout.results(step)) for step in reversed(layout.evaluated_steps()))
    return next((results for results in found if results is not None), None)


def _unfinished(path: Path) -> bool:
    """Whether an evaluation without results is only not finished yet, was interrupted, or was of tasks that were not trained."""
    return any(path.glob("unfinished-*")) or any(path.glob("*.log")) or (path / UNSEEN_RESULTS).exists()


def episodes_of(path: Path, results: EvaluationResults) -> list[Any]:
    """The episodes of an evaluation of the run in `path`; empty where they cannot be read."""
    try:
        episodes = json.loads(_text(path, RunLayout(path).results(results.step)))["episodes"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []
    return episodes if isinstance(episodes, list) else []


def _text(run: Path, path: Path) -> str:
    return inside(run, path).read_text()


def _evaluation(run: Run, path: Path) -> EvaluationResults | None:
    """The results in a file, without their episodes; a file that has none is one of the run's problems."""
    values = _mapping(run, path, _without_episodes)
    if not values:
        return None
    try:
        return EvaluationResults.from_json(values)
    except ResultsError:
        run.problems.append(f"{path.relative_to(run.path)} is no evaluation")
        return None


def _mapping(run: Run, path: Path, read: Callable[[Path], Any]) -> dict[str, Any]:
    file = path.relative_to(run.path)
    try:
        values = read(inside(run.path, path))
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


def _read_yaml(path: Path) -> Any:
    return yaml.load(path.read_text(), Loader=SAFE_LOADER)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def _without_episodes(path: Path) -> Any:
    """Results without their episodes, which come last and are nearly all of the file."""
    text = ""
    with path.open(encoding="utf-8") as stream:
        while part := stream.read(PART_BYTES):
            text += part
            head, found, _ = text.partition(EPISODES)
            if found:
                with contextlib.suppress(ValueError):
                    return json.loads(head + "}")
                text += stream.read()
    values = json.loads(text)
    if isinstance(values, dict):
        values.pop("episodes", None)
    return values


def _metrics(run: Run) -> dict[str, np.ndarray]:
    try:
        lines = inside(run.path, RunLayout(run.path).metrics).read_bytes().splitlines()
    except OSError as error:
        run.problems.append("metrics.jsonl is missing" if isinstance(error, FileNotFoundError) else "metrics.jsonl cannot be read")
        return {}
    # Thinned before it is parsed: a week of training is a gigabyte of JSON, and a curve has a few hundred points.
    kept = lines if len(lines) <= MAX_POINTS else [lines[i] for i in np.linspace(0, len(lines) - 1, MAX_POINTS).astype(int)]
    rows, damaged = [], 0
    for line in kept:
        row = parse_row(line)
        if row is None:
            damaged += 1
        else:
            rows.append(row)
    if damaged:
        run.problems.append(f"metrics.jsonl has {damaged} damaged line{'s' if damaged > 1 else ''}")
    # As columns of numbers: a dictionary for each line takes thirty times the memory.
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}
