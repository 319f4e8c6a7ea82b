"""Seeds of environments: no two environments share a stream of random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedSequences:
    """Gives each environment its seed: a hash of run seed, runner, restart, task and place, so that no two share a stream."""

    seed: int
    runner_index: int
    restart_count: int
    first_number: int = 0
    """The number of a task's first environment."""

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
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
