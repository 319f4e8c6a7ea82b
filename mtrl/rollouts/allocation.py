"""From wanted shares to whole slots, so that the shares come true over time."""

from __future__ import annotations

import numpy as np


class Allocator:
    """Error diffusion: the part of a slot that rounding takes from a task in one unroll is owed to it in the next.

    A task with share 0.003 of 64 slots gets one slot in every fifth unroll, and over n unrolls no task is further from its wanted
    number of slots than about one slot. With a bound on one task's slots, the slots above it go to the other tasks in proportion to
    their shares. Tasks without a share get no slot: where the others are too few for the bound, they get as many alike as there are.
    """

    def __init__(self, num_tasks: int, num_slots: int, rng: np.random.Generator, most: int | None = None):
        self._num_slots = num_slots
        self._most = num_slots if most is None else min(most, num_slots)
        # Random debts at the start keep many runners from serving the same small task in the same unroll.
        start = rng.random(num_tasks)
        self.owed = start - start.mean()  # slots owed to each task; sums to 0

    def allocate(self, shares: np.ndarray) -> np.ndarray:
        """Slots of each task in the next unroll, [num_tasks] int64 summing to the number of slots, for `shares` that sum to 1."""
        self._write_off(shares == 0)
        chosen = shares > 0
        most = max(self._most, -(-self._num_slots // int(chosen.sum())))
        wanted = self.owed.copy()
        wanted[chosen] += bounded(shares[chosen], most / self._num_slots) * self._num_slots
        counts = np.clip(np.floor(wanted), 0, most).astype(np.int64)
        while (excess := int(counts.sum()) - self._num_slots) > 0:
            # A task with a negative wanted number gets zero slots, so that the counts of the others can sum to too many.
            given = np.flatnonzero(counts)
            latest = given[np.argsort((wanted - counts)[given], kind="stable")][:excess]
            counts[latest] -= 1
        while (short := self._num_slots - int(counts.sum())) > 0:
            open_to_more = np.flatnonzero((counts < most) & chosen)
            counts[open_to_more[np.argsort((counts - wanted)[open_to_more], kind="stable")][:short]] += 1
        self.owed = wanted - counts
        return counts

    def _write_off(self, gone: np.ndarray) -> None:
        """Cancels the debts to tasks without a share, or rounding would give them a slot now and then."""
        if (self.owed[gone] != 0).any():
            self.owed[gone] = 0.0
            self.owed[~gone] -= self.owed[~gone].mean()


def bounded(shares: np.ndarray, most: float) -> np.ndarray:
    """Shares above 0 of at most `most` each; the excess goes to the tasks below the bound, in proportion to their shares."""
    result = shares.astype(float)
    full = np.zeros(len(shares), bool)
    while (over := result > most + 1e-12).any():
        full |= over
        result[full] = most
        if full.all():
            break
        result[~full] *= (1.0 - result[full].sum()) / result[~full].sum()
    return result
