"""Experts for vectors of numbers."""

from __future__ import annotations

import gymnasium
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mtrl.config import ModelConfig
from mtrl.models.activations import Tanh
from mtrl.models.normalization import ObservationScale


class VectorEncoder(nn.Module):
    """Two hidden layers of tanh units over a vector of floats; the features are the outputs of a third linear layer (D = 64 at width 1)."""

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        num_experts, width = model.experts, model.width
        size = int(space["vector"].shape[0])  # type: ignore[index]
        self.feature_size = hidden = max(1, round(64 * width))
        self.scale = (
            ObservationScale(num_tasks, size, least_deviation=model.observation_least_deviation, memory=model.observation_memory)
            if model.normalize_observations
            else None
        )
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(size, hidden), Tanh(), nn.Linear(hidden, hidden), Tanh(), nn.Linear(hidden, hidden))
            for _ in range(num_experts)
        )

    def forward(self, obs: dict[str, Num[Tensor, "N size"]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N vectors."""
        vector = obs["vector"].float()
        if self.scale is not None:
            vector = self.scale(vector, task_ids)
        return torch.stack([expert(vector) for expert in self.experts], dim=1)
