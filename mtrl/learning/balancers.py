"""Balancers: weights of the tasks' value losses, so that no task drowns the others in the critic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mtrl.config import look_up
from mtrl.learning.batch import Batch
from mtrl.learning.combiners import task_gradients
from mtrl.learning.losses import value_loss
from mtrl.learning.objectives import CriticLoss
from mtrl.parallel import Total, add_up, alone


@runtime_checkable
class Balancer(Protocol):
    """Weighs the tasks' value losses."""

    needs_gradients: bool
    """Whether `update` reads the norms of the gradients."""

    def update(
        self, losses: Float[Tensor, " tasks"], present: Bool[Tensor, " tasks"], gradient_norms: Float[Tensor, " tasks"] | None
    ) -> Float[Tensor, " tasks"]:
        """The weights for this optimiser step; what they are learned by makes a step of its own.

        Args:
            losses: each task's mean value loss, positive.
            present: whether the batch has steps of the task.
            gradient_norms: lengths of the tasks' unweighted gradients at the mixed feature, where `needs_gradients`.
        """

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next weights depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""


class _Kept:
    """A balancer whose state is its tensors."""

    needs_gradients = False

    def __init__(self, **tensors: Tensor):
        self._tensors = tensors

    def state_dict(self) -> dict[str, Any]:
        """Copies of the tensors."""
        return {name: tensor.clone() for name, tensor in self._tensors.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes them."""
        for name, tensor in self._tensors.items():
            tensor.copy_(state[name])


class Uncertainty(_Kept):
    """Weights by learned variances (Kendall et al. 2018): minimises Σ L_i e^(-s_i) / 2 + s_i / 2 over s_i = ln σ_i², with L_i held.

    s_i stays within ±`BOUND`: the value losses of a solved or unpaid task come near 0, and its weight would grow without end.
    """

    RATE, BOUND = 0.02, 4.0

    def __init__(self, num_tasks: int, device: torch.device):
        self._log_variances = torch.zeros(num_tasks, device=device)
        super().__init__(log_variances=self._log_variances)

    def update(
        self, losses: Float[Tensor, " tasks"], present: Bool[Tensor, " tasks"], gradient_norms: Float[Tensor, " tasks"] | None
    ) -> Float[Tensor, " tasks"]:
        """e^(-s_i), and a step along s."""
        weights = (-self._log_variances).exp()
        # The slope grows with L_i without bound; what is far off comes nearer at the rate, no faster.
        slope = (0.5 - 0.5 * losses * weights).clamp(-1.0, 1.0)
        self._log_variances -= self.RATE * torch.where(present, slope, 0.0)
        self._log_variances.clamp_(-self.BOUND, self.BOUND)
        return weights


class GradNorm(_Kept):
    """Weights by which tasks' gradients are as long as their training is behind (Chen et al. 2018).

    Minimises Σ | w_i n_i - mean(w n) r_i^α |, with n_i the length of the gradient of L_i and r_i how far L_i has come from its first value
    compared to the others; the weights are made to sum to the number of tasks after each step.
    """

    needs_gradients = True
    ALPHA, RATE = 1.5, 0.02
    SMALLEST = 0.01

    def __init__(self, num_tasks: int, device: torch.device):
        self._weights = torch.ones(num_tasks, device=device)
        self._first = torch.zeros(num_tasks, device=device)  # losses; 0 before a task was seen
        super().__init__(weights=self._weights, first=self._first)

    def update(
        self, losses: Float[Tensor, " tasks"], present: Bool[Tensor, " tasks"], gradient_norms: Float[Tensor, " tasks"] | None
    ) -> Float[Tensor, " tasks"]:
        """The weights, after a step of their own."""
        assert gradient_norms is not None
        self._first.copy_(torch.where(present & (self._first == 0), losses, self._first))
        if not present.any():
            return self._weights.clone()
        progress = losses / self._first.clamp(min=1e-12)
        rates = progress / progress[present].mean().clamp(min=1e-12)
        norms = self._weights * gradient_norms
        mean = norms[present].mean()
        # |a - b| has the slope n_i · sign(a - b); in units of the mean length, so that the step does not depend on the loss's scale.
        slope = gradient_norms / mean.clamp(min=1e-12) * (norms - mean * rates**self.ALPHA).sign()
        self._weights -= self.RATE * torch.where(present, slope.clamp(-1.0, 1.0), 0.0)
        self._weights.clamp_(min=self.SMALLEST)
        self._weights *= len(losses) / self._weights.sum()
        return self._weights.clone()


class ImprovableGap(_Kept):
    """Improvable gap balancing, first form (Dai et al. 2023): minimises Σ w_i ln L_i with w = T softmax(L_i / L_i^b).

    L_i^b is the task's mean loss over its first steps; until then tasks weigh the same. No task weighs more than `MOST` times the median
    task, and a gap L_i / L_i^b counts as `WIDEST` at most: in reinforcement learning losses do reach 0, where the slope 1 / L_i of the
    logarithm would give one task all the weight, and rise far above their first ones when a task is paid for the first time.
    """

    BASE_STEPS, MOST, WIDEST = 100, 10.0, 2.0

    def __init__(self, num_tasks: int, device: torch.device):
        self._base = torch.zeros(num_tasks, device=device)
        self._steps = torch.zeros(num_tasks, device=device)
        super().__init__(base=self._base, steps=self._steps)

    def update(
        self, losses: Float[Tensor, " tasks"], present: Bool[Tensor, " tasks"], gradient_norms: Float[Tensor, " tasks"] | None
    ) -> Float[Tensor, " tasks"]:
        """w_i / L_i, the slope of w_i ln L_i, in units of their mean over the tasks."""
        collecting = present & (self._steps < self.BASE_STEPS)
        self._steps += collecting
        self._base += torch.where(collecting, (losses - self._base) / self._steps.clamp(min=1), 0.0)
        if (self._steps[present] < self.BASE_STEPS).any() or not present.any():
            return torch.ones_like(losses)
        gaps = torch.where(present, (losses / self._base.clamp(min=1e-12)).clamp(max=self.WIDEST), -torch.inf)
        slopes = gaps.softmax(0) / losses.clamp(min=1e-12)
        slopes = slopes.clamp(max=self.MOST * slopes[present].median())
        return torch.where(present, slopes / slopes[present].mean().clamp(min=1e-12), 1.0)


BALANCERS: dict[str, Callable[[int, torch.device], Balancer]] = {"uncertainty": Uncertainty, "gradnorm": GradNorm, "igb": ImprovableGap}


def make_balancer(name: str, num_tasks: int, device: torch.device) -> Balancer | None:
    """The balancer that the experiment names; None for `equal`.

    Raises:
        ConfigError: there is none of that name.
    """
    if name == "equal":
        return None
    return look_up(name, BALANCERS, "learner.balancing", "balancer", ["equal"])(num_tasks, device)


def task_losses(
    outputs: Float[Tensor, "T B"],
    targets: Float[Tensor, "T B"],
    weights: Float[Tensor, "T B"],
    task_ids: Int[Tensor, " B"],
    num_tasks: int,
    total: Total = alone,
) -> tuple[Float[Tensor, " tasks"], Bool[Tensor, " tasks"]]:
    """Each task's mean value loss ½ (target - output)² over the steps that count, 0 without any; and which tasks have some."""
    zeros = torch.zeros(num_tasks, device=outputs.device)
    counts = (weights > 0).float()
    errors = 0.5 * (targets - outputs).square() * counts
    sums, steps = add_up([zeros.index_add(0, task_ids, each.sum(0)) for each in (errors, counts)], total)
    return sums / steps.clamp(min=1), steps > 0


def balanced_value_loss(balancer: Balancer, critic: CriticLoss, batch: Batch, num_tasks: int, total: Total = alone) -> Float[Tensor, ""]:
    """The value loss, without the gate's, with each task's steps multiplied by the balancer's weight of the task."""
    task_ids = batch.observations.task_ids
    losses, present = task_losses(critic.outputs.detach(), critic.targets, batch.weights, task_ids, num_tasks, total)
    norms = None
    if balancer.needs_gradients:
        norms = torch.ones_like(losses)  # where nothing before the feature is trained
        if critic.features.requires_grad:
            (gradients,) = torch.autograd.grad(critic.loss, critic.features, retain_graph=True)
            norms = task_gradients(gradients, batch.observations.rows.task_ids, num_tasks, total).norm(dim=1)
        present = present & norms.isfinite()
        norms = norms.nan_to_num(0.0, 0.0, 0.0)
    # A loss that is not finite makes no step; it must not stay in the balancer's averages.
    present = present & losses.isfinite()
    weights = balancer.update(losses.nan_to_num(0.0, 0.0, 0.0), present, norms)
    return value_loss(critic.outputs, critic.targets, batch.weights * weights[task_ids])
