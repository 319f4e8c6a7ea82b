"""The data of each optimiser step of an update: the whole batch, or minibatches of traces, steps or observations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.config import LearnerConfig
from mtrl.learning.batch import STEP_FIELDS, Batch
from mtrl.learning.losses import Moments
from mtrl.learning.targets import Targets, at_steps
from mtrl.models.rows import IndexedObservations, Rows, padded, rows_at
from mtrl.parallel import Total, alone


class Plan(NamedTuple):
    """The number of optimiser steps for a batch, and its division into minibatches."""

    actor_steps: int
    critic_steps: int  # of a critic with a trunk of its own; with a shared trunk it steps with the actor
    minibatches: int  # in one pass over the batch; 1: every step reads the whole batch
    unit: Literal["observations", "steps", "traces"]  # what is drawn into a minibatch
    recompute_targets: bool  # whether a minibatch of traces computes its targets from the current weights
    shared_trunk: bool


class Minibatch(NamedTuple):
    """The data of one optimiser step."""

    batch: Batch
    targets: Targets | None  # None: to be computed from the current weights
    values: Float[Tensor, "T1 B"] | None  # V(x_t) that such targets are computed from; None: the critic's current values
    moments: Moments | None  # of the whole batch's advantages; None: to be computed with such targets
    updates_actor: bool
    updates_critic: bool


def make_plan(config: LearnerConfig, *, shared_trunk: bool) -> Plan:
    """The plan that the experiment describes."""
    recompute = config.recompute_targets
    if recompute is None:
        recompute = config.surrogate == "vtrace" and config.minibatch_of == "traces"
    steps = config.actor_updates or config.epochs * config.minibatches
    critic_steps = steps if shared_trunk else config.critic_updates
    return Plan(steps, critic_steps, config.minibatches, config.minibatch_of, recompute, shared_trunk)


def minibatches(batch: Batch, targets: Targets | None, plan: Plan, generator: torch.Generator, total: Total = alone) -> Iterator[Minibatch]:
    """The minibatches of an update in the order of its optimiser steps. Each is made when the step before it is done.

    Args:
        batch: T steps of B slots.
        targets: of the whole batch; None where every step reads all of it and computes its own.
        plan: how the batch is divided.
        generator: the randomness of the division, which is made anew for each pass.
        total: adds up over all learners.
    """
    if targets is None:
        # A critic of its own makes as many steps as it is told, beyond the actor's or fewer.
        for step in range(max(plan.actor_steps, plan.critic_steps)):
            yield Minibatch(batch, None, None, None, step < plan.actor_steps, step < plan.critic_steps)
        return
    if not plan.shared_trunk:
        for _ in range(plan.critic_steps):
            yield Minibatch(batch, targets, None, targets.moments, updates_actor=False, updates_critic=True)
    for selection, parts in _selections(batch, plan, generator, total):
        if plan.unit == "traces":
            part = select_slots(batch, selection, parts)
            known = targets.of_slots(selection)
        else:
            part = select_steps(batch, selection, parts)
            known = targets.of_steps(selection)
        if plan.recompute_targets:
            # A separate critic has been updated by now, and its values stay as they were when the update began.
            fixed = None if plan.shared_trunk else known.values
            yield Minibatch(part, None, fixed, targets.moments, updates_actor=True, updates_critic=plan.shared_trunk)
        else:
            yield Minibatch(part, known, None, targets.moments, updates_actor=True, updates_critic=plan.shared_trunk)


def _selections(batch: Batch, plan: Plan, generator: torch.Generator, total: Total) -> Iterator[tuple[Tensor, int]]:
    """Slots or steps of each of the actor's minibatches, and the minibatches in its pass. One that is empty for any learner is left out."""
    split = {"traces": split_slots, "steps": split_steps, "observations": split_observations}[plan.unit]
    made = 0
    for _ in range(plan.actor_steps):  # passes; each has a minibatch at least
        if made == plan.actor_steps:
            return
        parts = split(batch, plan.minibatches, generator)
        empty = total(torch.tensor([not len(part) for part in parts], dtype=torch.int64, device=batch.valid.device)).tolist()
        filled = [part for part, lacking in zip(parts, empty, strict=True) if not lacking]
        for selection in filled[: plan.actor_steps - made]:
            yield selection, len(filled)
            made += 1


def select_slots(batch: Batch, slots: Int[Tensor, " S"], parts: int = 1) -> Batch:
    """Whole traces: all steps of the given ascending slots, looking only at the observations that occur there.

    Args:
        batch: T steps of B slots.
        slots: those of the minibatch.
        parts: minibatches in one pass; weights are multiplied by it, so that the mean of their losses is the whole batch's loss.
    """
    observations = batch.observations
    recurrence = observations.recurrence.select(slots) if observations.recurrence is not None else None
    rows, inverse = _rows_of(observations.rows, observations.inverse[:, slots])
    steps = {name: getattr(batch, name)[:, slots] for name in STEP_FIELDS}
    steps["weights"] = parts * steps["weights"]
    return Batch(IndexedObservations(rows, inverse, observations.task_ids[slots], recurrence), **steps)


def select_steps(batch: Batch, steps: Int[Tensor, " S"], parts: int = 1) -> Batch:
    """Single steps, given as positions in the flattened [T, B]: a batch [1, S] that has no next observations. `parts` as above."""
    observations = batch.observations
    rows, inverse = _rows_of(observations.rows, at_steps(observations.inverse[:-1], steps))
    picked = {name: at_steps(getattr(batch, name), steps) for name in STEP_FIELDS}
    picked["weights"] = parts * picked["weights"]
    task_ids = observations.task_ids[steps % batch.rewards.shape[1]]
    return Batch(IndexedObservations(rows, inverse, task_ids, None), **picked)


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
    return padded(Rows({name: rows_at(array, used) for name, array in rows.obs.items()}, task_ids, counts)), position
