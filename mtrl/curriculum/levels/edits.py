"""Edits of levels (ACCEL, Parker-Holder et al. 2022): small changes of the parameters of a level that was worth replaying."""

from __future__ import annotations

from typing import Literal

import numpy as np

from envs.levels import ParameterSpace

Noise = Literal["gaussian", "uniform"]


def edited(parameters: np.ndarray, space: ParameterSpace, size: float, noise: Noise, rng: np.random.Generator) -> np.ndarray:
    """Parameters near those of another level and within the bounds, [P].

    Args:
        parameters: of the other level, [P].
        space: their bounds.
        size: standard deviation of Gaussian noise, or the largest change by uniform noise, as a part of each parameter's range.
        noise: the distribution of the changes.
        rng: draws them.
    """
    low, high = np.array(space.low), np.array(space.high)
    change = rng.standard_normal(len(low)) if noise == "gaussian" else rng.uniform(-1.0, 1.0, len(low))
    return np.clip(parameters + size * (high - low) * change, low, high)
