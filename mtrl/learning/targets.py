"""V-trace's value targets and advantages of a batch, and the advantages' moments by task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.learning.batch import Batch
from mtrl.learning.losses import Moments, task_moments
from mtrl.learning.surrogates import Surrogate
from mtrl.learning.vtrace import VTrace, vtrace
from mtrl.models.popart import PopArt
from mtrl.parallel import Total, add_up, alone


class TargetSettings(NamedTuple):
    """Hyper-parameters of targets and advantages."""

    rho_bar: float  # V-trace's hyper-parameters, see `mtrl.learning.vtrace`
    c_bar: float
    lambda_: float
    surrogate: Surrogate  # the actor's objective, which says by which importance weights advantages are multiplied
    normalize_advantages: bool
    advantage_floor: float  # the least deviation by which advantages are divided


class Targets(NamedTuple):
    """Value targets and advantages of T steps of B slots; without gradient."""

    vs: Float[Tensor, "T B"]  # v_t
    advantages: Float[Tensor, "T B"]  # multiplied by min(ρ̄, ρ_t); in units of PopArt's scale where the policy has one
    values: Float[Tensor, "T1 B"] | None  # V(x_t) that both were computed from; None in minibatches of single steps
    moments: Moments | None  # of the whole batch's advantages, by task; None where advantages are not normalised


class TaskValues(NamedTuple):
    """Statistics of values by task, [num_tasks]; NaN for a task without a step."""

    errors: np.ndarray  # mean |advantage|
    initial_values: np.ndarray  # mean V of the observations that episodes began with


def compute_targets(
    batch: Batch,
    log_probs: Float[Tensor, "T B"],
    values: Float[Tensor, "T1 B"],
    settings: TargetSettings,
    popart: PopArt | None,
    *,
    num_tasks: int,
    moments: Moments | None = None,
    total: Total = alone,
) -> Targets:
    """V-trace's targets and advantages (Espeholt et al. 2018).

    Args:
        batch: T steps of B slots.
        log_probs: ln π(a_t|x_t) under the policy that the targets are for.
        values: V(x_t) of all T + 1 observations.
        settings: the trace, and how advantages are scaled.
        popart: the scale of each task's values, if the critic has one.
        num_tasks: tasks of the suite.
        moments: of the whole batch's advantages, where `batch` is a part of it; by default they are computed from `batch`.
        total: adds up over all learners.
    """
    trace = correct_off_policy(batch, log_probs, values, settings)
    advantages = settings.surrogate.advantages(trace, batch, values, settings.rho_bar)
    if popart is not None:
        advantages = advantages / popart.scale[batch.observations.task_ids]
    if settings.normalize_advantages and moments is None:
        moments = task_moments(advantages, batch.valid, batch.observations.task_ids, num_tasks, total)
        moments = moments._replace(deviation=moments.deviation.clamp(min=settings.advantage_floor))
    return Targets(trace.vs, advantages, values, moments)


def correct_off_policy(batch: Batch, log_probs: Float[Tensor, "T B"], values: Float[Tensor, "T1 B"], settings: TargetSettings) -> VTrace:
    """V-trace of a batch; arguments as of `compute_targets`."""
    log_rhos = log_probs - batch.behaviour_log_probs
    steps = (batch.rewards, batch.discounts, batch.continues, values[:-1], values[1:])
    return vtrace(log_rhos, *steps, rho_bar=settings.rho_bar, c_bar=settings.c_bar, lambda_=settings.lambda_)


def task_values(batch: Batch, targets: Targets, num_tasks: int, total: Total = alone) -> TaskValues:
    """By task, the mean size of the advantages, and the mean value of the observations that episodes began with."""
    assert targets.values is not None
    tasks = batch.observations.task_ids
    sizes = task_moments(targets.advantages.abs(), batch.valid, tasks, num_tasks, total).mean
    first = ~batch.valid  # the step that follows an episode's end is the reset: the observation after it begins the next episode
    added = (torch.ones_like(tasks), first.sum(0), (targets.values[1:] * first).sum(0))
    slots, counts, sums = add_up([torch.bincount(tasks, weights=each.float(), minlength=num_tasks) for each in added], total)
    errors = torch.where(slots > 0, sizes, torch.nan)
    initial = torch.where(counts > 0, sums / counts, torch.nan)
    return TaskValues(errors.double().cpu().numpy(), initial.double().cpu().numpy())
