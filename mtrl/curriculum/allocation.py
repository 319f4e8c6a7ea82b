"""From wanted shares to whole slots, so that the shares come true over time."""

from __future__ import annotations

import numpy as np


class Allocator:
    """Error diffusion: what rounding took from a task in one unroll is owed to it in the next.

    A task with share 0.003 of 64 slots gets one slot in every fifth unroll, and over n unrolls no task is ever further from its wanted
    number of slots than one slot.
    """

    def __init__(self, num_tasks: int, num_slots: int, rng: np.random.Generator):
        self._num_slots = num_slots
        # Starting in the middle of somewhere keeps many runners from serving the same small task in the same unroll.
        start = rng.random(num_tasks)
        self.owed = start - start.mean()  # slots owed to each task; sums to 0

    def allocate(self, shares: np.ndarray) -> np.ndarray:
        """Slots of each task in the next unroll, [num_tasks] int64 summing to the number of slots, for `shares` that sum to 1."""
        wanted = self.owed + shares * self._num_slots
        counts = np.maximum(np.floor(wanted), 0).astype(np.int64)
        while (excess := int(counts.sum()) - self._num_slots) > 0:
            # Owing a task a negative number floors at zero slots, which can hand out too many elsewhere.
            given = np.flatnonzero(counts)
            latest = given[np.argsort((wanted - counts)[given], kind="stable")][:excess]
            counts[latest] -= 1
        short = self._num_slots - int(counts.sum())
        counts[np.argsort(counts - wanted, kind="stable")[:short]] += 1
        self.owed = wanted - counts
        return counts
