"""DRATS (Corrado et al. 2026): tasks furthest from their target return are sampled more often, within a distance of the prior."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from mtrl.config import ConfigError, Section
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler

STEPS = 50  # of the bisection, which make β exact to 15 digits


class DRATSOptions(RatedOptions):
    """Options of `drats`."""

    beta: float = Field(5.0, ge=0)
    """Inverse temperature of the gaps (β): 0 gives the prior, and a large one the worst task alone."""
    target: float = Field(1.0, gt=0)
    """Score of a solved task, on the scale on which 0 is the random policy's return and 1 the published one."""
    radius: float = Field(0.5, gt=0)
    """Largest Kullback-Leibler divergence from the prior in nats; β is lowered until the shares keep it."""
    prior: dict[str, float] = {}
    """Weights of tasks in the prior by name; 1 for those that are not named."""


class DRATS(RatedScheduler):
    """Shares ∝ prior · exp(β · gap), with gap = max(0, target - score) / target.

    They are the distribution in a Kullback-Leibler ball around the prior under which the mean gap is largest: the inner problem of the
    minimax objective that bounds the worst task's gap.
    """

    Options: ClassVar[type[Section]] = DRATSOptions

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        for name in options.prior:
            if name not in names:
                raise ConfigError(f"curriculum.options.prior: no task {name!r}; tasks are {', '.join(names)}")
        self.prior = np.array([options.prior.get(name, 1.0) for name in names])
        if (self.prior < 0).any() or self.prior.sum() == 0:
            raise ConfigError("curriculum.options.prior: weights may not be negative, and not all 0")

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The tilted prior of the tasks that have been observed."""
        observed = self.num_observations > 0
        scores = np.nan_to_num(evidence.scores)
        gaps = np.maximum(0.0, self.options.target - scores) / self.options.target
        prior = np.where(observed, self.prior, 0.0)
        return tilted(prior, gaps, self.options.beta, self.options.radius) if prior.sum() > 0 else prior


def tilted(prior: np.ndarray, gaps: np.ndarray, beta: float, radius: float) -> np.ndarray:
    """The distribution ∝ prior · exp(β' · gaps), with the largest β' up to `beta` at which it is within `radius` nats of the prior.

    Args:
        prior: weights of the tasks, not all 0.
        gaps: of the tasks.
        beta: the largest inverse temperature.
        radius: the largest Kullback-Leibler divergence from the prior.
    """
    base = prior / prior.sum()

    def at(inverse_temperature: float) -> np.ndarray:
        # Gaps of tasks outside of the prior may be larger, and have no weight.
        weights = base * np.exp(np.minimum(0.0, inverse_temperature * (gaps - gaps[base > 0].max())))
        return weights / weights.sum()

    return at(_largest(lambda inverse: _divergence(at(inverse), base) <= radius, beta))


def _largest(holds: Callable[[float], bool], high: float) -> float:
    """The largest number up to `high` for which something holds that holds for 0 and for all numbers below one for which it holds."""
    if holds(high):
        return high
    low = 0.0
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _divergence(shares: np.ndarray, base: np.ndarray) -> float:
    """The Kullback-Leibler divergence of `shares` from `base` in nats."""
    there = shares > 0
    return float((shares[there] * np.log(shares[there] / base[there])).sum())
