"""A rollout, the data that collectors produce and learners consume. NumPy only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from envs.vector import Arrays


class RolloutLevels(NamedTuple):
    """The levels that the steps of a rollout belong to."""

    numbers: np.ndarray  # [T, B] int64
    only_rated: np.ndarray  # [T, B] bool; nothing is learned from these steps
    environments: np.ndarray  # [B] int64, different for each two environments of a task, also of several runners

    def of_slots(self, slots: np.ndarray) -> RolloutLevels:
        """Those of some slots alone."""
        return RolloutLevels(self.numbers[:, slots], self.only_rated[:, slots], self.environments[slots])


class Rollout(NamedTuple):
    """T consecutive steps of B slots, time-major. Row t is the step from observation t to observation t + 1.

    The step after an episode's end is the environment's reset: `valid` is False there, its reward is 0 and its action was ignored. If step
    t ended an episode, observation t + 1 is the last one of that episode, so that a truncated episode can be bootstrapped from it.
    """

    obs: Arrays  # name -> [T + 1, B, ...]
    actions: np.ndarray  # [T, B, ...]
    behaviour_log_probs: np.ndarray  # [T, B] float32
    rewards: np.ndarray  # [T, B] float32
    terminated: np.ndarray  # [T, B] bool, the episode ended in a terminal state
    truncated: np.ndarray  # [T, B] bool, the episode was cut off
    valid: np.ndarray  # [T, B] bool
    task_ids: np.ndarray  # [B] int64, ascending, constant within the rollout
    initial_memory: Arrays | None  # name -> [B, ...]; None for memoryless policies
    version: np.ndarray  # [B] int64, the version of the weights that acted in each slot
    levels: RolloutLevels | None = None  # None where environments choose their levels themselves

    @property
    def unroll_length(self) -> int:
        """T"""
        return int(self.rewards.shape[0])

    @property
    def num_slots(self) -> int:
        """B"""
        return int(self.rewards.shape[1])

    @property
    def num_frames(self) -> int:
        """The number of valid steps, which count as trained frames."""
        return int(self.valid.sum())

    def frames_per_task(self, num_tasks: int) -> np.ndarray:
        """Valid steps of each task, [num_tasks] int64."""
        return np.bincount(self.task_ids, weights=self.valid.sum(axis=0), minlength=num_tasks).astype(np.int64)


PER_STEP = ("actions", "behaviour_log_probs", "rewards", "terminated", "truncated", "valid")
"""Fields of a rollout that are one array [T, B, ...]."""
PER_SLOT = ("task_ids", "version")
"""Fields of a rollout that are one array [B]."""


def take_slots(rollout: Rollout, slots: np.ndarray) -> Rollout:
    """The rollout of the given ascending slots alone, copied."""
    memory = rollout.initial_memory
    return Rollout(
        obs={name: array[:, slots] for name, array in rollout.obs.items()},
        initial_memory=None if memory is None else {name: array[slots] for name, array in memory.items()},
        levels=None if rollout.levels is None else rollout.levels.of_slots(slots),
        **{name: getattr(rollout, name)[:, slots] for name in PER_STEP},
        **{name: getattr(rollout, name)[slots] for name in PER_SLOT},
    )


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
    """One rollout of all slots of `rollouts`, sorted by task id as every rollout is.

    Raises:
        ValueError: `rollouts` is empty, or the unroll lengths differ.
    """
    if not rollouts:
        raise ValueError("concatenate needs at least one rollout")
    if len(rollouts) == 1:
        return rollouts[0]
    if len({rollout.unroll_length for rollout in rollouts}) > 1:
        raise ValueError(f"rollouts of different lengths: {[rollout.unroll_length for rollout in rollouts]}")
    order = np.argsort(np.concatenate([rollout.task_ids for rollout in rollouts]), kind="stable")

    def slots(arrays: Sequence[np.ndarray], axis: int) -> np.ndarray:
        return np.take(np.concatenate(arrays, axis=axis), order, axis=axis)

    levels = [rollout.levels for rollout in rollouts if rollout.levels is not None]
    memories = [rollout.initial_memory for rollout in rollouts if rollout.initial_memory is not None]
    return Rollout(
        obs={name: slots([rollout.obs[name] for rollout in rollouts], 1) for name in rollouts[0].obs},
        initial_memory={name: slots([memory[name] for memory in memories], 0) for name in memories[0]} if memories else None,
        levels=RolloutLevels(
            slots([each.numbers for each in levels], 1),
            slots([each.only_rated for each in levels], 1),
            slots([each.environments for each in levels], 0),
        )
        if levels
        else None,
        **{name: slots([getattr(rollout, name) for rollout in rollouts], 1) for name in PER_STEP},
        **{name: slots([getattr(rollout, name) for rollout in rollouts], 0) for name in PER_SLOT},
    )
