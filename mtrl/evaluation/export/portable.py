"""An actor as a function of tensors alone, which a file can hold.

For one task the mixture can be folded: the task's weights become constants, and the heads of the other tasks and the experts without any
effect are left out. With Gram-Schmidt these are the experts after the last one with a weight: each expert is made orthogonal to the earlier
ones, so that an earlier expert changes the later ones even at weight 0. Without Gram-Schmidt these are all experts at weight 0.
"""

from __future__ import annotations

import copy
from typing import Any

import gymnasium
import torch
from torch import Tensor, nn

from envs import TaskSuite
from envs.mixed import MixedSuite
from mtrl.evaluation.export.branches import PortableBranches
from mtrl.evaluation.export.encoders import portable_encoder
from mtrl.evaluation.export.heads import portable_head
from mtrl.evaluation.export.mixture import mix
from mtrl.evaluation.export.outputs import portable_form
from mtrl.models.experts import mix_plain
from mtrl.models.masks import forbid
from mtrl.models.policy import Actor

MEMORY_INPUTS = ("hidden", "cell", "last_action", "last_reward", "start")


class PortableActor(nn.Module):
    """An actor as a function of the tensors that `inputs` names: arrays of observations, `task_ids` unless it is folded for a task, and the
    memory's hidden, cell, last_action, last_reward and start (whether the observation is an episode's first).

    Returns what `form` says of the action distribution, `[N, form.size]`; with a memory also its new hidden and cell state.

    Args:
        actor: the actor, which is copied.
        suite: its tasks.
        task: the index of the one task to fold it for. Of a suite of several kinds it then reads the arrays of the task's own kind, by
            their own names, and gives the numbers of its own kind of actions.

    Raises:
        UserError: its action distribution has no form in a file.
    """

    def __init__(self, actor: Actor, suite: TaskSuite, task: int | None = None):
        super().__init__()
        self._task = task
        seen, acted = _kinds(suite, task)
        self.arrays: dict[str, gymnasium.Space] = dict(suite.observation_space.items())
        if seen is not None:
            self.arrays = {name.removeprefix(f"{seen}."): own for name, own in self.arrays.items() if name.startswith(f"{seen}.")}
        memory = MEMORY_INPUTS if actor.memory is not None else ()
        self.inputs = (*self.arrays, *(() if task is not None else ("task_ids",)), *memory)
        self.outputs = ("parameters", "new_hidden", "new_cell") if memory else ("parameters",)
        self.form = portable_form(actor.distribution, acted)
        self.encoder = portable_encoder(actor.trunk.encoder, seen)
        gate, orthogonal = actor.trunk.gate, actor.trunk.orthogonal
        own_rows = slice(None) if task is None else slice(task, task + 1)
        weights = gate.task_weights().detach()[own_rows]
        if task is not None:
            used = torch.nonzero(weights[0]).flatten().tolist()
            kept = list(range(max(used, default=0) + 1)) if orthogonal else used or [0]
            self.encoder.experts = nn.ModuleList(self.encoder.experts[k] for k in kept)
            weights = weights[:, kept]
        self._mix = mix if orthogonal else mix_plain
        self.num_experts = weights.shape[1]
        self.weights: Tensor
        self.vectors: Tensor | None
        self.register_buffer("weights", weights.clone())
        self.register_buffer("vectors", gate.vectors().detach()[own_rows].clone() if gate.vectors is not None else None)
        self.private = None if actor.trunk.private is None else PortableBranches(actor.trunk, task, seen)
        self.memory = copy.deepcopy(actor.memory)
        if self.memory is not None:
            self.memory._distribution = self.form  # type: ignore[assignment]  # of which a memory reads the encoding of actions alone
        self.head = portable_head(actor.head, actor.num_tasks, task)
        self.mask = actor.mask if actor.mask is None or seen is None else actor.mask.of_kind(seen)

    def forward(self, *inputs: Tensor) -> Any:
        """Numbers of the action distribution, see the class."""
        given = dict(zip(self.inputs, inputs, strict=True))
        obs = {name: given[name] for name in self.arrays}
        rows = inputs[0].shape[0]
        # The statistics of observations have a row for each task, also in a folded actor.
        task_ids = given["task_ids"] if self._task is None else torch.full((rows,), self._task, device=inputs[0].device)
        features = torch.tanh(self._mix(self.encoder(obs, task_ids), self._rows(self.weights, task_ids)))
        if self.private is not None:
            features = self.private(features, obs, task_ids)
        if self.vectors is not None:
            features = torch.cat([features, self._rows(self.vectors, task_ids)], dim=-1)
        of_head = task_ids if self._task is None else None
        if self.memory is None:
            return self._allowed(self.head(features, None, of_head), obs)
        hidden, cell = self.memory.step(self.memory.project(features, obs, task_ids), given)
        return self._allowed(self.head(features, hidden, of_head), obs), hidden, cell

    def _allowed(self, parameters: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """The file's numbers of the head's parameters, without the actions that the observations forbid."""
        return self.form.parameters(parameters if self.mask is None else forbid(parameters, self.mask.allowed(obs)))

    def _rows(self, table: Tensor, task_ids: Tensor) -> Tensor:
        """The row of each row's task; a folded table has one alone."""
        return table[task_ids] if self._task is None else table.expand(task_ids.shape[0], -1)


def _kinds(suite: TaskSuite, task: int | None) -> tuple[int | None, int | None]:
    """A task's kinds of observations and of actions, where the suite has several and a task is given."""
    if task is None or not isinstance(suite, MixedSuite):
        return None, None
    return suite.observation_kinds[task], suite.action_kinds[task]
