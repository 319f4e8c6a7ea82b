"""Example inputs of an exported policy, and what the policy itself gives for them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import TaskSuite
from envs.mixed import KIND, MixedSuite
from mtrl.evaluation.export.portable import PortableActor
from mtrl.models.distributions import Either
from mtrl.models.policy import Actor
from mtrl.models.rows import Rows


class Example(NamedTuple):
    """Inputs of a policy, with rows in any order of tasks."""

    obs: dict[str, Tensor]  # name -> [N, ...]
    task_ids: Tensor  # [N] int64
    memory: dict[str, Tensor]  # of a policy with a memory, else empty


def make_example(suite: TaskSuite, actor: Actor, task: int | None, rows: int, seed: int = 0) -> Example:
    """Random observations of one task, or of all in turn, and a random state of the memory after some actions of the tasks' kinds."""
    task_ids = torch.arange(rows) % suite.num_tasks if task is None else torch.full((rows,), task)
    obs: dict[str, Tensor] = {}
    for number, (name, space) in enumerate(suite.observation_space.items()):
        space.seed(seed + number)
        obs[name] = torch.from_numpy(np.stack([space.sample() for _ in range(rows)]))
    if isinstance(suite, MixedSuite):
        obs[KIND] = torch.tensor(suite.observation_kinds, dtype=obs[KIND].dtype)[task_ids]
    if actor.memory is None:
        return Example(obs, task_ids, {})
    generator = torch.Generator().manual_seed(seed)
    parameters = torch.randn(rows, actor.distribution.num_parameters, generator=generator)
    if isinstance(suite, MixedSuite) and isinstance(actor.distribution, Either):
        parameters[:, 0] = torch.tensor(suite.action_kinds)[task_ids].float()
    hidden, cell = torch.rand(2, rows, actor.memory.hidden_size, generator=generator) * 2 - 1
    memory = {"hidden": hidden, "cell": cell, "last_action": actor.distribution.sample(parameters, generator)}
    reward = torch.randn(rows, generator=generator)
    return Example(obs, task_ids, memory | {"last_reward": reward, "start": torch.arange(rows) % 3 == 2})


def arguments(portable: PortableActor, example: Example) -> tuple[Tensor, ...]:
    """The example as a portable actor takes it."""
    given = example.obs | {"task_ids": example.task_ids} | example.memory
    if example.memory:
        given["last_action"] = portable.form.narrow(example.memory["last_action"])
    if KIND not in portable.arrays and KIND in example.obs:
        kind = int(example.obs[KIND][0])
        given |= {name: example.obs[f"{kind}.{name}"] for name in portable.arrays}
    return tuple(given[name] for name in portable.inputs)


@torch.inference_mode()
def of_policy(actor: Actor, portable: PortableActor, example: Example) -> tuple[Tensor, ...]:
    """What the policy itself gives, in the form of the file and in the example's order of rows: parameters, with a memory its state too."""
    order = example.task_ids.argsort(stable=True)
    back = order.argsort()
    counts = tuple(example.task_ids.bincount(minlength=actor.num_tasks).tolist())
    evaluated: Any = actor(Rows({name: array[order] for name, array in example.obs.items()}, example.task_ids[order], counts))
    if not example.memory:
        return (portable.form.parameters(evaluated[back]),)
    step = actor.remember(evaluated, {name: array[order] for name, array in example.memory.items()}, counts)
    return portable.form.parameters(step.parameters[back]), step.hidden[back], step.cell[back]
