"""The terms of the learner's objective. Each takes weights `[T, B]` that say how much a step counts (0 for invalid steps)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtrl.parallel import Total, add_up, alone

ROUNDING = 1e-6  # of a mean in float32, as a part of it


def policy_gradient_loss(
    log_probs: Float[Tensor, "T B"], advantages: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]
) -> Float[Tensor, ""]:
    """-Σ w_t adv_t log π(a_t|x_t)"""
    return -(weights * advantages * log_probs).sum()


LARGEST_LOG_RATIO = 10.0


def clipped_surrogate_loss(
    log_ratios: Float[Tensor, "T B"],
    advantages: Float[Tensor, "T B"],
    weights: Float[Tensor, "T B"],
    clip: float,
    dual_clip: float | None = None,
) -> Float[Tensor, ""]:
    """-Σ w_t min(ρ_t adv_t, clamp(ρ_t, 1 - clip, 1 + clip) adv_t) with ρ_t = π(a_t|x_t) / μ(a_t|x_t) (PPO, Schulman et al. 2017).

    With `dual_clip` c a step with a negative advantage counts at least c adv_t (Ye et al. 2020): beyond ρ_t = c, where the minimum has no
    bound, it has no gradient.
    """
    ratios = _bounded(log_ratios).exp()
    objective = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return -(weights * objective).sum()


def distance_moved(
    log_ratios: Float[Tensor, "T B"], weights: Float[Tensor, "T B"], clip: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """KL(μ‖π) as Schulman estimates it, Σ w_t (ρ_t - 1 - log ρ_t), and the weight of the steps whose ρ_t lies beyond `clip`."""
    bounded = _bounded(log_ratios)
    ratios = bounded.exp()
    return (weights * (ratios - 1 - bounded)).sum(), (weights * ((ratios - 1).abs() > clip)).sum()


def _bounded(log_ratios: Tensor) -> Tensor:
    """Beyond e^±10 a step says nothing of the neighbourhood, and e^89 is infinite.

    It happens with narrow Gaussians: an action of the policy before this one can lie a hundred deviations from the mean and become likely
    again in the middle of a batch.
    """
    return log_ratios.clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO)


def value_loss(values: Float[Tensor, "T B"], targets: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
    """½ Σ w_t (v_t - V(x_t))²"""
    return 0.5 * (weights * (targets - values).square()).sum()


def entropy_loss(entropies: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
    """-Σ w_t H(π(·|x_t))"""
    return -(weights * entropies).sum()


def step_weights(
    counted: Bool[Tensor, "T B"], task_ids: Int[Tensor, " B"], num_tasks: int, *, share_power: float, total: Total = alone
) -> Float[Tensor, "T B"]:
    """The weight of each step in the losses: those that count sum to 1 over all learners, and all others have weight 0.

    The weights of a task's steps sum to its share of the frames raised to `share_power`, in units of the sum over tasks: with 0 every
    task that has a step that counts weighs the same however many frames it has, and with 1 every frame weighs the same.
    """
    frames = total(torch.zeros(num_tasks, device=counted.device).index_add_(0, task_ids, counted.sum(0).float()))
    of_tasks = torch.where(frames > 0, frames.pow(share_power), 0.0)
    return counted * (of_tasks / of_tasks.sum().clamp(min=1e-30) / frames.clamp(min=1))[task_ids]


class Moments(NamedTuple):
    """Mean and deviation of each task's advantages, over steps weighted with their importance weights."""

    mean: Float[Tensor, " tasks"]
    deviation: Float[Tensor, " tasks"]


def task_moments(
    advantages: Float[Tensor, "T B"], weights: Float[Tensor, "T B"], task_ids: Int[Tensor, " B"], num_tasks: int, total: Total = alone
) -> Moments:
    """Weighted mean and deviation of each task over all learners; 0 for tasks without weight.

    Args:
        advantages: of each step.
        weights: how much a step counts: its importance weight, or 0 where it is not valid.
        task_ids: each slot's task.
        num_tasks: tasks of the suite.
        total: adds up over all learners.
    """
    zeros = torch.zeros(num_tasks, device=weights.device)
    mass, sums = add_up([zeros.index_add(0, task_ids, each.sum(0)) for each in (weights, advantages * weights)], total)
    mass = mass.clamp(min=torch.finfo(mass.dtype).tiny)
    mean = sums / mass
    squares = total(zeros.index_add(0, task_ids, ((advantages - mean[task_ids]).square() * weights).sum(0)))
    return Moments(mean, (squares / mass).sqrt())


def normalize_per_task(advantages: Float[Tensor, "T B"], task_ids: Int[Tensor, " B"], moments: Moments) -> Float[Tensor, "T B"]:
    """Advantages with each task's mean taken off, in units of its deviation. A task whose advantages are all equal gets zeros,
    but for the rounding of their mean.
    """
    return (advantages - moments.mean[task_ids]) / (moments.deviation[task_ids] + 1e-8 + ROUNDING * moments.mean[task_ids].abs())
