"""How a batch is cut into minibatches: by traces, steps or observations."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.learning.batch import Batch
from mtrl.models.rows import IndexedObservations, Rows, padded
from mtrl.parallel import Total, add_up, alone


def select_slots(batch: Batch, slots: Int[Tensor, " S"], total: Total = alone) -> Batch:
    """Whole traces: all steps of the given ascending slots, looking only at the observations that occur there."""
    observations = batch.observations
    recurrence = observations.recurrence.select(slots) if observations.recurrence is not None else None
    return Batch(
        observations=IndexedObservations(
            *_rows_of(observations.rows, observations.inverse[:, slots]), observations.task_ids[slots], recurrence
        ),
        actions=batch.actions[:, slots],
        behaviour_log_probs=batch.behaviour_log_probs[:, slots],
        proximal_log_probs=batch.proximal_log_probs[:, slots],
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

    task_ids = batch.observations.task_ids[steps % batch.rewards.shape[1]]
    return Batch(
        observations=IndexedObservations(*_rows_of(batch.observations.rows, pick(batch.observations.inverse[:-1])), task_ids, None),
        actions=pick(batch.actions),
        behaviour_log_probs=pick(batch.behaviour_log_probs),
        proximal_log_probs=pick(batch.proximal_log_probs),
        rewards=pick(batch.rewards),
        discounts=pick(batch.discounts),
        continues=pick(batch.continues),
        valid=pick(batch.valid),
        weights=_rescaled(pick(batch.weights), batch.weights, total),
    )


def split_slots(batch: Batch, parts: int, generator: torch.Generator) -> list[Int[Tensor, " _"]]:
    """The slots in `parts` random groups of nearly equal size, some of them perhaps empty, each ascending as task ids must be."""
    order = torch.randperm(len(batch.observations.task_ids), generator=generator)
    return [part.sort().values.to(batch.valid.device) for part in order.tensor_split(parts)]


def split_steps(batch: Batch, parts: int, generator: torch.Generator) -> list[Int[Tensor, " _"]]:
    """The valid steps in `parts` random groups of nearly equal size, as positions in the flattened [T, B]."""
    valid = batch.valid.flatten().nonzero().squeeze(-1)
    order = torch.randperm(len(valid), generator=generator).to(valid.device)
    return [valid[part] for part in order.tensor_split(parts)]


def split_observations(batch: Batch, parts: int, generator: torch.Generator) -> list[Int[Tensor, " _"]]:
    """Like `split_steps`, but steps with the same observation stay together, so that each is evaluated once in a pass."""
    group_of_row = torch.randperm(len(batch.observations.rows.task_ids), generator=generator).to(batch.valid.device) % parts
    groups = torch.where(batch.valid, group_of_row[batch.observations.inverse[:-1]], parts).flatten()
    return [(groups == part).nonzero().squeeze(-1) for part in range(parts)]


def _rows_of(rows: Rows, inverse: Int[Tensor, "T1 B"]) -> tuple[Rows, Int[Tensor, "T1 B"]]:
    """The rows that occur in `inverse`, still sorted by task and padded, and `inverse` into them."""
    used, position = inverse.unique(return_inverse=True)
    task_ids = rows.task_ids[used]
    counts = tuple(task_ids.bincount(minlength=len(rows.counts)).tolist())
    return padded(Rows({name: array[used] for name, array in rows.obs.items()}, task_ids, counts)), position


def _rescaled(part: Float[Tensor, "t b"], whole: Float[Tensor, "T B"], total: Total) -> Float[Tensor, "t b"]:
    """Weights of a part as if it stood for the whole: the mean over random parts is the whole's loss."""
    steps, of = add_up([part.count_nonzero(), whole.count_nonzero()], total)
    return part * (of / steps.clamp(min=1))
