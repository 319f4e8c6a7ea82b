"""The learner as the training loop sees it, in this process or in others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from envs.vector import Arrays
from mtrl.learning.diagnosis import ExpertStatistics
from mtrl.learning.level_signals import LevelSignals
from mtrl.learning.targets import TaskValues
from mtrl.rollouts.rollout import Rollout
from mtrl.rollouts.stored import StoredBatch


class NonFiniteError(RuntimeError):
    """The loss or its gradient was not finite in too many updates in a row. The message names the task."""


class LearnerLostError(RuntimeError):
    """A learner in another process died, and what it has learned since the newest checkpoint with it. The message says how."""


class TaskEntropies(NamedTuple):
    """The entropies of the tasks' policies."""

    means: np.ndarray  # [tasks], in nats; NaN for tasks without a step
    costs: np.ndarray | None  # [tasks], the weights that hold them near the target, with `learner.entropy_target`


class UpdateResult(NamedTuple):
    """The report of one update. `mtrl.training.metrics` gives its figures their names."""

    means: dict[str, float]  # over the optimiser steps that were made: losses, entropy, importance weights, gradient norm
    task_values: TaskValues
    similarity: np.ndarray | None  # cosines of the tasks' gradients, [tasks, tasks]; None in updates that do not compute them
    experts: ExpertStatistics | None  # in one of `DIAGNOSIS_UPDATES` updates
    distinct_rows: int  # observations that the networks had to evaluate, of all learners
    skipped_steps: int  # optimiser steps not made since training began, since loss or gradient were not finite
    entropies: TaskEntropies | None = None  # on a GPU, with `learner.entropy_target` alone
    levels: LevelSignals | None = None  # where the curriculum chooses levels


@runtime_checkable
class LearnerProtocol(Protocol):
    """The learner as the training loop sees it; `Learner` is one."""

    version: int
    interrupted: Callable[[], bool]
    """Asked during an update, which ends early when it says so."""

    def update(self, rollout: Rollout, progress: float) -> UpdateResult:
        """Trains on one batch."""

    def actor_weights(self) -> Arrays:
        """The actor's weights, for the runners."""

    def policy_weights(self) -> Arrays:
        """Actor and critic."""

    def load_experts(self, weights: Arrays) -> None:
        """Begins with the experts of another policy."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""


@runtime_checkable
class RestartableLearner(LearnerProtocol, Protocol):
    """A learner in other processes, which may be lost, and takes rollouts that do not pass this one."""

    def update_stored(self, batch: StoredBatch, progress: float) -> UpdateResult:
        """Trains on one batch of stored rollouts.

        Raises:
            RolloutsLostError: some are no longer there; nothing has been trained on.
        """

    def restart(self) -> None:
        """After `LearnerLostError`: begins anew, with initial weights."""
