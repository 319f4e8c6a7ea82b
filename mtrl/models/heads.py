"""Heads: from the mixed feature and the memory's hidden state to a policy's parameters or a value.

A new head is a subclass of `Head` and a line in `HEADS`, or a class of one's own that the experiment names as `module:Class`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from mtrl.config import ModelConfig, look_up
from mtrl.models.activations import tanh


class Head(nn.Module, ABC):
    """Linear, tanh, linear. Rows come sorted by task: `counts[task]` consecutive ones belong to each.

    The first layer is a sum of two parts: `project_features` of the features, computed once for each distinct observation, and
    `project_memory` of the memory's outputs at each step. The memory's outputs are not small at initialisation and carry no information
    yet, so `recall_weight`, which reads them, starts at zero. The name matters: by it the learner finds what reads the memory.
    """

    def forward(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """The outputs from features alone, without a memory."""
        return self.outputs(self.project_features(features, counts), counts)

    @abstractmethod
    def project_features(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """The features' part of the hidden units' sums."""

    @abstractmethod
    def project_memory(self, hidden: Float[Tensor, "N H"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """The memory's part of the hidden units' sums, to be added to the features'."""

    @abstractmethod
    def outputs(self, sums: Float[Tensor, "N W"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """The outputs from the hidden units' sums."""


class MultiHead(Head):
    """A head of its own for every task.

    Args:
        num_tasks: heads.
        inputs: size of a feature (D).
        hidden: units (W).
        outputs: of each (O).
        output_gain: of the last layer's initial weights.
        memory: units of the memory (H); 0 for none.
    """

    def __init__(self, num_tasks: int, inputs: int, hidden: int, outputs: int, *, output_gain: float, memory: int = 0):
        super().__init__()
        self.hidden_weight = nn.Parameter(torch.empty(num_tasks, hidden, inputs))
        self.hidden_bias = nn.Parameter(torch.zeros(num_tasks, hidden))
        self.output_weight = nn.Parameter(torch.empty(num_tasks, outputs, hidden))
        self.output_bias = nn.Parameter(torch.zeros(num_tasks, outputs))
        self.recall_weight = nn.Parameter(torch.zeros(num_tasks, hidden, memory)) if memory else None
        for task in range(num_tasks):
            nn.init.xavier_uniform_(self.hidden_weight.data[task], nn.init.calculate_gain("tanh"))
            nn.init.xavier_uniform_(self.output_weight.data[task], output_gain)

    def project_features(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        return _by_task(features, self.hidden_weight, self.hidden_bias, counts)

    def project_memory(self, hidden: Float[Tensor, "N H"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        assert self.recall_weight is not None
        return _by_task(hidden, self.recall_weight, None, counts)

    def outputs(self, sums: Float[Tensor, "N W"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """See `Head`."""
        return _by_task(tanh(sums), self.output_weight, self.output_bias, counts)


class SingleHead(Head):
    """One head for all tasks that reads the task as one-hot beside the feature. Arguments as of `MultiHead`; with `num_tasks` 0 it reads
    the feature alone, which then has the task's vector in it.
    """

    def __init__(self, num_tasks: int, inputs: int, hidden: int, outputs: int, *, output_gain: float, memory: int = 0):
        super().__init__()
        self.hidden = nn.Linear(inputs, hidden)
        # A one-hot input selects a column of the weights: adding that column is the same and needs no concatenation.
        self.task_bias = nn.Parameter(torch.zeros(num_tasks, hidden)) if num_tasks else None
        self.output = nn.Linear(hidden, outputs)
        self.recall_weight = nn.Parameter(torch.zeros(hidden, memory)) if memory else None
        nn.init.xavier_uniform_(self.hidden.weight, nn.init.calculate_gain("tanh"))
        if self.task_bias is not None:
            nn.init.xavier_uniform_(self.task_bias.data, nn.init.calculate_gain("tanh"))
        nn.init.xavier_uniform_(self.output.weight, output_gain)

    def project_features(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        sums: Tensor = self.hidden(features)
        if self.task_bias is None:
            return sums
        repeats = torch.tensor(counts, device=features.device)
        return sums + self.task_bias.repeat_interleave(repeats, dim=0)

    def project_memory(self, hidden: Float[Tensor, "N H"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        assert self.recall_weight is not None
        return functional.linear(hidden, self.recall_weight)

    def outputs(self, sums: Float[Tensor, "N W"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """See `Head`."""
        return self.output(tanh(sums))


class KindHead(Head):
    """A head whose first output says which kind of action a row's task has; the others stay as they are."""

    def __init__(self, head: Head, kinds: Sequence[int]):
        super().__init__()
        self.head = head
        self.kinds: Tensor
        self.register_buffer("kinds", torch.tensor(kinds, dtype=torch.float32), persistent=False)

    def project_features(self, features: Float[Tensor, "N D"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        return self.head.project_features(features, counts)

    def project_memory(self, hidden: Float[Tensor, "N H"], counts: Sequence[int]) -> Float[Tensor, "N W"]:
        """See `Head`."""
        return self.head.project_memory(hidden, counts)

    def outputs(self, sums: Float[Tensor, "N W"], counts: Sequence[int]) -> Float[Tensor, "N O"]:
        """See `Head`."""
        outputs = self.head.outputs(sums, counts)
        repeats = torch.tensor(counts, device=sums.device)
        kinds = self.kinds[: len(counts)].repeat_interleave(repeats).to(outputs.dtype)
        return torch.cat([kinds.unsqueeze(1), outputs[:, 1:]], dim=1)


HEADS: dict[str, Callable[..., Head]] = {
    "multi": MultiHead,
    "single": SingleHead,
}


def make_head(model: ModelConfig, num_tasks: int, inputs: int, outputs: int, *, output_gain: float) -> Head:
    """The head that the experiment names.

    Args:
        model: names the head, and has the number of its hidden units and of the memory's.
        num_tasks: tasks. With a vector of the task in each feature (`model.conditioning`) the head is told 0, as it has nothing for each.
        inputs: size of a feature (D).
        outputs: of each row (O).
        output_gain: of the last layer's initial weights.

    Raises:
        ConfigError: there is no head of that name.
    """
    memory = model.memory_size if model.memory else 0
    kind = look_up(model.heads, HEADS, "model.heads", "head")
    rows = num_tasks if model.conditioning == "one_hot" else 0
    return kind(rows, inputs, model.head_width, outputs, output_gain=output_gain, memory=memory)


def _by_task(rows: Tensor, weight: Tensor, bias: Tensor | None, counts: Sequence[int]) -> Tensor:
    """Each task's rows through its own layer; `weight` [tasks, outputs, inputs]."""
    if torch.is_grad_enabled() and (weight.requires_grad or rows.requires_grad):
        return _ByTask.apply(rows, weight, bias, tuple(counts))  # type: ignore[no-any-return, no-untyped-call]
    parts = [
        functional.linear(part, weight[task], None if bias is None else bias[task])
        for task, part in enumerate(rows.split(list(counts)))
        if len(part)
    ]
    return torch.cat(parts) if parts else rows.new_zeros(0, weight.shape[1])


class _ByTask(torch.autograd.Function):
    """The layers with a way back that writes each task's gradient into its place. Autograd's own copies all of them into one tensor, which
    for heads of a thousand inputs was a twelfth of a learner's time.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, counts: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(rows, weight)
        ctx.counts, ctx.has_bias = counts, bias is not None
        outputs = rows.new_empty(len(rows), weight.shape[1])
        for task, (part, of_part) in enumerate(zip(rows.split(list(counts)), outputs.split(list(counts)), strict=True)):
            if len(part) and bias is not None:
                torch.addmm(bias[task], part, weight[task].T, out=of_part)
            elif len(part):
                torch.mm(part, weight[task].T, out=of_part)
        return outputs

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows, weight = ctx.saved_tensors
        counts = list(ctx.counts)
        by_rows = torch.empty_like(rows) if ctx.needs_input_grad[0] else None
        by_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        by_bias = gradient.new_zeros(weight.shape[:2]) if ctx.has_bias and ctx.needs_input_grad[2] else None
        parts = zip(rows.split(counts), gradient.split(counts), strict=True)
        for task, (part, of_part) in enumerate(parts):
            if by_weight is not None:
                torch.mm(of_part.T, part, out=by_weight[task])  # zeros for a task without a row
            if by_bias is not None and len(part):
                torch.sum(of_part, dim=0, out=by_bias[task])
        if by_rows is not None:
            for task, (of_rows, of_part) in enumerate(zip(by_rows.split(counts), gradient.split(counts), strict=True)):
                if len(of_part):
                    torch.mm(of_part, weight[task], out=of_rows)
        return by_rows, by_weight, by_bias, None
