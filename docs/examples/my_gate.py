"""A gate of one's own: every task takes all experts, with positive weights of unit length."""

import sys

import torch
from torch import Tensor, nn

from mtrl.cli import main
from mtrl.config import ModelConfig
from mtrl.models.gates import GATES, Gate


class UnitGate(Gate):
    """Weights |w| / ‖w‖ for each task."""

    def __init__(self, num_tasks: int, num_experts: int):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(num_tasks, num_experts))

    def task_weights(self) -> Tensor:
        """The weights of every task, [tasks, K]."""
        return nn.functional.normalize(self.weight.abs(), dim=-1)


def make(num_tasks: int, model: ModelConfig) -> Gate:
    """Builds the gate; GATES wants this signature."""
    return UnitGate(num_tasks, model.experts)


GATES["unit"] = make

if __name__ == "__main__":
    sys.exit(main(["train", "toy", "--model.gate", "unit", *sys.argv[1:]]))
