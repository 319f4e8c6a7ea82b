"""Where environments get their seeds: no two of them share a stream."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class SeedSequences:
    """Where environments get their seeds: a hash of run seed, runner, restart, task and place, so that no two share a stream."""

    seed: int
    runner_index: int
    restart_count: int
    first_number: int = 0
    """The number of a task's first environment."""

    def of(self, task_name: str, place: int, replaced: int = 0) -> int:
        """The seed of a task's environment at `place`, counted from 0, below 2³¹; another one for each that has failed there."""
        # Names hold no character above 255, so that no name with a replacement is another name.
        entropy = [self.seed, self.runner_index, self.restart_count, self.first_number + place, *task_name.encode()]
        entropy += [256 + replaced] if replaced else []
        return int(np.random.SeedSequence(entropy).generate_state(1)[0] >> 1)
