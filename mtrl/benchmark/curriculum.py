"""Which scheduler learns fastest: the same experiment under each, for several seeds, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig, override, read_scalar
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.forgetting import MASTERED
from mtrl.evaluation.statistics import mean_interval
from mtrl.training.trainer import build_trainer


class SchedulerOutcome(NamedTuple):
    """One training run."""

    frames_to_mastery: int | None  # until every task was mastered; None if they never were
    frames_to_score: int | None  # until the mean score over tasks was first reached; None if it never was
    score: float  # mean over tasks at the end
    seconds: float
    scheduling: float  # share of the time that went into the scheduler


def compare(config: ExperimentConfig, schedulers: Sequence[str], seeds: int, score: float = 0.8) -> None:
    """Trains under each scheduler and prints frames to mastery, frames to a mean score, and final scores, with 95 % intervals over seeds.

    Scores are those of the tasks' last training episodes. A scheduler's options may follow its name: `camrl:switch=false`.

    Raises:
        ConfigError: a scheduler is unknown or lacks options; said before anything is trained.
    """
    plans = {name: override(config, _scheduler(name) | {"env_runners.num_env_runners": 0}) for name in schedulers}
    for plan in plans.values():
        make_scheduler(plan.curriculum, make_suite(plan.suite.name).names)
    outcomes: dict[str, list[SchedulerOutcome]] = {name: [] for name in schedulers}
    # Seed by seed, so that a machine that slows down slows everybody down.
    for seed in range(seeds):
        for name, plan in plans.items():
            outcome = train(override(plan, {"seed": seed}), score)
            outcomes[name].append(outcome)
            reached = f"{outcome.frames_to_score:,} frames to {score:g}" if outcome.frames_to_score is not None else f"never at {score:g}"
            mastered = _frames(outcome.frames_to_mastery)
            print(f"{name}, seed {seed}: {mastered}, {reached}, score {outcome.score:.3f}, {outcome.seconds:.0f} s", flush=True)
    _print_table(config, outcomes, score)


def train(config: ExperimentConfig, score: float = 0.8) -> SchedulerOutcome:
    """One run, which ends when all tasks are mastered and otherwise with the experiment's budget."""
    trainer = build_trainer(config)
    scheduler, spent = trainer.scheduler, [0.0]
    decide = scheduler.probabilities

    def timed(evidence: Evidence) -> np.ndarray:
        before = time.perf_counter()
        try:
            return decide(evidence)
        finally:
            spent[0] += time.perf_counter() - before

    scheduler.probabilities = timed  # type: ignore[method-assign]
    start, mastered, reached = time.perf_counter(), None, None
    try:
        while trainer.frames < config.total_frames and mastered is None:
            trainer.step()
            if reached is None and (trainer.mean_score or 0.0) >= score:
                reached = trainer.frames
            if (np.nan_to_num(trainer.statistics.success_rates) >= MASTERED).all():
                mastered = trainer.frames
    finally:
        trainer.close()
    seconds = time.perf_counter() - start
    return SchedulerOutcome(mastered, reached, float(np.nan_to_num(trainer.statistics.scores).mean()), seconds, spent[0] / seconds)


def _scheduler(text: str) -> dict[str, Any]:
    """The changes to an experiment that `NAME:OPTION=VALUE:…` describes."""
    name, *options = text.split(":")
    if not all("=" in option for option in options):
        raise ConfigError(f"--schedulers: options are written NAME:OPTION=VALUE, got {text!r}")
    found = {key: read_scalar(value) for key, _, value in (option.partition("=") for option in options)}
    return {"curriculum.scheduler": name} | ({"curriculum.options": found} if found else {})


def _print_table(config: ExperimentConfig, outcomes: dict[str, list[SchedulerOutcome]], score: float) -> None:
    budget = config.total_frames
    columns = {
        "frames to mastery of all tasks": [[outcome.frames_to_mastery for outcome in found] for found in outcomes.values()],
        f"frames to a mean score of {score:g}": [[outcome.frames_to_score for outcome in found] for found in outcomes.values()],
    }
    print("\n" + f"{'scheduler':24} " + " ".join(f"{title:>34} {'ratio':>6}" for title in columns) + f" {'final score':>24} {'cost':>7}")
    for place, (name, found) in enumerate(outcomes.items()):
        final = mean_interval(np.array([outcome.score for outcome in found]), np.random.default_rng(0))
        cells = " ".join(_cell(column[place], column[0], budget) for column in columns.values())
        cost = np.mean([outcome.scheduling for outcome in found])
        print(f"{name:24} {cells} {final.text(3):>24} {cost:7.2%}")
    print("medians, and their ratio to the first scheduler's; a run that never got there counts as its whole budget")


def _cell(found: Sequence[int | None], base: Sequence[int | None], budget: int) -> str:
    """The median of some runs' frames, how many got there, and the ratio to the first scheduler's median."""
    reached = [frames for frames in found if frames is not None]
    median, compared = (float(np.median([frames or budget for frames in runs])) for runs in (found, base))
    text = f"{median:,.0f}" if reached else "never"
    return f"{f'{text} ({len(reached)} of {len(found)})':>34} {median / compared if reached else np.nan:6.2f}"


def _frames(frames: int | None) -> str:
    return f"all mastered after {frames:,} frames" if frames is not None else "not all mastered"
