"""The contract of environments: `VectorTasks` for their users, and `Backend` for the libraries that step them.

A backend keeps environments of each task, steps those that it is told to step, and knows nothing of slots, pauses or episodes. `SlotTable`
makes `VectorTasks` of a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from envs.levels import Level, SlotLevels
from envs.task import TaskSuite

Arrays = dict[str, np.ndarray]


class Episode(NamedTuple):
    """An episode, as a rule a finished one."""

    task_id: int
    slot: int  # the row of the step that ended it
    episode_return: float  # undiscounted sum of rewards
    length: int  # steps
    success: bool
    terminated: bool  # a terminal state was reached
    truncated: bool  # the episode was cut off by a time limit


class Fault(NamedTuple):
    """An environment that failed and was replaced."""

    task_id: int
    reason: str  # one line
    traceback: str


class Step(NamedTuple):
    """The result of one step of all B slots. All arrays are fresh."""

    obs: Arrays  # name -> [B, ...]; where an episode has ended, its final observation
    rewards: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    valid: np.ndarray  # [B] bool; False where the step was the reset after an episode's end, or was lost
    episodes: list[Episode]
    lost: np.ndarray  # [B] bool; True where the environment failed: the observation before this step was the last of its episode
    faults: list[Fault]


class VectorTasks(Protocol):
    """B slots over the tasks of a suite, always all stepped together; rows are sorted by task id.

    The step after an episode's end is the reset: its action is ignored, its reward is 0, `valid` is False and its observation is the
    first of the new episode (Gymnasium's NEXT_STEP autoreset).

    Tolerant environments are replaced when they fail. The failed step is lost: it is not valid, and the step before it has to be treated as
    the last one of a truncated episode.
    """

    @property
    def suite(self) -> TaskSuite:
        """The tasks."""

    @property
    def num_slots(self) -> int:
        """B"""

    @property
    def task_ids(self) -> np.ndarray:
        """The task of each slot, [B] int64, ascending."""

    @property
    def levels(self) -> SlotLevels | None:
        """The level that each slot plays; None where environments choose their levels themselves."""

    def reset(self) -> Arrays:
        """Starts every slot and gives its first observation. Called once, before the first step.

        Raises:
            RuntimeError: the slots have started already; each resets itself after an episode.
        """

    def observe(self) -> Arrays:
        """The current observation of every slot, `[B, ...]`."""

    def step(self, actions: np.ndarray) -> Step:
        """One action in each slot, [B, ...].

        Raises:
            RuntimeError: `reset` has not been called.
            ValueError: there is not one action for each slot, or a discrete space does not have an action. Continuous actions are clipped.
        """

    def unfinished(self) -> list[Episode]:
        """The episodes that the slots are in the middle of, as far as they have come: neither terminated nor truncated."""

    def set_allocation(self, counts: Sequence[int] | np.ndarray) -> None:
        """Slots of each task from now on, [num_tasks] summing to B.

        A slot that leaves a task is paused and resumes where it was, in the middle of its episode, when the task gets it back.

        Raises:
            SuiteError: not one whole number for each task, or their sum is not B.
        """

    def watch(self, marker: np.ndarray) -> None:
        """Keeps the id of the task that is being stepped in `marker` [1] int64, -1 between steps.

        In shared memory, another process can read it while this one hangs.
        """

    def close(self) -> None:
        """Frees the environments."""


class BackendStep(NamedTuple):
    """The result of a backend's step, rows in the order of tasks."""

    obs: Arrays  # name -> [B, ...]
    rewards: np.ndarray  # [B] float32
    terminated: np.ndarray  # [B] bool
    truncated: np.ndarray  # [B] bool
    success: np.ndarray  # [B] bool
    lost: np.ndarray  # [B] bool
    faults: list[Fault]


class Backend(Protocol):
    """Environments of every task, numbered from 0 within a task."""

    marker: np.ndarray  # [1] int64, the task that is being stepped, -1 between steps

    def grow(self, task: int, count: int) -> Arrays:
        """Adds `count` environments of a task and gives their first observations, `[count, ...]`."""

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the first `counts[task]` environments of each task with `actions` [B, ...], in the order of tasks.

        An environment whose episode has ended is reset instead.

        Raises:
            TaskFault: an environment failed and is not replaced.
        """

    def close(self) -> None:
        """Frees the environments."""


@runtime_checkable
class LevelBackend(Protocol):
    """A backend that can be told which level an environment plays."""

    def set_level(self, task: int, place: int, level: Level) -> None:
        """The level of an environment's episodes from its next reset on.

        Args:
            task: the task.
            place: the environment's number among those of the task; it may be one that `grow` adds next.
            level: what it plays.
        """


@runtime_checkable
class Overlapping(Protocol):
    """A backend the environments of which work while others are told what to do: `step` is `send` and then `receive`."""

    def send(self, counts: np.ndarray, actions: np.ndarray) -> None:
        """Starts a step; the arguments are those of `step`."""

    def receive(self) -> BackendStep:
        """Waits for the step that was started.

        Raises:
            TaskFault: an environment failed and is not replaced.
        """
