"""What the critic says of each step, for the curriculum to rate levels by."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mtrl.learning.batch import Batch
from mtrl.learning.targets import Targets


class LevelSignals(NamedTuple):
    """Figures of T steps of B slots by the weights before an update, [T, B] float32; of no meaning where a step is not valid."""

    values: np.ndarray  # V(x_t)
    advantages: np.ndarray  # V-trace's v_t - V(x_t): with μ = π that of GAE (Schulman et al. 2016)
    td_errors: np.ndarray  # r_t + γ V(x_{t+1}) - V(x_t)
    rewards: np.ndarray  # that are learned from


def level_signals(batch: Batch, targets: Targets) -> LevelSignals:
    """The figures of a batch with the targets of the weights before the update."""
    assert targets.values is not None
    values, following = targets.values[:-1], targets.values[1:]
    td_errors = batch.rewards + batch.discounts * following - values
    arrays = (values, targets.vs - values, td_errors, batch.rewards)
    return LevelSignals(*(array.float().cpu().numpy().copy() for array in arrays))


def merged(parts: Sequence[LevelSignals], slots: Sequence[np.ndarray]) -> LevelSignals:
    """The figures of a batch of which several learners had these slots each."""
    count = sum(len(own) for own in slots)
    whole = [np.empty((len(parts[0].values), count), np.float32) for _ in LevelSignals._fields]
    for part, own in zip(parts, slots, strict=True):
        for array, figures in zip(whole, part, strict=True):
            array[:, own] = figures
    return LevelSignals(*whole)
