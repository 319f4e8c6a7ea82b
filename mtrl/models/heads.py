"""Heads: from the mixed feature to a policy's parameters or a value."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from mtrl.models.activations import tanh


class MultiHead(nn.Module):
    """A head of its own for every task: linear, tanh, linear. Rows come sorted by task."""

    def __init__(self, num_tasks: int, inputs: int, hidden: int, outputs: int, *, output_gain: float):
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(num_tasks, hidden, inputs))
        self.hidden_bias = nn.Parameter(torch.zeros(num_tasks, hidden))
        self.output_weight = nn.Parameter(torch.empty(num_tasks, outputs, hidden))
        self.output_bias = nn.Parameter(torch.zeros(num_tasks, outputs))
        for task in range(num_tasks):
            nn.init.xavier_uniform_(self.hidden_weight.data[task], nn.init.calculate_gain("tanh"))
            nn.init.xavier_uniform_(self.output_weight.data[task], output_gain)

    def forward(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """`counts[task]` consecutive rows of `features` belong to each task."""
        outputs = [
            functional.linear(
                tanh(functional.linear(rows, self.hidden_weight[task], self.hidden_bias[task])),
                self.output_weight[task],
                self.output_bias[task],
            )
            for task, rows in enumerate(features.split(list(counts)))
            if len(rows)
        ]
        return torch.cat(outputs) if outputs else features.new_zeros(0, self.output_bias.shape[1])


class SingleHead(nn.Module):
    """One head for all tasks that reads the task as one-hot beside the feature."""

    def __init__(self, num_tasks: int, inputs: int, hidden: int, outputs: int, *, output_gain: float):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        # A one-hot input selects a column of the weights: adding that column is the same and needs no concatenation.
        self.task_bias = nn.Parameter(torch.zeros(num_tasks, hidden))
        self.output = nn.Linear(hidden, outputs)
        nn.init.xavier_uniform_(self.hidden.weight, nn.init.calculate_gain("tanh"))
        nn.init.xavier_uniform_(self.task_bias.data, nn.init.calculate_gain("tanh"))
        nn.init.xavier_uniform_(self.output.weight, output_gain)

    def forward(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """`counts[task]` consecutive rows of `features` belong to each task."""
        repeats = torch.tensor(counts, device=features.device)
        return self.output(tanh(self.hidden(features) + self.task_bias.repeat_interleave(repeats, dim=0)))


class KindHead(nn.Module):
    """A head whose first output says which kind of action a row's task has; the others stay as they are."""

    def __init__(self, head: nn.Module, kinds: Sequence[int]):
        super().__init__()
        self.head = head
        self.kinds: Tensor
        self.register_buffer("kinds", torch.tensor(kinds, dtype=torch.float32), persistent=False)

    def forward(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """`counts[task]` consecutive rows of `features` belong to each task."""
        outputs = self.head(features, counts)
        repeats = torch.tensor(counts, device=features.device)
        kinds = self.kinds[: len(counts)].repeat_interleave(repeats).to(outputs.dtype)
        return torch.cat([kinds.unsqueeze(1), outputs[:, 1:]], dim=1)
