"""Rollouts that lie in an object store, from which learners in other processes take them; the training loop reads their outlines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl.rollouts.rollout import Rollout, RolloutOutline, concatenate, concatenate_outlines, order_by_task


class RolloutsLostError(RuntimeError):
    """Stored rollouts are no longer there, since the process or the node that held them has ended.

    Attributes:
        positions: their places in the batch.
    """

    def __init__(self, positions: Sequence[int]):
        super().__init__(f"{len(positions)} of the rollouts of a batch were lost with the processes that held them")
        self.positions = list(positions)


class StoredRollout(NamedTuple):
    """A rollout in the store."""

    references: list[Any]  # one reference, in a list so that it is passed on and not replaced by the rollout
    outline: RolloutOutline


class StoredBatch(NamedTuple):
    """Stored rollouts that learners train on together. Slots are numbered as in `concatenate`: by task, then by rollout."""

    references: list[Any]
    outline: RolloutOutline  # of all of them together
    rollout_of_slot: np.ndarray  # [B] int64

    def part(self, rank: int, learners: int) -> LearnerPart:
        """What one of several learners takes: whole rollouts where they can be dealt out evenly, else every n-th slot of all rollouts."""
        count = len(self.references)
        if count % learners == 0:
            chosen = list(range(rank, count, learners))
            return LearnerPart(chosen, np.flatnonzero(np.isin(self.rollout_of_slot, chosen)), whole=True)
        return LearnerPart(list(range(count)), np.arange(rank, self.outline.num_slots, learners), whole=False)


class LearnerPart(NamedTuple):
    """A learner's part of a batch."""

    positions: list[int]  # of the rollouts in the batch
    slots: np.ndarray  # of the batch, ascending
    whole: bool  # whether these are all slots of the rollouts


def stored_batch(rollouts: Sequence[StoredRollout]) -> StoredBatch:
    """The batch of these rollouts."""
    outlines = [rollout.outline for rollout in rollouts]
    owners = np.repeat(np.arange(len(rollouts)), [outline.num_slots for outline in outlines])
    order = order_by_task([outline.task_ids for outline in outlines])
    return StoredBatch([rollout.references[0] for rollout in rollouts], concatenate_outlines(outlines), owners[order])


def join(rollouts: Sequence[Rollout | StoredRollout]) -> Rollout | StoredBatch:
    """One batch of rollouts that are all here or all stored."""
    here = [rollout for rollout in rollouts if isinstance(rollout, Rollout)]
    stored = [rollout for rollout in rollouts if isinstance(rollout, StoredRollout)]
    if here and stored:
        raise ValueError("a batch of rollouts, some of which are stored elsewhere")
    return stored_batch(stored) if stored else concatenate(here)
