"""Figures with intervals: of one policy's episodes, and of several runs on several tasks after Agarwal et al. 2021 (rliable).

Scores of several runs are arrays [runs, tasks]. Aggregates pool all their cells, and intervals come from a bootstrap that draws runs anew
within each task (the strata), since tasks are fixed and runs are what chance decides.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

__all__ = [
    "Estimate",
    "aggregate",
    "interquartile_mean",
    "mean",
    "mean_interval",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "stratified_mean",
    "success_interval",
]

CONFIDENCE = 0.95
Aggregate = Callable[[np.ndarray], np.ndarray]
"""From cells [..., n] to one figure for each leading index."""


class Estimate(NamedTuple):
    """A figure and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 5000) -> Estimate:
    """The mean of one task's scores [episodes] with a percentile bootstrap interval over episodes."""
    return stratified_mean([values], rng, resamples)


def stratified_mean(strata: list[np.ndarray], rng: np.random.Generator, resamples: int = 5000) -> Estimate:
    """The mean over strata (tasks) of each one's mean, with a bootstrap interval that resamples within each."""
    means = np.zeros(resamples)
    for values in strata:
        means += rng.choice(values, (resamples, len(values))).mean(axis=1) / len(strata)
    return _interval(float(np.mean([values.mean() for values in strata])), means)


def success_interval(successes: int, episodes: int) -> Estimate:
    """A success rate with Wilson's interval, which stays sensible at 0 and 1."""
    from scipy.stats import binomtest  # takes a second to import, which every training would wait for

    interval = binomtest(successes, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return Estimate(successes / episodes, float(interval.low), float(interval.high))


def mean(cells: np.ndarray) -> np.ndarray:
    """Mean of the cells [..., n]."""
    return cells.mean(axis=-1)


def optimality_gap(cells: np.ndarray) -> np.ndarray:
    """The mean distance of the cells [..., n] below a score of 1; scores above 1 count as 1."""
    return 1.0 - np.minimum(cells, 1.0).mean(axis=-1)


def aggregate(scores: np.ndarray, statistic: Aggregate, rng: np.random.Generator, resamples: int = 5000) -> Estimate:
    """A statistic of all cells of `scores` [runs, tasks] with its stratified-bootstrap interval."""
    resampled = _resample(scores, rng, resamples)
    return _interval(float(statistic(scores.reshape(-1))), statistic(resampled.reshape(resamples, -1)))


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator, resamples: int = 2000) -> Estimate:
    """The probability that a run of `ours` [runs, tasks] scores more than a run of `theirs` [other runs, tasks] on a random task.

    The mean over tasks of Mann and Whitney's statistic: ties count half.
    """
    value = float(_wins(ours[None], theirs[None])[0])
    return _interval(value, _wins(_resample(ours, rng, resamples), _resample(theirs, rng, resamples)))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of cells of `scores` [runs, tasks] above each threshold."""
    return (scores.reshape(-1, 1) > thresholds).mean(axis=0)


def _resample(scores: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """[resamples, runs, tasks]: runs drawn anew, for each task by itself."""
    runs, tasks = scores.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(np.broadcast_to(scores, drawn.shape), drawn, axis=1)


def _wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """[n] from [n, runs, tasks] and [n, other runs, tasks]."""
    a, b = ours[:, :, None], theirs[:, None]
    return ((a > b) + 0.5 * (a == b)).mean(axis=(1, 2, 3))


def _interval(value: float, resampled: np.ndarray) -> Estimate:
    low, high = np.quantile(resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Estimate(value, float(low), float(high))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of `values` [..., n]: a quarter at either end, rounded down, is left out."""
    # Not scipy's trim_mean: importing it takes a second, which every training would wait for.
    count = values.shape[-1]
    left_out = count // 4
    return np.sort(values, axis=-1)[..., left_out : count - left_out].mean(axis=-1)
