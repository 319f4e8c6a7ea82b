"""Seeds of environments: no two environments share a stream of random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TRIES = 8  # draws of a seed, until one is large enough


@dataclass(frozen=True)
class SeedSequences:
    """Gives each environment its seed: a hash of run seed, runner, restart, task and place, so that no two share a stream."""

    seed: int
    runner_index: int
    restart_count: int
    first_number: int = 0
    """The number of a task's first environment."""
    least: int = 0
    """The smallest seed that may be given; smaller ones are levels that a policy was trained on."""

    def of(self, task_name: str, place: int, replaced: int = 0) -> int:
        """The seed, below 2³¹, of a task's environment.

        Args:
            task_name: the task.
            place: the environment's place among those of the task, from 0.
            replaced: how many environments have failed at this place; each one that replaces another has a seed of its own.
        """
        # An encoded name has no number above 255, so that 256 + replaced cannot be part of another task's name.
        entropy = [self.seed, self.runner_index, self.restart_count, self.first_number + place, *task_name.encode()]
        entropy += [256 + replaced] if replaced else []
        seeds = (int(state >> 1) for state in np.random.SeedSequence(entropy).generate_state(TRIES))
        return next((seed for seed in seeds if seed >= self.least), self.least)
