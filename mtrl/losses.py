"""The terms of the learner's objective. Each takes weights `[T, B]` that say how much a step counts (0 for invalid steps)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def policy_gradient_loss(
    log_probs: Float[Tensor, "T B"], advantages: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]
) -> Float[Tensor, ""]:
    """-Σ w_t adv_t log π(a_t|x_t)"""
    return -(weights * advantages * log_probs).sum()


def value_loss(values: Float[Tensor, "T B"], targets: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
    """½ Σ w_t (v_t - V(x_t))²"""
    return 0.5 * (weights * (targets - values).square()).sum()


def entropy_loss(entropies: Float[Tensor, "T B"], weights: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
    """-Σ w_t H(π(·|x_t))"""
    return -(weights * entropies).sum()


def step_weights(valid: Bool[Tensor, "T B"], task_ids: Int[Tensor, " B"], num_tasks: int, *, equal_tasks: bool) -> Float[Tensor, "T B"]:
    """How much each step counts; valid steps sum to 1 and invalid ones are 0.

    With `equal_tasks` every task that has a valid step counts the same however many frames it has; else every frame counts the same.
    """
    frames = torch.zeros(num_tasks, device=valid.device).index_add_(0, task_ids, valid.sum(0).float())
    if not equal_tasks:
        return valid / frames.sum().clamp(min=1)
    present = (frames > 0).sum().clamp(min=1)
    return valid / (frames.clamp(min=1) * present)[task_ids]


def normalize_per_task(
    advantages: Float[Tensor, "T B"], valid: Bool[Tensor, "T B"], task_ids: Int[Tensor, " B"], num_tasks: int
) -> Float[Tensor, "T B"]:
    """Advantages with mean 0 and deviation 1 over the valid steps of each task. A task whose advantages are all equal gets zeros."""
    mask = valid.float()

    def task_mean(x: Float[Tensor, "T B"]) -> Float[Tensor, " B"]:
        sums = torch.zeros(num_tasks, device=x.device).index_add_(0, task_ids, (x * mask).sum(0))
        counts = torch.zeros(num_tasks, device=x.device).index_add_(0, task_ids, mask.sum(0))
        return (sums / counts.clamp(min=1))[task_ids]

    centred = advantages - task_mean(advantages)
    return centred / (task_mean(centred.square()).sqrt() + 1e-8)
