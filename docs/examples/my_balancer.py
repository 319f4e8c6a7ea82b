"""A balancing rule of one's own: each task's value loss is divided by its running mean."""

from typing import Any

import torch
from torch import Tensor


class InverseLoss:
    """Weights 1 / (running mean of the task's value loss), in units of the tasks' mean loss."""

    needs_gradients = False

    def __init__(self, num_tasks: int, device: torch.device):
        self.means = torch.ones(num_tasks, device=device)

    def update(self, losses: Tensor, present: Tensor, gradient_norms: Tensor | None) -> Tensor:
        """The weights [tasks] for this step; `present` says which tasks the batch has."""
        self.means += 0.01 * torch.where(present, losses - self.means, 0.0)
        return self.means.mean() / self.means.clamp(min=1e-6)

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means.copy_(state["means"])
