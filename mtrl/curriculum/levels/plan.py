"""What runners are told of a task's levels: a distribution that the level of each new episode is drawn from."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class LevelPlan(NamedTuple):
    """The levels of one task that may be played, and how probable each is."""

    numbers: np.ndarray  # [L] int64
    parameters: np.ndarray  # [L, P] float64; P is 0 where a level is a seed alone
    probabilities: np.ndarray  # [L], sum to 1
    only_rated: np.ndarray  # [L] bool, whether an episode only rates the level, and nothing is learned from it
