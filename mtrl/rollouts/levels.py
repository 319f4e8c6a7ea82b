"""Draws the levels of new episodes from the newest plan of the curriculum."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.levels import Level
from mtrl.curriculum.levels import LevelPlan


class LevelDraws:
    """A source of levels in a runner, with random numbers of its own.

    Args:
        plans: of each task.
        rng: draws from them.
        first_environment: the number that the runner's environments are counted from, so that no two have the same.
    """

    def __init__(self, plans: Sequence[LevelPlan], rng: np.random.Generator, first_environment: int = 0):
        self.first_environment = first_environment
        self._rng = rng
        self.follow(plans)

    def follow(self, plans: Sequence[LevelPlan]) -> None:
        """Draws by these plans, one for each task, from the next episode on."""
        self._plans = plans
        self._sums = [np.cumsum(plan.probabilities) for plan in plans]

    def draw(self, task: int) -> Level:
        """The level of a new episode of a task."""
        plan, sums = self._plans[task], self._sums[task]
        place = int(np.searchsorted(sums, self._rng.random() * sums[-1], side="right"))
        return Level(int(plan.numbers[place]), tuple(plan.parameters[place].tolist()), bool(plan.only_rated[place]))

    def state_dict(self) -> dict[str, Any]:
        """The random state; plans are made anew."""
        return dict(self._rng.bit_generator.state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with a saved random state."""
        self._rng.bit_generator.state = state
