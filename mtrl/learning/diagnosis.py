"""Diagnostics beside the losses: the task behind a loss that is not finite, and the similarity of the experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mtrl.learning.batch import Batch
from mtrl.learning.losses import Moments
from mtrl.learning.minibatches import Minibatch
from mtrl.learning.objectives import Losses
from mtrl.models.experts import health
from mtrl.models.policy import Policy
from mtrl.models.rows import rows_at
from mtrl.parallel import Total, alone

EXPERT_ROWS = 64  # rows of a batch that the expert statistics are computed from


class ExpertStatistics(NamedTuple):
    """The actor's experts on some rows of a batch, and what each task takes of each expert."""

    gram_offdiagonal: float  # mean |cosine| of two experts' features
    effective_rank: float  # of the experts' Gram matrix, 1 to K
    task_weights: np.ndarray  # [tasks, K], of the gate
    private_shares: np.ndarray | None  # [tasks], of the private branches; None without them


@torch.no_grad()
def expert_statistics(policy: Policy, batch: Batch) -> ExpertStatistics:
    """Statistics of the actor's experts on `EXPERT_ROWS` rows of the batch, evenly spread."""
    trunk, rows = policy.actor.trunk, batch.observations.rows
    chosen = torch.linspace(0, len(rows.task_ids) - 1, EXPERT_ROWS, device=rows.task_ids.device).long()
    found = health(trunk.encoder({name: rows_at(array, chosen) for name, array in rows.obs.items()}, rows.task_ids[chosen]))
    weights, shares = trunk.gate.task_weights().cpu().numpy(), trunk.gate.private_share()
    private = None if shares is None else shares.cpu().numpy()
    return ExpertStatistics(float(found.gram_offdiagonal), float(found.effective_rank), weights, private)


def task_at_fault(
    minibatch: Minibatch, losses_of: Callable[[Minibatch], Losses], parameters: Sequence[Tensor], names: Sequence[str], total: Total = alone
) -> str | None:
    """The first task with steps that alone give a loss or a gradient that is not finite; None if there is none.

    Args:
        minibatch: data that gave such a loss.
        losses_of: the objective.
        parameters: those with a gradient.
        names: of the tasks.
        total: adds up over all learners.
    """
    for task, name in enumerate(names):
        losses = losses_of(_of_task(minibatch, task, len(names)))
        loss = torch.stack([each for each in (losses.actor, losses.critic.loss if losses.critic else None) if each is not None]).sum()
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        finite = [torch.isfinite(loss), *(torch.isfinite(gradient).all() for gradient in gradients if gradient is not None)]
        if total((~torch.stack(finite)).sum()):  # of any learner
            return name
    return None


def _of_task(minibatch: Minibatch, task: int, num_tasks: int) -> Minibatch:
    """The minibatch with zeros in the place of other tasks' numbers: a weight of 0 alone would not do, since 0 · NaN is NaN."""
    batch, targets, moments = minibatch.batch, minibatch.targets, minibatch.moments
    mask = batch.observations.task_ids == task
    batch = batch._replace(
        weights=torch.where(mask, batch.weights, 0.0),
        rewards=torch.where(mask, batch.rewards, 0.0),
        behaviour_log_probs=torch.where(mask, batch.behaviour_log_probs, 0.0),
    )
    if moments is not None:
        of_task = torch.arange(num_tasks, device=mask.device) == task
        moments = Moments(*(torch.where(of_task, moment, 0.0) for moment in moments))
    if targets is not None:
        vs, advantages = (torch.where(mask, array, 0.0) for array in (targets.vs, targets.advantages))
        targets = targets._replace(vs=vs, advantages=advantages, moments=moments)
    return minibatch._replace(batch=batch, targets=targets, moments=moments)
