"""Coverage of the intervals that evaluations, reports and sweeps print: `python docs/experiments/measure_intervals.py [DRAWS]`.

A 95 % interval should contain the truth in 95 % of all experiments. Experiments with a known truth are drawn DRAWS times (2 000 by
default): success rates, scores of episodes that fail with some probability and score between 0 and 1 otherwise, scores on no fixed scale,
means over tasks, and aggregates over runs. Beside each is the coverage of the plain percentile bootstrap.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
from scipy.stats import binom

from mtrl.evaluation.intervals import Estimate, mean_over_tasks, score_interval, success_interval
from mtrl.evaluation.statistics import aggregate, interquartile_mean, mean, mean_interval

EPISODES = (5, 25, 50, 512)
RATES = (0.02, 0.5, 0.98)
RUNS = (3, 5, 10)
TASKS = 7
RESAMPLES = 1000
Draw = Callable[[np.random.Generator, int], np.ndarray]


def success_coverage(episodes: int, rate: float) -> float:
    """The exact coverage of the interval of a success rate."""
    counts = np.arange(episodes + 1)
    intervals = [success_interval(int(count), episodes) for count in counts]
    holds = np.array([found.low <= rate <= found.high for found in intervals])
    return float(binom.pmf(counts, episodes, rate) @ holds)


def coverage(intervals: list[Estimate], truth: float) -> float:
    """The share of intervals that hold the truth."""
    return float(np.mean([found.low <= truth <= found.high for found in intervals]))


def percentile(scores: np.ndarray, rng: np.random.Generator) -> Estimate:
    """The plain percentile bootstrap of a mean, for comparison."""
    means = rng.choice(scores, (RESAMPLES, len(scores))).mean(1)
    return Estimate(float(scores.mean()), float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975)))


def grid_scores(rate: float, best: float = 0.9) -> tuple[Draw, float]:
    """Scores of MiniGrid's kind, 0 after a failure and at most 1 after a success; and their mean."""

    def draw(rng: np.random.Generator, n: int) -> np.ndarray:
        return (rng.random(n) < rate) * (best + 0.1 * rng.random(n))

    return draw, rate * (best + 0.05)


def normalised_scores(mean_score: float) -> tuple[Draw, float]:
    """Scores of Atari's kind, skewed and without an upper limit; and their mean."""
    return lambda rng, n: mean_score * rng.gamma(4.0, 0.25, n), mean_score


def print_row(title: str, own: float, plain: float) -> None:
    """One line of the table."""
    print(f"{title:58} {own:8.3f} {plain:10.3f}", flush=True)


def main(draws: str = "2000") -> None:
    """Prints the table."""
    count, rng = int(draws), np.random.default_rng(0)
    print(f"{'interval':58} {'coverage':>8} {'percentile':>10}")
    for n in EPISODES:
        for rate in RATES:
            plain = [percentile((rng.random(n) < rate).astype(float), rng) for _ in range(count)]
            print_row(f"success rate {rate}, n = {n} (exact)", success_coverage(n, rate), coverage(plain, rate))
    for n in EPISODES:
        cases = [(f"score, success {rate}", *grid_scores(rate)) for rate in (*RATES, 1.0)] + [
            ("score without a limit", *normalised_scores(2.0))
        ]
        for title, draw, truth in cases:
            drawn = [draw(rng, n) for _ in range(count)]
            plain = [percentile(scores, rng) for scores in drawn]
            print_row(f"{title}, n = {n}", coverage([score_interval(scores) for scores in drawn], truth), coverage(plain, truth))
    for n in EPISODES:
        for rate in RATES:
            tasks = [[(rng.random(n) < rate).astype(float) for _ in range(TASKS)] for _ in range(count)]
            own = [mean_over_tasks([score_interval(scores) for scores in one]) for one in tasks]
            pooled = [percentile(np.concatenate(one), rng) for one in tasks]
            print_row(f"mean over {TASKS} tasks of success {rate}, n = {n} each", coverage(own, rate), coverage(pooled, rate))
    for runs in (2, *RUNS):
        figures = rng.normal(0.7, 0.1, (count, runs))
        own = [mean_interval(one) for one in figures]
        print_row(f"mean of one figure of {runs} runs", coverage(own, 0.7), coverage([percentile(one, rng) for one in figures], 0.7))
    for runs in RUNS:
        for title, statistic in (("mean", mean), ("IQM", interquartile_mean)):
            scores = [np.clip(rng.normal(0.7, 0.1, (runs, TASKS)), 0, 1) for _ in range(count)]
            own = [aggregate(one, statistic, rng, RESAMPLES) for one in scores]
            truth = float(statistic(np.clip(rng.normal(0.7, 0.1, (20_000, TASKS)), 0, 1).reshape(-1)))
            plain = [percentile_of_runs(one, statistic, rng) for one in scores]
            print_row(f"{title} of {runs} runs of {TASKS} tasks", coverage(own, truth), coverage(plain, truth))


def percentile_of_runs(scores: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator) -> Estimate:
    """The plain stratified bootstrap of a statistic, for comparison."""
    runs, tasks = scores.shape
    drawn = np.take_along_axis(scores[None], rng.integers(runs, size=(RESAMPLES, runs, tasks)), axis=1)
    found = statistic(drawn.reshape(RESAMPLES, -1))
    return Estimate(float(statistic(scores.reshape(-1))), float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975)))


if __name__ == "__main__":
    main(*sys.argv[1:])
