"""Gates: how much of each expert a task takes."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class LinearGate(nn.Module):
    """MOORE's task weights: a free number for each task and expert, neither normalised nor made positive."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_tasks, num_experts))
        # The initial values of a linear layer that reads the task as one-hot.
        nn.init.uniform_(self.weight, -(num_tasks**-0.5), num_tasks**-0.5)

    def forward(self, task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K"]:
        """Weights of the experts for rows of the given tasks."""
        return self.weight[task_ids]
