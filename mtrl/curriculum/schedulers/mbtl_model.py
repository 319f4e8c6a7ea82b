"""MBTL's model (Cho et al. 2024) of what training on one context is worth to all: a Gaussian process and a gap that grows with distance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

LENGTHS = np.geomspace(0.03, 3.0, 15)  # of the process, tried for the largest likelihood; the range of contexts is 1


class Posterior(NamedTuple):
    """Mean and deviation of a Gaussian process at some points."""

    mean: np.ndarray
    deviation: np.ndarray


class TransferModel:
    """Which context to train on next.

    Contexts are scaled to [0, 1]. A policy trained at x performs J(x) there and J(x) - slope |x - x'| at x'; J is a Gaussian process
    through what has been observed. The next x promises most: the mean over x' of [μ(x) + sqrt(log(k + 1)) σ(x) - slope |x - x'| - best(x')]
    where positive, with best(x') the best that the k policies so far do at x'.
    """

    def __init__(self, contexts: np.ndarray, slope: float, noise: float = 0.1):
        """Args:
        contexts: [n], in any unit.
        slope: performance, of a range of 1, lost over the whole range of contexts.
        noise: deviation of an observed performance.
        """
        spread = float(np.ptp(contexts))
        self.x = (contexts - contexts.min()) / (spread if spread > 0 else 1.0)
        self._slope = slope
        self._noise = noise

    def gaps(self) -> np.ndarray:
        """The performance lost from source to target, [n, n]."""
        return self._slope * np.abs(self.x[:, None] - self.x[None, :])

    def first(self) -> int:
        """The middle of the range."""
        return int(np.abs(self.x - 0.5).argmin())

    def next(self, sources: np.ndarray, performance: np.ndarray, best: np.ndarray | None = None) -> int:
        """The context, none of `sources` [k], that promises most.

        Args:
            sources: places of the contexts trained on.
            performance: [k], of each at its own context.
            best: [n], the best that has been seen at each context; modelled by the gap if None.
        """
        if len(sources) == 0:
            return self.first()
        gaps = self.gaps()
        known = (performance[:, None] - gaps[sources]).max(0) if best is None else best
        belief = self.posterior(sources, performance)
        hoped = belief.mean + np.sqrt(np.log(len(sources) + 1)) * belief.deviation
        gains = np.maximum(hoped[:, None] - gaps - known[None, :], 0.0).mean(1)
        gains[sources] = -np.inf
        return int(gains.argmax())

    def posterior(self, sources: np.ndarray, performance: np.ndarray) -> Posterior:
        """Of the process at all contexts, with the length that makes the observations most likely."""
        x, mean = self.x[sources], performance.mean()
        scale = max(float(performance.var()), 0.01)
        fits = [_Fit(x, performance - mean, length, scale, self._noise) for length in LENGTHS]
        best_fit = max(fits, key=lambda fit: fit.log_likelihood).at(self.x)
        return Posterior(mean + best_fit.mean, best_fit.deviation)


class _Fit:
    """A process with a squared-exponential kernel through observations around 0."""

    def __init__(self, x: np.ndarray, y: np.ndarray, length: float, scale: float, noise: float):
        self._x, self._length, self._scale = x, length, scale
        self._cholesky = np.linalg.cholesky(self._kernel(x, x) + noise**2 * np.eye(len(x)))
        self._solved = np.linalg.solve(self._cholesky.T, np.linalg.solve(self._cholesky, y))
        # Without the part that is the same for all lengths.
        self.log_likelihood = float(-0.5 * y @ self._solved - np.log(np.diag(self._cholesky)).sum())

    def at(self, points: np.ndarray) -> Posterior:
        """Mean and deviation there."""
        cross = self._kernel(points, self._x)
        half = np.linalg.solve(self._cholesky, cross.T)
        return Posterior(cross @ self._solved, np.sqrt(np.maximum(self._scale - (half**2).sum(0), 0.0)))

    def _kernel(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return self._scale * np.exp(-0.5 * ((a[:, None] - b[None, :]) / self._length) ** 2)
