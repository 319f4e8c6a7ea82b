"""Figures with intervals, after Agarwal et al. 2021 (rliable) where there are several runs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import stats

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A figure and where it lies with 95 % confidence."""

    value: float
    low: float
    high: float


def mean_interval(values: np.ndarray, rng: np.random.Generator, resamples: int = 5000) -> Interval:
    """The mean of one task's scores [episodes] with a percentile bootstrap interval over episodes."""
    return stratified_mean([values], rng, resamples)


def stratified_mean(strata: list[np.ndarray], rng: np.random.Generator, resamples: int = 5000) -> Interval:
    """The mean over strata (tasks) of each one's mean, with a bootstrap interval that resamples within each."""
    means = np.zeros(resamples)
    for values in strata:
        means += rng.choice(values, (resamples, len(values))).mean(axis=1) / len(strata)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(np.mean([values.mean() for values in strata])), float(low), float(high))


def success_interval(successes: int, episodes: int) -> Interval:
    """A success rate with Wilson's interval, which stays sensible at 0 and 1."""
    interval = stats.binomtest(successes, episodes).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(successes / episodes, float(interval.low), float(interval.high))
