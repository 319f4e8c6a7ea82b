"""A gate of one's own: every task takes all experts, with positive weights of unit length."""

import sys

import torch
from torch import Tensor, nn

from mtrl.cli import main
from mtrl.config import ModelConfig
from mtrl.models.gates import GATES


class UnitGate(nn.Module):
    """Weights |w| / ‖w‖ for each task; a gate maps task ids [N] to weights [N, K]."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_tasks, num_experts))

    def task_weights(self) -> Tensor:
        """The weights of every task, [tasks, K]."""
        return nn.functional.normalize(self.weight.abs(), dim=-1)

    def forward(self, task_ids: Tensor) -> Tensor:
        """The weights of the experts for rows of the given tasks, [N, K]."""
        return self.task_weights()[task_ids]


def make(num_tasks: int, model: ModelConfig) -> nn.Module:
    """Builds the gate; GATES wants this signature."""
    return UnitGate(num_tasks, model.experts)


GATES["unit"] = make

if __name__ == "__main__":
    sys.exit(main(["train", "toy", "--model.gate", "unit", *sys.argv[1:]]))
