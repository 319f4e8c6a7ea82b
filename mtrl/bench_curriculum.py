"""Which scheduler learns fastest: the same experiment under each, for several seeds, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs import make_suite
from mtrl.config import ExperimentConfig, override
from mtrl.curriculum import make_scheduler
from mtrl.evaluation.statistics import mean_interval
from mtrl.training import build_trainer

MASTERED = 0.9  # success rate over a task's recent episodes from which it counts as mastered


class Outcome(NamedTuple):
    """One training run."""

    frames_to_mastery: int | None  # until every task was mastered; None if they never were
    score: float  # mean over tasks at the end
    seconds: float
    scheduling: float  # share of the time that went into the scheduler


def compare(config: ExperimentConfig, schedulers: Sequence[str], seeds: int) -> None:
    """Trains under each scheduler and prints frames to mastery and final scores, with 95 % intervals over seeds.

    Raises:
        ConfigError: a scheduler is unknown or lacks options; said before anything is trained.
    """
    plans = {name: override(config, {"curriculum.scheduler": name, "env_runners.num_env_runners": 0}) for name in schedulers}
    for plan in plans.values():
        make_scheduler(plan.curriculum, make_suite(plan.suite.name).names)
    outcomes: dict[str, list[Outcome]] = {name: [] for name in schedulers}
    # Seed by seed, so that a machine that slows down slows everybody down.
    for seed in range(seeds):
        for name, plan in plans.items():
            outcome = train(override(plan, {"seed": seed}))
            outcomes[name].append(outcome)
            print(
                f"{name}, seed {seed}: {_frames(outcome.frames_to_mastery)}, score {outcome.score:.3f}, {outcome.seconds:.0f} s", flush=True
            )
    print(f"\n{'scheduler':20} {'frames to mastery of all tasks':>34} {'of ' + schedulers[0]:>14} {'final score':>24} {'cost':>7}")
    base = _median_frames(outcomes[schedulers[0]], config.total_frames)
    for name, found in outcomes.items():
        median = _median_frames(found, config.total_frames)
        reached = [outcome for outcome in found if outcome.frames_to_mastery is not None]
        score = mean_interval(np.array([outcome.score for outcome in found]), np.random.default_rng(0))
        frames = f"{median:,.0f}" if reached else "never"
        cost = np.mean([outcome.scheduling for outcome in found])
        print(
            f"{name:20} {frames + f' ({len(reached)} of {len(found)})':>34} {median / base if reached else np.nan:14.2f} "
            f"{f'{score.value:.3f} ({score.low:.3f} to {score.high:.3f})':>24} {cost:7.2%}"
        )
    print("medians; a run that never mastered all tasks counts as its whole budget")


def train(config: ExperimentConfig) -> Outcome:
    """One run, which ends when all tasks are mastered and otherwise with the experiment's budget."""
    trainer = build_trainer(config)
    scheduler, spent = trainer.scheduler, [0.0]
    decide = scheduler.probabilities

    def timed(stats: object) -> np.ndarray:
        before = time.perf_counter()
        try:
            return decide(stats)  # type: ignore[arg-type]
        finally:
            spent[0] += time.perf_counter() - before

    scheduler.probabilities = timed  # type: ignore[method-assign]
    start, mastered = time.perf_counter(), None
    try:
        while trainer.frames < config.total_frames and mastered is None:
            trainer.step()
            if (np.nan_to_num(trainer.statistics.success_rates) >= MASTERED).all():
                mastered = trainer.frames
    finally:
        trainer.close()
    seconds = time.perf_counter() - start
    return Outcome(mastered, float(np.nan_to_num(trainer.statistics.scores).mean()), seconds, spent[0] / seconds)


def _median_frames(outcomes: Sequence[Outcome], budget: int) -> float:
    return float(np.median([outcome.frames_to_mastery or budget for outcome in outcomes]))


def _frames(frames: int | None) -> str:
    return f"all mastered after {frames:,} frames" if frames is not None else "not all mastered"
