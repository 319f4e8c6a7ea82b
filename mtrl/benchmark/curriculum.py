"""Which scheduler learns best: the same experiment under each, for several seeds with equal frames.

The runs are real ones in a folder: the measurement goes on after an interruption, and a page shows them with their shares over time.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig, override, read_scalar
from mtrl.curriculum import SCHEDULERS, make_scheduler
from mtrl.curriculum.forgetting import MASTERED
from mtrl.dashboard.report import write_report
from mtrl.distributed.sweep import runs_of_seeds, train_side_by_side
from mtrl.evaluation.statistics import mean_interval
from mtrl.storage.run_directory import RunDirectory

REPORT_SECONDS = 2.0  # between two points of a curve, at most


class Outcome(NamedTuple):
    """One training run. Scores are those of the tasks' last 100 training episodes; a task without an episode has 0."""

    area: float  # under the curve of the mean score over frames, as a part of the budget
    score: float  # mean over tasks at the end
    worst: float  # of the tasks at the end
    frames_to_score: int | None  # until the mean score was first reached; None if it never was
    frames_to_mastery: int | None  # until every task was mastered at the same time; None if they never were


def compare(
    config: ExperimentConfig, schedulers: Sequence[str], seeds: int, folder: Path, *, score: float = 0.8, halving: bool = False
) -> dict[str, list[Outcome]]:
    """Trains under each scheduler, prints a table, and writes `folder/report.html`. Runs that are in the folder already are kept.

    Args:
        config: the experiment.
        schedulers: names, which options may follow (`camrl:switch=false`); the first is the baseline of the differences.
        seeds: runs of each scheduler.
        folder: holds a folder of runs for each scheduler.
        score: count the frames until the mean score over tasks.
        halving: after 1, 2, 4, … seeds keep the better half of the schedulers by area, and the baseline.

    Returns:
        the outcomes of each scheduler, by seed.

    Raises:
        ConfigError: a scheduler is unknown or lacks options; said before anything is trained.
    """
    plans = {name: override(config, _scheduler(name) | {"report_seconds": REPORT_SECONDS}) for name in schedulers}
    names = make_suite(config.suite.name).names
    for plan in plans.values():
        make_scheduler(plan.curriculum, names)
    outcomes: dict[str, list[Outcome]] = {}
    left = list(plans)
    for count in rungs(seeds) if halving else [seeds]:
        runs = {name: runs_of_seeds(plans[name], range(count), folder / _folder_name(name)) for name in left}
        train_side_by_side({path: planned for of in runs.values() for path, planned in of.items()}, folder)
        for name in left:
            rows = [RunDirectory.open(path).read_metrics() for path in runs[name]]
            outcomes[name] = [outcome_of(each, names, config.total_frames, score) for each in rows]
            print(f"{name}, {count} seeds: {_figure([each.area for each in outcomes[name]])} area", flush=True)
        if count < seeds:
            left = better_half(outcomes, left)
            print(f"after {count} seeds: {', '.join(left)} go on", flush=True)
    print_table(outcomes, score)
    write_report([folder / _folder_name(name) for name in outcomes], folder / "report.html", bands="interval")
    print(f"curves and shares: {folder / 'report.html'}")
    return outcomes


def outcome_of(rows: Sequence[dict[str, float]], names: Sequence[str], budget: int, score: float) -> Outcome:
    """The figures of a run's lines of metrics. A curve that ends before the budget stays where it is."""
    rows = [row for row in rows if "summary/frames" in row and f"tasks/{names[0]}/frames" in row]
    frames = np.array([0.0, *(row["summary/frames"] for row in rows)])
    scores = np.array([[0.0] * len(names), *([row.get(f"tasks/{name}/score", 0.0) for name in names] for row in rows)])
    rates = np.array([[0.0] * len(names), *([row.get(f"tasks/{name}/success_rate", 0.0) for name in names] for row in rows)])
    mean = scores.mean(axis=1)
    if frames[-1] < budget:
        curve = (np.append(frames, budget), np.append(mean, mean[-1]))
    else:
        within = np.searchsorted(frames, budget)
        curve = (np.append(frames[:within], budget), np.append(mean[:within], np.interp(budget, frames, mean)))
    area = float(np.trapezoid(curve[1], curve[0]) / budget)
    mastered = rates.min(axis=1) >= MASTERED
    return Outcome(area, float(mean[-1]), float(scores[-1].min()), _first(frames, mean >= score), _first(frames, mastered))


def rungs(seeds: int) -> list[int]:
    """Numbers of seeds after which schedulers are left out: 1, 2, 4, … and all."""
    found = [1]
    while found[-1] * 2 < seeds:
        found.append(found[-1] * 2)
    return found if seeds == 1 else [*found, seeds]


def better_half(outcomes: dict[str, list[Outcome]], left: Sequence[str]) -> list[str]:
    """The first of `left` and the better half of the others by their mean area, in their order."""
    baseline, *others = left
    ranked = sorted(others, key=lambda name: -float(np.mean([each.area for each in outcomes[name]])))
    kept = set(ranked[: -(-len(ranked) // 2)])
    return [baseline, *(name for name in others if name in kept)]


def print_table(outcomes: dict[str, list[Outcome]], score: float) -> None:
    """Means over seeds, differences to the first scheduler under equal seeds with 95 % intervals, and medians of frames."""
    baseline = next(iter(outcomes.values()))
    columns = ("area", "score", "worst")
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
    print("area: mean score over the budget; worst: the task with the lowest score at the end; differences: paired by seed, 95 % intervals")


def _figure(values: Sequence[float]) -> str:
    return mean_interval(np.array(values)).text(3)


def _median(found: Sequence[int | None]) -> str:
    """The median of the runs that got there, and how many did."""
    reached = [frames for frames in found if frames is not None]
    return f"{np.median(reached):,.0f} ({len(reached)} of {len(found)})" if reached else f"never (0 of {len(found)})"


def _first(frames: np.ndarray, where: np.ndarray) -> int | None:
    return int(frames[where.argmax()]) if where.any() else None


def _scheduler(text: str) -> dict[str, Any]:
    """The changes to an experiment that `NAME:OPTION=VALUE:…` describes."""
    name, *options = text.split(":")
    if options and "=" not in options[0] and name not in SCHEDULERS:
        name = f"{name}:{options.pop(0)}"  # module:Class
    if not all("=" in option for option in options):
        raise ConfigError(f"--schedulers: options are written NAME:OPTION=VALUE, got {text!r}")
    found = {key: read_scalar(value) for key, _, value in (option.partition("=") for option in options)}
    return {"curriculum.scheduler": name, "curriculum.options": found}


def _folder_name(scheduler: str) -> str:
    return scheduler.replace(":", "-").replace("=", "-")
