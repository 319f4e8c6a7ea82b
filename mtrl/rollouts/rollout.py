"""A rollout, the data that collectors produce and learners consume. NumPy only."""

from __future__ import annotations

import functools
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


class RolloutOutline(NamedTuple):
    """The fields of a rollout that the training loop reads itself: they are small, whatever the observations are."""

    terminated: np.ndarray  # [T, B] bool
    truncated: np.ndarray  # [T, B] bool
    valid: np.ndarray  # [T, B] bool
    task_ids: np.ndarray  # [B] int64, ascending
    version: np.ndarray  # [B] int64
    levels: RolloutLevels | None

    @property
    def unroll_length(self) -> int:
        """T"""
        return int(self.valid.shape[0])

    @property
    def num_slots(self) -> int:
        """B"""
        return int(self.valid.shape[1])

    @property
    def num_frames(self) -> int:
        """The number of valid steps, which count as trained frames."""
        return int(self.valid.sum())

    def frames_per_task(self, num_tasks: int) -> np.ndarray:
        """Valid steps of each task, [num_tasks] int64."""
        return np.bincount(self.task_ids, weights=self.valid.sum(axis=0), minlength=num_tasks).astype(np.int64)


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
    first_visits: np.ndarray | None = None  # [T, B] bool, observation t + 1 is new in its episode; None where nothing depends on it

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

    @property
    def outline(self) -> RolloutOutline:
        """The fields that the training loop reads itself."""
        return RolloutOutline(*(getattr(self, name) for name in RolloutOutline._fields))


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
        first_visits=None if rollout.first_visits is None else rollout.first_visits[:, slots],
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
    slots = functools.partial(_joined, order=order_by_task([rollout.task_ids for rollout in rollouts]))
    outline = concatenate_outlines([rollout.outline for rollout in rollouts])

    visits = [rollout.first_visits for rollout in rollouts if rollout.first_visits is not None]
    memories = [rollout.initial_memory for rollout in rollouts if rollout.initial_memory is not None]
    return Rollout(
        obs={name: slots([rollout.obs[name] for rollout in rollouts], 1) for name in rollouts[0].obs},
        initial_memory={name: slots([memory[name] for memory in memories], 0) for name in memories[0]} if memories else None,
        actions=slots([rollout.actions for rollout in rollouts], 1),
        behaviour_log_probs=slots([rollout.behaviour_log_probs for rollout in rollouts], 1),
        rewards=slots([rollout.rewards for rollout in rollouts], 1),
        terminated=outline.terminated,
        truncated=outline.truncated,
        valid=outline.valid,
        task_ids=outline.task_ids,
        version=outline.version,
        levels=outline.levels,
        first_visits=slots(visits, 1) if visits else None,
    )


def concatenate_outlines(outlines: Sequence[RolloutOutline]) -> RolloutOutline:
    """The outline of all slots, sorted by task id.

    Raises:
        ValueError: the unroll lengths differ.
    """
    if len({outline.unroll_length for outline in outlines}) > 1:
        raise ValueError(f"rollouts of different lengths: {[outline.unroll_length for outline in outlines]}")
    slots = functools.partial(_joined, order=order_by_task([outline.task_ids for outline in outlines]))

    levels = [outline.levels for outline in outlines if outline.levels is not None]
    return RolloutOutline(
        terminated=slots([outline.terminated for outline in outlines], 1),
        truncated=slots([outline.truncated for outline in outlines], 1),
        valid=slots([outline.valid for outline in outlines], 1),
        task_ids=slots([outline.task_ids for outline in outlines], 0),
        version=slots([outline.version for outline in outlines], 0),
        levels=RolloutLevels(
            slots([each.numbers for each in levels], 1),
            slots([each.only_rated for each in levels], 1),
            slots([each.environments for each in levels], 0),
        )
        if levels
        else None,
    )


def order_by_task(task_ids: Sequence[np.ndarray]) -> np.ndarray:
    """The order of the slots of several rollouts, put one after the other, in a batch: by task, then as they are. [B] int64."""
    return np.argsort(np.concatenate(task_ids), kind="stable")


def _joined(arrays: Sequence[np.ndarray], axis: int, order: np.ndarray) -> np.ndarray:
    """The arrays one after the other along `axis`, and then in `order`."""
    return np.take(np.concatenate(arrays, axis=axis), order, axis=axis)
