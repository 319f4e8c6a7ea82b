"""Which scheduler learns best: the same experiment under each, for several seeds with equal frames.

The runs are real ones in a folder: the measurement goes on after an interruption, and a page shows them with their shares over time. The
policies at the end are evaluated, as many episodes of each task. The scores of training are means over each task's last 100 episodes, which
are the newer the more of the frames the task had, so that they favour the scheduler that gives the most to the task in question.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig, override, read_scalar
from mtrl.curriculum import SCHEDULERS, make_scheduler
from mtrl.curriculum.evidence import WINDOW
from mtrl.curriculum.forgetting import MASTERED
from mtrl.dashboard.report import write_report
from mtrl.distributed.sweep import runs_of_seeds, train_side_by_side
from mtrl.evaluation.jobs import in_processes
from mtrl.evaluation.runner import evaluate_once
from mtrl.evaluation.statistics import mean_interval
from mtrl.machine import whole_cores
from mtrl.storage.run_directory import RunDirectory

REPORT_SECONDS = 2.0  # between two points of a curve, at most


class Outcome(NamedTuple):
    """One training run, by the evaluation of its last policy and by the curve of its training."""

    score: float  # mean over tasks, evaluated
    worst: float  # of the tasks, evaluated
    area: float  # under the curve of the mean score of training over frames, as a part of the budget
    frames_to_score: float  # until the mean score of training was first reached; infinite if it never was
    frames_to_mastery: float  # until every task was mastered at the same time; infinite if they never were


def compare(
    config: ExperimentConfig,
    schedulers: Sequence[str],
    seeds: int,
    folder: Path,
    *,
    score: float = 0.8,
    halving: bool = False,
    episodes: int | None = None,
) -> dict[str, list[Outcome]]:
    """Trains under each scheduler, evaluates every run, prints a table, and writes `folder/report.html`. Runs and evaluations that are in
    the folder already are kept.

    Args:
        config: the experiment.
        schedulers: names, which options may follow (`camrl:switch=false`); the first is the baseline of the differences.
        seeds: runs of each scheduler.
        folder: holds a folder of runs for each scheduler.
        score: count the frames until the mean score over tasks.
        halving: after 2, 4, … seeds keep the better half of the schedulers by area, and the baseline.
        episodes: of each task in the evaluation of a run; the protocol's number if None.

    Returns:
        the outcomes of each scheduler, by seed.

    Raises:
        ConfigError: a scheduler is unknown or lacks options; said before anything is trained.
    """
    plans = {name: override(config, _scheduler(name, config) | {"report_seconds": REPORT_SECONDS}) for name in schedulers}
    names = make_suite(config.suite.name).names
    for plan in plans.values():
        make_scheduler(plan.curriculum, names)
    curves: dict[str, list[TrainingCurve]] = {}
    left = list(plans)
    for count in rungs(seeds) if halving else [seeds]:
        runs = {name: runs_of_seeds(plans[name], range(count), folder / _folder_name(name)) for name in left}
        train_side_by_side({path: planned for of in runs.values() for path, planned in of.items()}, folder)
        for name in left:
            rows = [RunDirectory.open(path).read_metrics() for path in runs[name]]
            curves[name] = [curve_of(each, names, config.total_frames, score) for each in rows]
            print(f"{name}, {count} seeds: {_figure([each.area for each in curves[name]])} area", flush=True)
        if count < seeds:
            left = better_half({name: [each.area for each in curves[name]] for name in left}, left)
            print(f"after {count} seeds: {', '.join(left)} go on", flush=True)
    outcomes = {
        name: [Outcome(*_evaluated(path, episodes), *curve) for path, curve in zip(_paths(folder, name, len(found)), found, strict=True)]
        for name, found in curves.items()
    }
    print_table(outcomes, score)
    write_report([folder / _folder_name(name) for name in outcomes], folder / "report.html", bands="interval")
    print(f"curves and shares: {folder / 'report.html'}")
    return outcomes


class TrainingCurve(NamedTuple):
    """The last three figures of an `Outcome`."""

    area: float
    frames_to_score: float
    frames_to_mastery: float


def curve_of(rows: Sequence[dict[str, float]], names: Sequence[str], budget: int, score: float) -> TrainingCurve:
    """The figures of a run's lines of metrics. A task without an episode has a score of 0; a curve that ends before the budget stays where
    it is, and nothing counts as reached before each task's figures are means over `WINDOW` episodes.
    """
    rows = [row for row in rows if "summary/frames" in row and f"tasks/{names[0]}/frames" in row]
    frames = np.array([0.0, *(row["summary/frames"] for row in rows)])

    def column(figure: str) -> np.ndarray:
        return np.array([[0.0] * len(names), *([row.get(f"tasks/{name}/{figure}", 0.0) for name in names] for row in rows)])

    mean = column("score").mean(axis=1)
    if frames[-1] < budget:
        curve = (np.append(frames, budget), np.append(mean, mean[-1]))
    else:
        within = np.searchsorted(frames, budget)
        curve = (np.append(frames[:within], budget), np.append(mean[:within], np.interp(budget, frames, mean)))
    area = float(np.trapezoid(curve[1], curve[0]) / budget)
    known = column("episodes").min(axis=1) >= WINDOW
    mastered = column("success_rate").min(axis=1) >= MASTERED
    return TrainingCurve(area, _first(frames, known & (mean >= score)), _first(frames, known & mastered))


def rungs(seeds: int) -> list[int]:
    """Numbers of seeds after which schedulers are left out: 2, 4, … and all. One seed alone says too little."""
    found = [2]
    while found[-1] * 2 < seeds:
        found.append(found[-1] * 2)
    return [seeds] if seeds <= 2 else [*found, seeds]


def better_half(areas: dict[str, list[float]], left: Sequence[str]) -> list[str]:
    """The first of `left` and the better half of the others by their mean area, in their order."""
    baseline, *others = left
    ranked = sorted(others, key=lambda name: -float(np.mean(areas[name])))
    kept = set(ranked[: -(-len(ranked) // 2)])
    return [baseline, *(name for name in others if name in kept)]


def print_table(outcomes: dict[str, list[Outcome]], score: float) -> None:
    """Means over seeds, differences to the first scheduler under equal seeds with 95 % intervals, and medians of frames."""
    baseline = next(iter(outcomes.values()))
    columns = ("score", "worst", "area")
    heads = [f"{title:>24}" for column in columns for title in (column, f"{column}, difference")]
    print(f"\n{'scheduler':28} {'seeds':>5} {' '.join(heads)} {f'frames to {score:g}':>22} {'to mastery':>22}")
    for name, found in outcomes.items():
        cells = []
        for column in columns:
            ours, theirs = ([getattr(outcome, column) for outcome in each] for each in (found, baseline))
            pairs = [a - b for a, b in zip(ours, theirs, strict=False)]  # of the seeds that both have
            cells += [f"{_figure(ours):>24}", f"{_figure(pairs) if found is not baseline else '':>24}"]
        counts = [_median([outcome.frames_to_score for outcome in found]), _median([outcome.frames_to_mastery for outcome in found])]
        print(f"{name:28} {len(found):>5} {' '.join(cells)} {counts[0]:>22} {counts[1]:>22}")
    print(
        "score, worst: of the evaluated policies, mean over tasks and the task with the lowest score; area: mean score of training over the"
    )
    print("budget; differences: paired by seed, 95 % intervals; frames: medians in which a run that did not get there counts as infinite")


def _figure(values: Sequence[float]) -> str:
    return mean_interval(np.array(values)).text(3)


def _median(found: Sequence[float]) -> str:
    """The median over runs, and how many of them got there."""
    median, reached = np.median(found), np.isfinite(found).sum()
    return f"{f'{median:,.0f}' if np.isfinite(median) else 'never'} ({reached} of {len(found)})"


def _first(frames: np.ndarray, where: np.ndarray) -> float:
    return float(frames[where.argmax()]) if where.any() else math.inf


def _paths(folder: Path, name: str, count: int) -> list[Path]:
    return [folder / _folder_name(name) / f"seed-{seed}" for seed in range(count)]


def _evaluated(path: Path, episodes: int | None) -> tuple[float, float]:
    """The mean score and the lowest score of a task, by the last policy of a run."""
    results = evaluate_once(RunDirectory.open(path), episodes=episodes, players=in_processes(whole_cores()))
    print(f"{path.parent.name}/{path.name}: evaluated, mean score {results.score_mean.value:.3f}", flush=True)
    return results.score_mean.value, min(task.score.value for task in results.tasks.values())


def split_schedulers(text: str) -> list[str]:
    """The descriptions in a list `A,B:OPTION=VALUE,…`; commas within brackets belong to values."""
    return _split(text, ",")


def _split(text: str, separator: str) -> list[str]:
    """The parts of a text between separators that are not within brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _scheduler(text: str, config: ExperimentConfig) -> dict[str, Any]:
    """The changes to an experiment that `NAME:OPTION=VALUE:…` describes. The experiment's own scheduler keeps its options."""
    name, *options = _split(text, ":")
    if options and "=" not in options[0] and name not in SCHEDULERS:
        name = f"{name}:{options.pop(0)}"  # module:Class
    if not all("=" in option for option in options):
        raise ConfigError(f"--schedulers: options are written NAME:OPTION=VALUE, got {text!r}")
    found = {key: read_scalar(value) for key, _, value in (option.partition("=") for option in options)}
    own = config.curriculum.options if name == config.curriculum.scheduler else {}
    return {"curriculum.scheduler": name, "curriculum.options": {**own, **found}}


def _folder_name(scheduler: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.]+", "-", scheduler).strip("-")
