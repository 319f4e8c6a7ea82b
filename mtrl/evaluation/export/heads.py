"""Heads in forms that a file can hold: rows come in any order of tasks, and no count of them is known."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mtrl.models.heads import Head, KindHead, MultiHead, SingleHead


def portable_head(head: Head, num_tasks: int, task: int | None) -> nn.Module:
    """A head as a function of features `[N, D]`, the memory's outputs `[N, H]` if there is a memory, and task ids `[N]`.

    Args:
        head: the actor's.
        num_tasks: the actor's.
        task: the one task that is left; the task ids are then None.
    """
    if isinstance(head, KindHead):
        return PortableKindHead(head, num_tasks, task)
    return PortableHead(head, task) if isinstance(head, MultiHead | SingleHead) else OwnHead(head, num_tasks, task)


class PortableHead(nn.Module):
    """A `MultiHead` or `SingleHead`, of which each row has its own task's parameters."""

    def __init__(self, head: MultiHead | SingleHead, task: int | None):
        super().__init__()
        rows = slice(None) if task is None else slice(task, task + 1)
        self._per_task = isinstance(head, MultiHead)
        if isinstance(head, MultiHead):
            for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "recall_weight"):
                parameter = getattr(head, name)
                self.register_buffer(name, parameter.detach()[rows].clone() if parameter is not None else None)
        else:
            self.hidden, self.output = copy.deepcopy(head.hidden), copy.deepcopy(head.output)
            self.register_buffer("task_bias", head.task_bias.detach()[rows].clone() if head.task_bias is not None else None)
            self.recall_weight = copy.deepcopy(head.recall_weight)

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor | None) -> Tensor:
        """The outputs, see `portable_head`."""
        return (self._of_tasks if self._per_task else self._of_all)(features, held, task_ids)

    def _of_tasks(self, features: Tensor, held: Tensor | None, task_ids: Tensor | None) -> Tensor:
        head: Any = self
        sums = _by_task(features, head.hidden_weight, task_ids) + _row(head.hidden_bias, task_ids)
        if held is not None:
            sums = sums + _by_task(held, head.recall_weight, task_ids)
        return _by_task(torch.tanh(sums), head.output_weight, task_ids) + _row(head.output_bias, task_ids)

    def _of_all(self, features: Tensor, held: Tensor | None, task_ids: Tensor | None) -> Tensor:
        head: Any = self
        sums = head.hidden(features)
        if head.task_bias is not None:
            sums = sums + _row(head.task_bias, task_ids)
        if held is not None:
            sums = sums + functional.linear(held, head.recall_weight)
        return head.output(torch.tanh(sums))


class PortableKindHead(nn.Module):
    """A `KindHead`."""

    def __init__(self, head: KindHead, num_tasks: int, task: int | None):
        super().__init__()
        self.head = portable_head(head.head, num_tasks, task)
        self.kinds: Tensor
        self.register_buffer("kinds", head.kinds.unsqueeze(1) if task is None else head.kinds[task : task + 1, None])

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor | None) -> Tensor:
        """The outputs, see `portable_head`."""
        outputs = self.head(features, held, task_ids)
        kinds = self.kinds[task_ids] if task_ids is not None else self.kinds.expand(outputs.shape[0], 1)
        return torch.cat([kinds, outputs[:, 1:]], dim=1)


class OwnHead(nn.Module):
    """A head of the user's own, of which nothing is known but that its rows are sorted by task: it is asked for all rows of every task."""

    def __init__(self, head: Head, num_tasks: int, task: int | None):
        super().__init__()
        self.head = copy.deepcopy(head)
        self._num_tasks = num_tasks
        self._task = task

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor | None) -> Tensor:
        """The outputs, see `portable_head`."""
        if task_ids is None:
            assert self._task is not None
            return self._of_task(features, held, self._task)
        return _select(torch.stack([self._of_task(features, held, task) for task in range(self._num_tasks)], dim=1), task_ids)

    def _of_task(self, features: Tensor, held: Tensor | None, task: int) -> Tensor:
        counts = [features.shape[0] if each == task else 0 for each in range(self._num_tasks)]
        sums = self.head.project_features(features, counts)
        return self.head.outputs(sums if held is None else sums + self.head.project_memory(held, counts), counts)


def _by_task(rows: Tensor, weight: Tensor, task_ids: Tensor | None) -> Tensor:
    """Each row through its task's weights; `weight` [tasks, outputs, inputs].

    Through all tasks' weights and then selected: to gather a copy of the weights for each row takes a hundred times as long in a batch.
    """
    if task_ids is None:
        return functional.linear(rows, weight[0])
    tasks, outputs, _ = weight.shape
    return _select(functional.linear(rows, weight.flatten(0, 1)).unflatten(1, (tasks, outputs)), task_ids)


def _select(outputs: Tensor, task_ids: Tensor) -> Tensor:
    """Of outputs for every task, [N, tasks, O], those for each row's own."""
    return outputs.gather(1, task_ids[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)


def _row(table: Tensor, task_ids: Tensor | None) -> Tensor:
    return table[0] if task_ids is None else table[task_ids]
