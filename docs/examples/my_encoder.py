"""An encoder of one's own: experts that read a vector through one layer and a sine."""

import gymnasium
import torch
from torch import Tensor, nn

from mtrl.config import ModelConfig


class SineEncoder(nn.Module):
    """K experts: sin(W x + b). An encoder maps observations [N, ...] to features [N, K, D] and names D."""

    feature_size = 32

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        size = space["vector"].shape[0]
        self.experts = nn.ModuleList(nn.Linear(size, self.feature_size) for _ in range(model.experts))

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The experts' features of N observations."""
        return torch.stack([expert(obs["vector"].float()).sin() for expert in self.experts], dim=1)
