"""Figures of several runs on several tasks with intervals, after Agarwal et al. 2021 (rliable).

Scores are arrays [runs, tasks]. Aggregates pool all their cells, and intervals come from a bootstrap that draws runs anew within each task
(the strata), since tasks are fixed and runs are what chance decides. A bootstrap of few runs is too narrow; its quantiles are taken further
out for that (the expanded percentile interval of Hesterberg 2015).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from mtrl.evaluation.intervals import BISECTIONS, CONFIDENCE, FEWEST, Estimate, mean_over_tasks, without_interval

NORMAL_QUANTILE = 1.96  # of 97.5 %
FEWEST_TO_RESAMPLE = 4  # runs of one task; of fewer, the quantiles that a bootstrap would need are beyond its extremes

Aggregate = Callable[[np.ndarray], np.ndarray]
"""From cells [..., n] to one figure for each leading index."""


def mean(cells: np.ndarray) -> np.ndarray:
    """Mean of the cells [..., n]."""
    return cells.mean(axis=-1)


def optimality_gap(cells: np.ndarray) -> np.ndarray:
    """The mean distance of the cells [..., n] below a score of 1; scores above 1 count as 1."""
    return 1.0 - np.minimum(cells, 1.0).mean(axis=-1)


def aggregate(scores: np.ndarray, statistic: Aggregate, rng: np.random.Generator, resamples: int = 5000) -> Estimate:
    """A statistic of all cells of `scores` [runs, tasks] with its stratified-bootstrap interval; one run has no interval."""
    value = float(statistic(scores.reshape(-1)))
    if len(scores) < FEWEST:
        return without_interval(value)
    if scores.shape[1] == 1 and len(scores) < FEWEST_TO_RESAMPLE:
        return mean_interval(statistic(scores))  # nothing is trimmed yet, so that all our statistics are means over runs
    resampled = _resample(scores, rng, resamples)
    return _interval(value, statistic(resampled.reshape(resamples, -1)), *scores.shape)


def median_over_tasks(scores: np.ndarray, rng: np.random.Generator, resamples: int = 5000) -> Estimate:
    """The median of the tasks' means over runs, of `scores` [runs, tasks], with its stratified-bootstrap interval, as rliable has it."""
    value = float(np.median(scores.mean(axis=0)))
    if len(scores) < FEWEST:
        return without_interval(value)
    return _interval(value, np.median(_resample(scores, rng, resamples).mean(axis=1), axis=1), *scores.shape)


def mean_interval(values: np.ndarray) -> Estimate:
    """The mean of runs' figures [runs] with Student's interval: no bootstrap of two to four figures is wide enough."""
    value = float(values.mean())
    if len(values) < FEWEST:
        return without_interval(value)
    half = float(_half_width(values))
    return Estimate(value, value - half, value + half) if half > 0 else without_interval(value)


def probability_of_improvement(ours: np.ndarray, theirs: np.ndarray, rng: np.random.Generator, resamples: int = 2000) -> Estimate:
    """The probability that a run of `ours` [runs, tasks] scores more than a run of `theirs` [other runs, tasks] on a random task.

    The mean over tasks of Mann and Whitney's statistic: ties count half. The interval holds those of the bootstrap and of Newcombe's method
    (2006), since a bootstrap of runs of which all of one side are better has no width.
    """
    wins = _task_wins(ours[None], theirs[None])[0]
    value, fewer, tasks = float(wins.mean()), min(len(ours), len(theirs)), ours.shape[1]
    if fewer < FEWEST:
        return without_interval(value)
    resampled = _task_wins(_resample(ours, rng, resamples), _resample(theirs, rng, resamples)).mean(axis=1)
    drawn = _interval(value, resampled, fewer, tasks)
    solved = mean_over_tasks([separation_interval(float(each), len(ours), len(theirs)) for each in wins])
    bounds = [bound for found in (drawn, solved) if found.bounded for bound in found[1:]]
    return Estimate(value, max(0.0, min(bounds)), min(1.0, max(bounds)))


def separation_interval(value: float, ours: int, theirs: int) -> Estimate:
    """Mann and Whitney's statistic of so many runs on either side with the score interval of Newcombe 2006 (method 5).

    A bound is where the distance to `value` is 1.96 standard errors, of which the error is the one at the bound itself.
    """

    def too_far(bound: float) -> bool:
        pairs = ((ours + theirs) / 2 - 1) * ((1 - bound) / (2 - bound) + bound / (1 + bound))
        return abs(value - bound) > NORMAL_QUANTILE * math.sqrt(bound * (1 - bound) * (1 + pairs) / (ours * theirs))

    def boundary(outside: float) -> float:
        inside = value
        for _ in range(BISECTIONS):
            middle = (inside + outside) / 2
            inside, outside = (inside, middle) if too_far(middle) else (middle, outside)
        return inside

    return Estimate(value, boundary(0.0), boundary(1.0))


def performance_profile(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """The share of cells of `scores` [runs, tasks] above each threshold."""
    return (scores.reshape(-1, 1) > thresholds).mean(axis=0)


def _resample(scores: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """[resamples, runs, tasks]: runs drawn anew, for each task by itself."""
    runs, tasks = scores.shape
    drawn = rng.integers(runs, size=(resamples, runs, tasks))
    return np.take_along_axis(np.broadcast_to(scores, drawn.shape), drawn, axis=1)


def _task_wins(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """The share of pairs in which ours is better, [n, tasks] from [n, runs, tasks] and [n, other runs, tasks]."""
    a, b = ours[:, :, None], theirs[:, None]
    return ((a > b) + 0.5 * (a == b)).mean(axis=(1, 2))


def _interval(value: float, resampled: np.ndarray, runs: int, tasks: int) -> Estimate:
    tail = _tail(runs, tasks)
    low, high = np.quantile(resampled, [tail, 1 - tail])
    # Runs that all agree say nothing about how far others would be.
    return Estimate(value, float(low), float(high)) if low < high else without_interval(value)


def _tail(runs: int, tasks: int) -> float:
    """The probability that is left out at either end of a bootstrap distribution.

    The variance of n draws is (n - 1) / n of the true one, and Student's distribution has more in its tails than the normal one; 2.5 % are
    left out where there are many runs, 0.1 % with five runs of one task.
    """
    from scipy.special import ndtr, stdtrit  # scipy takes a while to import, which every training would wait for

    return float(ndtr(-math.sqrt(runs / (runs - 1)) * stdtrit((runs - 1) * tasks, (1 + CONFIDENCE) / 2)))


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half of `values` [..., n]: a quarter at either end, rounded down, is left out."""
    # Not scipy's trim_mean, which takes a second to import.
    count = values.shape[-1]
    left_out = count // 4
    return np.sort(values, axis=-1)[..., left_out : count - left_out].mean(axis=-1)


def mean_band(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point of runs' curves `values` [runs, points] the bounds of the mean's interval (Student's); two runs at least."""
    centre, half = values.mean(axis=0), _half_width(values)
    return centre - half, centre + half


def _half_width(values: np.ndarray) -> np.ndarray:
    """Half the width of Student's interval of the mean over the first axis."""
    from scipy.special import stdtrit  # scipy takes a while to import, which every training would wait for

    runs = len(values)
    return np.asarray(stdtrit(runs - 1, (1 + CONFIDENCE) / 2) * values.std(axis=0, ddof=1) / math.sqrt(runs))


def profile_band(
    scores: np.ndarray, thresholds: np.ndarray, rng: np.random.Generator, resamples: int = 500
) -> tuple[np.ndarray, np.ndarray]:
    """The bounds of the bootstrap interval of `performance_profile` at each threshold; two runs at least."""
    drawn = np.sort(_resample(scores, rng, resamples).reshape(resamples, -1), axis=1)
    shares = np.array([1 - np.searchsorted(own, thresholds, side="right") / drawn.shape[1] for own in drawn])
    return _bounds(shares, *scores.shape)


def iqm_band(scores: np.ndarray, rng: np.random.Generator, resamples: int = 500) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The IQM of `scores` [points, runs, tasks] at each point with the bounds of its bootstrap interval, which are NaN for one run."""
    points = [aggregate(cells, interquartile_mean, rng, resamples) for cells in scores]
    value, low, high = (np.array(column) for column in zip(*points, strict=True))
    return value, low, high


def _bounds(resampled: np.ndarray, runs: int, tasks: int) -> tuple[np.ndarray, np.ndarray]:
    """The outer quantiles of `resampled` [resamples, points] at each point."""
    tail = _tail(runs, tasks)
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return low, high
