"""The replay distribution of prioritised level replay (Jiang, Grefenstette and Rocktäschel 2021)."""

from __future__ import annotations

import numpy as np


def replay_probabilities(scores: np.ndarray, last_played: np.ndarray, clock: int, *, temperature: float, staleness: float) -> np.ndarray:
    """(1 - ρ) P_S + ρ P_C, [L].

    Args:
        scores: of each level, [L].
        last_played: the clock when each level's newest episode ended, [L].
        clock: episodes that have ended so far.
        temperature: β of P_S.
        staleness: ρ.
    """
    return (1.0 - staleness) * by_rank(scores, temperature) + staleness * by_staleness(last_played, clock)


def by_rank(scores: np.ndarray, temperature: float) -> np.ndarray:
    """P_S ∝ rank^(-1/β), where the largest score has rank 1; of equal scores the earlier one comes first."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    weights = ranks ** (-1.0 / temperature)
    return weights / weights.sum()


def by_staleness(last_played: np.ndarray, clock: int) -> np.ndarray:
    """P_C ∝ the number of episodes since the level's own; all alike where that is 0 for all."""
    waited = (clock - last_played).astype(float)
    total = waited.sum()
    return waited / total if total > 0 else np.full(len(waited), 1.0 / len(waited))


def effective_number(probabilities: np.ndarray) -> float:
    """The number of levels that a distribution spreads over: the exponential of its entropy."""
    positive = probabilities[probabilities > 0]
    return float(np.exp(-(positive * np.log(positive)).sum()))
