"""Figures of one policy's episodes with 95 % intervals that hold their level, also at few episodes and at scores near 0 and 1.

A percentile bootstrap is too narrow there: of 25 successes in 25 episodes it makes an interval of no width. Measured coverage of all
intervals: `docs/experiments/measure_intervals.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
FEWEST = 2  # episodes or runs that have an interval
PSEUDO = 2.0  # episodes that are added at either end of the scale, after Agresti and Coull
BISECTIONS = 60  # more than a float has bits


class Estimate(NamedTuple):
    """A figure and where it lies with 95 % confidence; the bounds are NaN where nothing is known about them."""

    value: float
    low: float
    high: float

    @property
    def bounded(self) -> bool:
        """Whether there is an interval."""
        return not (math.isnan(self.low) or math.isnan(self.high))

    def text(self, digits: int = 2) -> str:
        """The figure with its interval, such as `0.75 (0.62 – 0.84)`; a dash where there is none."""
        if math.isnan(self.value):
            return "–"
        interval = f"{self.low:.{digits}f} – {self.high:.{digits}f}" if self.bounded else "–"
        return f"{self.value:.{digits}f} ({interval})"

    def to_json(self) -> dict[str, float | None]:
        """The three figures; None for a bound that is not known, since JSON has no NaN."""
        return {name: None if math.isnan(value) else value for name, value in self._asdict().items()}


def without_interval(value: float) -> Estimate:
    """A figure of which one episode or run is known."""
    return Estimate(value, math.nan, math.nan)


def success_interval(successes: int, episodes: int) -> Estimate:
    """A success rate with the mid-P form of Clopper and Pearson's exact interval.

    A bound is the rate at which so many successes or more (or so many or fewer) have a probability of 2.5 %, where the probability of
    exactly so many counts half. Its coverage is at least 0.925 for every rate and number of episodes from 5 on; Wilson's interval goes down
    to 0.84.
    """
    from scipy.special import betainc  # scipy takes a while to import, which every training would wait for

    rate = successes / episodes
    if episodes < FEWEST:
        return without_interval(rate)

    def at_least(count: int, probability: float) -> float:
        """The probability of `count` successes or more."""
        if not 0 < count <= episodes:
            return float(count <= 0)
        return float(betainc(count, episodes - count + 1, probability))

    def above(probability: float) -> float:
        """The probability of more successes, and half of that of as many."""
        return 0.5 * (at_least(successes + 1, probability) + at_least(successes, probability))

    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if successes == 0 else _solve(above, tail)
    high = 1.0 if successes == episodes else _solve(above, 1 - tail)
    return Estimate(rate, low, high)


def score_interval(scores: np.ndarray) -> Estimate:
    """The mean score of one task's episodes [n].

    Scores that are all 0 or 1 are successes: `success_interval`. Scores between 0 and 1: an interval after Agresti and Coull, for which two
    episodes of score 0 and two of score 1 are added, with Student's distribution. So a rare failure that no episode has shown yet stays
    possible. Other scores: Student's interval.
    """
    from scipy.special import stdtrit

    scores = np.asarray(scores, float)
    value = float(scores.mean())
    if len(scores) < FEWEST:
        return without_interval(value)
    if np.isin(scores, (0.0, 1.0)).all():
        return success_interval(int(scores.sum()), len(scores))
    if scores.min() < 0.0 or scores.max() > 1.0:
        half = float(stdtrit(len(scores) - 1, (1 + CONFIDENCE) / 2)) * float(scores.std(ddof=1)) / math.sqrt(len(scores))
        # Equal scores say nothing about how far others would be, where nothing bounds them.
        return Estimate(value, value - half, value + half) if half > 0 else without_interval(value)
    count = len(scores) + 2 * PSEUDO
    middle = (float(scores.sum()) + PSEUDO) / count
    variance = (float((scores**2).sum()) + PSEUDO) / count - middle**2
    half = float(stdtrit(count - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / count)
    return Estimate(value, max(0.0, min(value, middle - half)), min(1.0, max(value, middle + half)))


def mean_over_tasks(tasks: Sequence[Estimate]) -> Estimate:
    """The mean of independent figures, with the interval that follows from theirs (MOVER, Zou and Donner 2008).

    The distance of a bound of a sum from the sum is the root of the squared distances of the parts' bounds.
    """
    value = float(np.mean([task.value for task in tasks]))
    below = math.sqrt(sum((task.value - task.low) ** 2 for task in tasks)) / len(tasks)
    above = math.sqrt(sum((task.high - task.value) ** 2 for task in tasks)) / len(tasks)
    return Estimate(value, value - below, value + above)


def _solve(rising: Callable[[float], float], wanted: float) -> float:
    """Where a function that rises from 0 to 1 over [0, 1] takes a value."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < wanted else (low, middle)
    return (low + high) / 2
