"""A head of one's own: the tasks share the hidden units, and each has a linear layer of its own behind them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mtrl.models.heads import Head


class SharedHidden(Head):
    """Hidden units tanh(W x) of all tasks, and outputs of each task's own; the arguments are those of `MultiHead`."""

    def __init__(self, num_tasks: int, inputs: int, hidden: int, outputs: int, *, output_gain: float, memory: int = 0):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        self.outs = nn.ModuleList(nn.Linear(hidden, outputs) for _ in range(num_tasks))
        self.recall_weight = nn.Parameter(torch.zeros(hidden, memory)) if memory else None
        for out in self.outs:
            nn.init.xavier_uniform_(out.weight, output_gain)

    def project_features(self, features: Tensor, counts: Sequence[int]) -> Tensor:
        """The features' part of the hidden units' sums, [N, hidden]."""
        return self.hidden(features)

    def project_memory(self, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        """The memory's part of the hidden units' sums, [N, hidden]."""
        return hidden @ self.recall_weight.T

    def outputs(self, sums: Tensor, counts: Sequence[int]) -> Tensor:
        """The outputs of N rows, `counts[task]` consecutive ones of each task, [N, outputs]."""
        parts = sums.tanh().split(list(counts))
        return torch.cat([out(part) for out, part in zip(self.outs, parts, strict=False)])
