"""A rollout as tensors on the learner's device."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mtrl.learning.losses import step_weights
from mtrl.models.memory import recurrence_of
from mtrl.models.rows import IndexedObservations, arrange, make_rows, padded, rows_of_all
from mtrl.parallel import Total, alone
from mtrl.rollouts.rollout import Rollout


class Batch(NamedTuple):
    """T steps of B slots. A minibatch of single steps is one row of them: T = 1, and each step is a slot."""

    observations: IndexedObservations  # [T + 1, B], or [T, B] in minibatches of single steps, which are not bootstrapped
    actions: Shaped[Tensor, "T B ..."]
    behaviour_log_probs: Float[Tensor, "T B"]  # ln μ(a_t|x_t): under the weights that acted
    proximal_log_probs: Float[Tensor, "T B"]  # under the proximal policy: the weights at the start of this update
    rewards: Float[Tensor, "T B"]
    discounts: Float[Tensor, "T B"]  # γ (1 - terminated)
    continues: Float[Tensor, "T B"]  # 1 where the next row is the same episode, else 0
    valid: Bool[Tensor, "T B"]  # False where the step was an environment's reset
    weights: Float[Tensor, "T B"]  # weight of each step in the losses; the weights of all learners sum to 1


STEP_FIELDS = tuple(name for name in Batch._fields if name != "observations")
"""The fields of a batch that have one entry for each step."""


def make_batch(
    rollout: Rollout,
    num_tasks: int,
    *,
    discount: float,
    share_power: float,
    share_repeats: bool,
    device: torch.device,
    clip_rewards: float | None = None,
    total: Total = alone,
) -> Batch:
    """`rollout` on `device`; each distinct observation of a task is one row where `share_repeats` says so.

    Rewards are learned from within ±`clip_rewards`; a memory gets them as they were, and clips them itself.
    """

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    valid, task_ids, terminated = move(rollout.valid), move(rollout.task_ids), move(rollout.terminated)
    actions, rewards = move(rollout.actions), move(rollout.rewards)
    memory = rollout.initial_memory
    if share_repeats or device.type == "cpu":
        obs, row_tasks, places = arrange(rollout.obs, rollout.task_ids, share_repeats=share_repeats)
        rows, inverse = make_rows(obs, row_tasks, num_tasks, device), move(np.ascontiguousarray(places))
    else:
        counts = np.bincount(rollout.task_ids, minlength=num_tasks).tolist()
        rows, inverse = rows_of_all({name: move(array) for name, array in rollout.obs.items()}, task_ids, counts)
    # What is played to rate a level has no weight.
    counted = valid if rollout.levels is None else valid & ~move(rollout.levels.only_rated)
    return Batch(
        observations=IndexedObservations(
            rows=padded(rows),
            inverse=inverse,
            task_ids=task_ids,
            recurrence=recurrence_of({k: move(v) for k, v in memory.items()}, actions, rewards, valid) if memory is not None else None,
        ),
        actions=actions,
        behaviour_log_probs=move(rollout.behaviour_log_probs),
        proximal_log_probs=move(rollout.behaviour_log_probs),
        rewards=rewards if clip_rewards is None else rewards.clamp(-clip_rewards, clip_rewards),
        discounts=discount * (~terminated).float(),
        continues=(valid & ~terminated & ~move(rollout.truncated)).float(),
        valid=valid,
        weights=step_weights(counted, task_ids, num_tasks, share_power=share_power, total=total),
    )
