"""A rollout as tensors on the learner's device, and how it is cut into minibatches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from mtrl.learning.losses import step_weights
from mtrl.models.memory import recurrence_of
from mtrl.models.rows import IndexedObservations, arrange, make_rows, padded
from mtrl.parallel import Total, alone
from mtrl.rollouts.rollout import Rollout


class Batch(NamedTuple):
    """T steps of B slots. A minibatch of single steps is one row of them: T = 1, and each step is a slot."""

    observations: IndexedObservations  # T + 1 observations of each slot; T where nothing is bootstrapped
    actions: Shaped[Tensor, "T B ..."]
    behaviour_log_probs: Float[Tensor, "T B"]  # of the weights that acted
    proximal_log_probs: Float[Tensor, "T B"]  # of the weights that the clipped surrogate's ratio starts from: 1 before the first step
    rewards: Float[Tensor, "T B"]
    discounts: Float[Tensor, "T B"]  # γ (1 - terminated)
    continues: Float[Tensor, "T B"]  # whether the next row is the same episode
    valid: Bool[Tensor, "T B"]
    weights: Float[Tensor, "T B"]  # how much each step counts; sums to 1, over all learners


def make_batch(
    rollout: Rollout,
    num_tasks: int,
    *,
    discount: float,
    equal_tasks: bool,
    share_repeats: bool,
    device: torch.device,
    clip_rewards: float | None = None,
    total: Total = alone,
) -> Batch:
    """`rollout` on `device`; each distinct observation of a task is one row where `share_repeats` says so.

    Rewards are learned from within ±`clip_rewards`; a memory reads them as they were, since it did so when it acted.
    """

    def move(array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array if array.flags.writeable else array.copy())
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor

    obs, row_tasks, inverse = arrange(rollout.obs, rollout.task_ids, share_repeats=share_repeats)
    valid, task_ids, terminated = move(rollout.valid), move(rollout.task_ids), move(rollout.terminated)
    actions, rewards = move(rollout.actions), move(rollout.rewards)
    memory = rollout.initial_memory
    return Batch(
        observations=IndexedObservations(
            rows=padded(make_rows(obs, row_tasks, num_tasks, device)),
            inverse=move(np.ascontiguousarray(inverse)),
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
        weights=step_weights(valid, task_ids, num_tasks, equal_tasks=equal_tasks, total=total),
    )
