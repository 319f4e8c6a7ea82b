"""An actor as a function of tensors alone, which torch.export can write into a file."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from envs import TaskSuite
from mtrl.models.distributions import Normal
from mtrl.models.experts import mix, mix_plain
from mtrl.models.heads import Head, MultiHead, SingleHead
from mtrl.models.policy import Actor

MEMORY_INPUTS = ("hidden", "cell", "last_action", "last_reward", "start")


class PortableActor(nn.Module):
    """An actor as a function of tensors alone: `(observation, task_ids, *memory)` or, folded, `(observation, *memory)`.

    Returns logits `[N, actions]`, or means and standard deviations side by side `[N, 2 · size]`; with a memory also its new hidden and cell
    state. The memory's inputs are hidden, cell, last_action, last_reward and start (whether the observation is an episode's first).
    """

    def __init__(self, actor: Actor, observation: str, task: int | None = None):
        super().__init__()
        self._observation, self._task = observation, task
        trunk = actor.trunk
        table = trunk.gate.task_weights().detach().clone()
        self._orthogonal = trunk._mix is mix
        encoder: Any = copy.deepcopy(trunk.encoder)
        if task is not None:
            used = torch.nonzero(table[task]).flatten().tolist()
            kept = list(range(max(used, default=0) + 1)) if self._orthogonal else used or [0]
            encoder.experts = nn.ModuleList(encoder.experts[k] for k in kept)
            table = table[task : task + 1, kept]
        self.vectors: Tensor | None
        vectors = None if trunk.gate.vectors is None else trunk.gate.vectors().detach().clone()
        self.register_buffer("vectors", vectors if vectors is None or task is None else vectors[task : task + 1])
        self.num_experts = len(encoder.experts)
        self.encoder = encoder
        self.weights: Tensor
        self.register_buffer("weights", table)
        self.memory = copy.deepcopy(actor.memory)
        own = not isinstance(actor.head, MultiHead | SingleHead)
        self.head = OwnHead(actor.head, actor.num_tasks, task) if own else PortableHead(actor.head, task)
        self._continuous = isinstance(actor.distribution, Normal)

    def forward(self, observation: Tensor, *inputs: Tensor) -> Any:
        """Parameters of the action distribution, see the class."""
        if self._task is None:
            task_ids, *memory = inputs
        else:
            task_ids, memory = torch.zeros_like(observation.flatten(1)[:, 0], dtype=torch.int64), list(inputs)
        # The encoder's statistics have a row for each task, the folded weights have one row.
        own_ids = task_ids if self._task is None else task_ids + self._task
        blend = mix if self._orthogonal else mix_plain
        obs = {self._observation: observation}
        features = torch.tanh(blend(self.encoder(obs, own_ids), self.weights[task_ids]))
        if self.vectors is not None:
            features = torch.cat([features, self.vectors[task_ids]], dim=-1)
        if self.memory is None:
            return self._output(self.head(features, None, task_ids))
        hidden, cell = self.memory.step(self.memory.project(features, obs, own_ids), dict(zip(MEMORY_INPUTS, memory, strict=True)))
        return self._output(self.head(features, hidden, task_ids)), hidden, cell

    def _output(self, parameters: Tensor) -> Tensor:
        if not self._continuous:
            return parameters
        mean, offset = parameters.chunk(2, dim=-1)
        return torch.cat([mean, Normal.log_scale(offset).exp()], dim=-1)


class PortableHead(nn.Module):
    """A head that gathers the parameters of each row's task, so that rows may come in any order."""

    def __init__(self, head: nn.Module, task: int | None):
        super().__init__()
        rows = slice(None) if task is None else slice(task, task + 1)
        self._per_task = isinstance(head, MultiHead)
        if isinstance(head, MultiHead):
            for name in ("hidden_weight", "hidden_bias", "output_weight", "output_bias", "recall_weight"):
                parameter = getattr(head, name)
                self.register_buffer(name, parameter.detach()[rows].clone() if parameter is not None else None)
        else:
            self.hidden, self.output = copy.deepcopy(head.hidden), copy.deepcopy(head.output)
            bias: Any = head.task_bias
            self.register_buffer("task_bias", bias.detach()[rows].clone() if bias is not None else None)
            self.recall_weight = copy.deepcopy(head.recall_weight)

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor) -> Tensor:
        """The outputs of rows in any order of tasks."""
        head: Any = self
        if self._per_task:
            sums = torch.einsum("nhd,nd->nh", head.hidden_weight[task_ids], features) + head.hidden_bias[task_ids]
            if held is not None:
                sums = sums + torch.einsum("nhd,nd->nh", head.recall_weight[task_ids], held)
            return torch.einsum("noh,nh->no", head.output_weight[task_ids], torch.tanh(sums)) + head.output_bias[task_ids]
        sums = head.hidden(features)
        if head.task_bias is not None:
            sums = sums + head.task_bias[task_ids]
        if held is not None:
            sums = sums + torch.nn.functional.linear(held, head.recall_weight)
        return head.output(torch.tanh(sums))


class OwnHead(nn.Module):
    """A head of the user's own, of which nothing is known but that its rows are sorted by task: it is asked for all rows of every task."""

    def __init__(self, head: Head, num_tasks: int, task: int | None):
        super().__init__()
        self.head = copy.deepcopy(head)
        self._num_tasks = num_tasks
        self._tasks = range(num_tasks) if task is None else [task]

    def forward(self, features: Tensor, held: Tensor | None, task_ids: Tensor) -> Tensor:
        """The outputs of rows in any order of tasks."""
        outputs = torch.stack([self._of_task(features, held, task) for task in self._tasks], dim=1)  # [N, tasks, O]
        return outputs.gather(1, task_ids[:, None, None].expand(-1, 1, outputs.shape[2])).squeeze(1)

    def _of_task(self, features: Tensor, held: Tensor | None, task: int) -> Tensor:
        counts = [features.shape[0] if each == task else 0 for each in range(self._num_tasks)]
        sums = self.head.project_features(features, counts)
        return self.head.outputs(sums if held is None else sums + self.head.project_memory(held, counts), counts)


def example_inputs(suite: TaskSuite, actor: Actor, task: int | None, rows: int) -> tuple[Tensor, ...]:
    """Inputs of a `PortableActor` of the right shapes and kinds."""
    (space,) = suite.observation_space.values()
    space.seed(0)
    observation = torch.from_numpy(_stack(space, rows))
    task_ids = () if task is not None else (torch.arange(rows) % suite.num_tasks,)
    if actor.memory is None:
        return (observation, *task_ids)
    first = {name: torch.from_numpy(array) for name, array in actor.memory.initial(rows).items()}
    return (observation, *task_ids, *(first[name] for name in MEMORY_INPUTS))


def _stack(space: gymnasium.Space[Any], rows: int) -> Any:
    return np.stack([space.sample() for _ in range(rows)])
