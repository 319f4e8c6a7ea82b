"""V-trace's value targets and advantages of a batch, and the advantages' moments by task."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mtrl.learning.batch import Batch
from mtrl.learning.losses import Moments, normalize_per_task, task_moments
from mtrl.learning.surrogates import Surrogate
from mtrl.learning.vtrace import VTrace, vtrace
from mtrl.models.popart import PopArt
from mtrl.models.rows import rows_at
from mtrl.parallel import Total, add_up, alone


class TargetSettings(NamedTuple):
    """Hyper-parameters of targets and advantages."""

    rho_bar: float  # V-trace's hyper-parameters, see `mtrl.learning.vtrace`
    c_bar: float
    lambda_: float
    surrogate: Surrogate  # the actor's objective, which says by which importance weights advantages are multiplied
    normalize_advantages: bool
    advantage_floor: float  # the least deviation by which advantages are divided, in units of reward


class Targets(NamedTuple):
    """Value targets and advantages of T steps of B slots; without gradient."""

    vs: Float[Tensor, "T B"]  # v_t
    advantages: Float[Tensor, "T B"]  # before importance weights; in units of PopArt's scale where the policy has one
    importance_weights: Float[Tensor, "T B"]  # clipped at ρ̄; the objective multiplies its advantages by them
    values: Float[Tensor, "T1 B"] | None  # V(x_t) that both were computed from; None in minibatches of single steps
    moments: Moments | None  # of the whole batch's advantages, by task; None where advantages are not normalised

    def of_slots(self, slots: Int[Tensor, " S"]) -> Targets:
        """Those of whole traces; the moments stay the whole batch's."""
        values = None if self.values is None else self.values[:, slots]
        return Targets(self.vs[:, slots], self.advantages[:, slots], self.importance_weights[:, slots], values, self.moments)

    def of_steps(self, steps: Int[Tensor, " S"]) -> Targets:
        """Those of single steps, given as positions in the flattened [T, B]."""
        vs, advantages, weights = (at_steps(array, steps) for array in (self.vs, self.advantages, self.importance_weights))
        return Targets(vs, advantages, weights, None, self.moments)

    def weighted_advantages(self, task_ids: Int[Tensor, " B"]) -> Float[Tensor, "T B"]:
        """The advantages as the objective uses them: normalised first, then multiplied by the importance weights.

        In the other order, the mean that is taken off is no baseline. A baseline b leaves the expected gradient as it is, since
        E_μ[ρ b ∇ ln π] = 0; a constant taken off ρ A adds -b E_μ[∇ ln π], which is 0 for μ = π alone. With lag it can turn the gradient.
        """
        advantages = self.advantages if self.moments is None else normalize_per_task(self.advantages, task_ids, self.moments)
        return self.importance_weights * advantages


class TaskValues(NamedTuple):
    """Statistics of values by task, [num_tasks]; NaN for a task without a step."""

    errors: np.ndarray  # mean |advantage|
    initial_values: np.ndarray  # mean V of the observations that episodes began with
    explained_variances: np.ndarray  # 1 - Var[v - V] / Var[v] of the targets v and the values V before the update


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
    trace, task_ids = correct_off_policy(batch, log_probs, values, settings), batch.observations.task_ids
    weights = settings.surrogate.importance_weights(trace, batch, settings.rho_bar)
    scale = torch.ones(num_tasks, device=weights.device) if popart is None else popart.scale
    advantages = trace.advantages / scale[task_ids]
    if settings.normalize_advantages and moments is None:
        moments = task_moments(advantages, weights * (batch.weights > 0), task_ids, num_tasks, total)
        # The floor is in units of reward: PopArt's scale of a task without rewards is that of its critic's errors.
        moments = moments._replace(deviation=torch.maximum(moments.deviation, settings.advantage_floor / scale))
    return Targets(trace.vs, advantages, weights, values, moments)


def correct_off_policy(batch: Batch, log_probs: Float[Tensor, "T B"], values: Float[Tensor, "T1 B"], settings: TargetSettings) -> VTrace:
    """V-trace of a batch; arguments as of `compute_targets`."""
    log_rhos = log_probs - batch.behaviour_log_probs
    steps = (batch.rewards, batch.discounts, batch.continues, values[:-1], values[1:])
    return vtrace(log_rhos, *steps, rho_bar=settings.rho_bar, c_bar=settings.c_bar, lambda_=settings.lambda_)


def at_steps(array: Shaped[Tensor, "T B ..."], steps: Int[Tensor, " S"]) -> Shaped[Tensor, "1 S ..."]:
    """The entries at positions of the flattened [T, B]."""
    return rows_at(array.reshape(-1, *array.shape[2:]), steps).unsqueeze(0)


def task_values(batch: Batch, targets: Targets, num_tasks: int, total: Total = alone) -> TaskValues:
    """By task, the mean size of the advantages, the mean value of the observations that episodes began with, and the explained variance."""
    assert targets.values is not None
    tasks = batch.observations.task_ids
    valid = batch.valid.float()
    spread, error = (task_moments(of, valid, tasks, num_tasks, total).deviation for of in (targets.vs, targets.vs - targets.values[:-1]))
    explained = torch.where(spread > 0, 1.0 - (error / spread).square(), torch.nan)
    sizes = task_moments(targets.advantages.abs(), valid, tasks, num_tasks, total).mean
    first = ~batch.valid  # the step that follows an episode's end is the reset: the observation after it begins the next episode
    added = (batch.valid.sum(0), first.sum(0), (targets.values[1:] * first).sum(0))
    steps, counts, sums = add_up([torch.bincount(tasks, weights=each.float(), minlength=num_tasks) for each in added], total)
    errors = torch.where(steps > 0, sizes, torch.nan)
    initial = torch.where(counts > 0, sums / counts, torch.nan)
    return TaskValues(*(each.double().cpu().numpy() for each in (errors, initial, explained)))
