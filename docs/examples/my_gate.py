"""A gate of one's own: every task takes all experts, with positive weights of unit length."""

import torch
from torch import Tensor, nn

from mtrl.config import ModelConfig
from mtrl.models.gates import Gate


class UnitGate(Gate):
    """Weights |w| / ‖w‖ for each task."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_tasks, num_experts))

    def task_weights(self) -> Tensor:
        """The weights of every task, [tasks, K]."""
        return nn.functional.normalize(self.weight.abs(), dim=-1)


def make(num_tasks: int, model: ModelConfig) -> Gate:
    """Builds the gate of an experiment: `--model.gate my_gate:make`."""
    return UnitGate(num_tasks, model.experts)
