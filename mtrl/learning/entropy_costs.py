"""Weights of the entropy bonus, one for each task, learned so that each task's policy keeps a given entropy."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtrl.config import LearnerConfig
from mtrl.parallel import Total, add_up, alone


class EntropyCosts:
    """SAC's temperature with a target entropy (Haarnoja et al. 2018), one for each task: ln α_t moves against H_t - target.

    The weight α_t of a task's bonus grows while the mean entropy H_t of its policy is below the target, and falls while it is above.

    Args:
        num_tasks: tasks of the suite.
        start: α of every task at the start.
        target: mean entropy of each task's policy, in nats.
        rate: step size of ln α, for each optimiser step of the actor.
        device: of the learner.
    """

    LEAST, MOST = 1e-6, 10.0  # of a weight; a task that cannot reach the target would have one without bound
    LARGEST_SLOPE = 1.0  # nats; a density can be tens of nats away from the target

    def __init__(self, num_tasks: int, start: float, target: float, rate: float, device: torch.device):
        self._target, self._rate = target, rate
        self._log_costs = torch.full((num_tasks,), math.log(min(max(start, self.LEAST), self.MOST)), device=device)
        self._entropies = torch.full((num_tasks,), torch.nan, device=device)

    @property
    def costs(self) -> Float[Tensor, " tasks"]:
        """The weight of each task's bonus."""
        return self._log_costs.exp()

    @property
    def entropies(self) -> Float[Tensor, " tasks"]:
        """The mean entropy of each task's policy in the newest step that had steps of the task; NaN before the first."""
        return self._entropies

    @torch.no_grad()
    def update(
        self,
        entropies: Float[Tensor, "T B"],
        weights: Float[Tensor, "T B"],
        task_ids: Int[Tensor, " B"],
        made: Float[Tensor, ""] | float = 1.0,
        total: Total = alone,
    ) -> None:
        """One step of the weights. Those of tasks without data stay.

        Args:
            entropies: of the policy at each step.
            weights: of each step in the losses.
            task_ids: each slot's task.
            made: 0 where the actor's optimiser could make no step; the weights then make none either.
            total: adds up over all learners.
        """
        means = task_entropies(entropies, weights, task_ids, len(self._log_costs), total)
        known = torch.isfinite(means) & (torch.as_tensor(made, device=means.device) > 0)
        slopes = (means - self._target).clamp(-self.LARGEST_SLOPE, self.LARGEST_SLOPE)
        self._log_costs -= self._rate * torch.where(known, slopes, 0.0)
        self._log_costs.clamp_(math.log(self.LEAST), math.log(self.MOST))
        self._entropies.copy_(torch.where(known, means, self._entropies))

    def state_dict(self) -> dict[str, Tensor]:
        """Copies of the logarithms of the weights and of the newest entropies."""
        return {"log_costs": self._log_costs.clone(), "entropies": self._entropies.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state_dict`, in the same memory."""
        self._log_costs.copy_(state["log_costs"])
        self._entropies.copy_(state["entropies"])


@torch.no_grad()
def task_entropies(
    entropies: Float[Tensor, "T B"], weights: Float[Tensor, "T B"], task_ids: Int[Tensor, " B"], num_tasks: int, total: Total = alone
) -> Float[Tensor, " tasks"]:
    """The mean entropy of each task's policy over all learners' steps, in nats; NaN for tasks without a step that counts."""
    zeros = torch.zeros(num_tasks, device=entropies.device)
    mass, sums = add_up([zeros.index_add(0, task_ids, each.sum(0)) for each in (weights, weights * entropies.detach())], total)
    return sums / torch.where(mass > 0, mass, torch.nan)


def make_entropy_costs(config: LearnerConfig, num_tasks: int, device: torch.device) -> EntropyCosts | None:
    """The weights that the experiment asks for; None where all tasks have `learner.entropy_cost`."""
    if config.entropy_target is None:
        return None
    return EntropyCosts(num_tasks, config.entropy_cost, config.entropy_target, config.entropy_target_rate, device)
