"""A rollout as tensors on the learner's device, and how it is cut into minibatches."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtrl.losses import step_weights
from mtrl.models.memory import recurrence_of
from mtrl.models.rows import Rows, Sequences, arrange, make_rows, padded
from mtrl.parallel import Total, add_up, alone
from mtrl.rollout import Rollout


class Batch(NamedTuple):
    """T steps of B slots. A minibatch of single steps is one row of them: T = 1, and each step is a slot."""

    seen: Sequences  # T + 1 observations of each slot; T where nothing is bootstrapped
    actions: Tensor  # [T, B, ...]
    behaviour_log_probs: Float[Tensor, "T B"]  # of the weights that acted
    anchor_log_probs: Float[Tensor, "T B"]  # of the weights that the clipped surrogate's ratio starts from: 1 before the first step
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
        seen=Sequences(
            rows=padded(make_rows(obs, row_tasks, num_tasks, device)),
            inverse=move(np.ascontiguousarray(inverse)),
            task_ids=task_ids,
            recurrence=recurrence_of({k: move(v) for k, v in memory.items()}, actions, rewards, valid) if memory is not None else None,
        ),
        actions=actions,
        behaviour_log_probs=move(rollout.behaviour_log_probs),
        anchor_log_probs=move(rollout.behaviour_log_probs),
        rewards=rewards if clip_rewards is None else rewards.clamp(-clip_rewards, clip_rewards),
        discounts=discount * (~terminated).float(),
        continues=(valid & ~terminated & ~move(rollout.truncated)).float(),
        valid=valid,
        weights=step_weights(valid, task_ids, num_tasks, equal_tasks=equal_tasks, total=total),
    )


def select_slots(batch: Batch, slots: Int[Tensor, " S"], total: Total = alone) -> Batch:
    """Whole traces: all steps of the given ascending slots, looking only at the observations that occur there."""
    seen = batch.seen
    recurrence = seen.recurrence.select(slots) if seen.recurrence is not None else None
    return Batch(
        seen=Sequences(*_rows_of(seen.rows, seen.inverse[:, slots]), seen.task_ids[slots], recurrence),
        actions=batch.actions[:, slots],
        behaviour_log_probs=batch.behaviour_log_probs[:, slots],
        anchor_log_probs=batch.anchor_log_probs[:, slots],
        rewards=batch.rewards[:, slots],
        discounts=batch.discounts[:, slots],
        continues=batch.continues[:, slots],
        valid=batch.valid[:, slots],
        weights=_rescaled(batch.weights[:, slots], batch.weights, total),
    )


def select_steps(batch: Batch, steps: Int[Tensor, " S"], total: Total = alone) -> Batch:
    """Single steps, given as positions in the flattened [T, B]: a batch [1, S] that has no next observations."""
    num_steps = batch.rewards.numel()

    def pick(x: Tensor) -> Tensor:
        return x.reshape(num_steps, *x.shape[2:])[steps].unsqueeze(0)

    task_ids = batch.seen.task_ids[steps % batch.rewards.shape[1]]
    return Batch(
        seen=Sequences(*_rows_of(batch.seen.rows, pick(batch.seen.inverse[:-1])), task_ids, None),
        actions=pick(batch.actions),
        behaviour_log_probs=pick(batch.behaviour_log_probs),
        anchor_log_probs=pick(batch.anchor_log_probs),
        rewards=pick(batch.rewards),
        discounts=pick(batch.discounts),
        continues=pick(batch.continues),
        valid=pick(batch.valid),
        weights=_rescaled(pick(batch.weights), batch.weights, total),
    )


def split_slots(batch: Batch, parts: int, generator: torch.Generator) -> list[Tensor]:
    """The slots in `parts` random groups of nearly equal size, some of them perhaps empty, each ascending as task ids must be."""
    order = torch.randperm(len(batch.seen.task_ids), generator=generator)
    return [part.sort().values.to(batch.valid.device) for part in order.tensor_split(parts)]


def split_steps(batch: Batch, parts: int, generator: torch.Generator) -> list[Tensor]:
    """The valid steps in `parts` random groups of nearly equal size, as positions in the flattened [T, B]."""
    valid = batch.valid.flatten().nonzero().squeeze(-1)
    order = torch.randperm(len(valid), generator=generator).to(valid.device)
    return [valid[part] for part in order.tensor_split(parts)]


def split_observations(batch: Batch, parts: int, generator: torch.Generator) -> list[Tensor]:
    """Like `split_steps`, but steps with the same observation stay together, so that each is evaluated once in a pass."""
    group_of_row = torch.randperm(len(batch.seen.rows.task_ids), generator=generator).to(batch.valid.device) % parts
    groups = torch.where(batch.valid, group_of_row[batch.seen.inverse[:-1]], parts).flatten()
    return [(groups == part).nonzero().squeeze(-1) for part in range(parts)]


def _rows_of(rows: Rows, inverse: Tensor) -> tuple[Rows, Tensor]:
    """The rows that occur in `inverse`, still sorted by task and padded, and `inverse` into them."""
    used, position = inverse.unique(return_inverse=True)
    task_ids = rows.task_ids[used]
    counts = tuple(task_ids.bincount(minlength=len(rows.counts)).tolist())
    return padded(Rows({name: array[used] for name, array in rows.obs.items()}, task_ids, counts)), position


def _rescaled(part: Tensor, whole: Tensor, total: Total) -> Tensor:
    """Weights of a part as if it stood for the whole: the mean over random parts is the whole's loss."""
    steps, of = add_up([part.count_nonzero(), whole.count_nonzero()], total)
    return part * (of / steps.clamp(min=1))
