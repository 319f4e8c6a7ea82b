"""The division of a batch into minibatches of equal size, with as many steps of each task in every one."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mtrl.learning.batch import STEP_FIELDS, Batch
from mtrl.learning.minibatches import Minibatch
from mtrl.learning.targets import Targets, at_steps
from mtrl.models.rows import IndexedObservations, Rows


class Division:
    """Draws a new division for each pass. Sizes depend on the numbers of slots alone, so that they are the same in each update.

    A task's steps, those that do not count too, are spread over the minibatches in random order. Where their number is no multiple of the
    number of minibatches, some minibatches have a place without a step.

    Args:
        batch: T steps of B slots, of the shape that is to be divided.
        parts: minibatches.
        num_tasks: tasks of the suite.
    """

    def __init__(self, batch: Batch, parts: int, num_tasks: int):
        steps = len(batch.valid)
        device = batch.valid.device
        counts = [steps * count for count in batch.observations.task_ids.bincount(minlength=num_tasks).tolist()]
        self.counts = tuple(-(-count // parts) for count in counts)  # places for each task in a minibatch
        self._parts = parts
        self._step_tasks = batch.observations.task_ids.repeat(steps)
        self._layout, self._filled = _layout(counts, parts)
        self._layout, self._filled = self._layout.to(device), self._filled.to(device)
        tasks = torch.arange(num_tasks).repeat_interleave(torch.tensor(self.counts))
        self._tasks = tasks.to(device)
        self._identity = torch.arange(len(tasks), device=device).unsqueeze(0)
        self._steps = torch.zeros(len(tasks), dtype=torch.int64, device=device)
        self._counted = torch.zeros(len(tasks), device=device)

    def draw(self, generator: torch.Generator) -> Int[Tensor, " TB"]:
        """All steps, as positions in the flattened [T, B], sorted by task and in random order within each."""
        keys = torch.rand(len(self._step_tasks), dtype=torch.float64, device=self._step_tasks.device, generator=generator)
        return (keys + self._step_tasks).argsort()

    def select(self, order: Int[Tensor, " TB"], number: int) -> None:
        """Makes `minibatch` give the minibatch of this number of the pass that `order` was drawn for."""
        torch.index_select(order, 0, self._layout[number], out=self._steps)
        self._counted.copy_(self._filled[number])

    def minibatch(self, batch: Batch, targets: Targets, *, updates_critic: bool) -> Minibatch:
        """The selected minibatch, by operations that are the same for all of them."""
        steps, observations = self._steps, batch.observations
        places = observations.inverse[:-1].flatten()[steps]
        rows = Rows({name: array[places] for name, array in observations.rows.obs.items()}, self._tasks, self.counts)
        fields = {name: at_steps(getattr(batch, name), steps) for name in STEP_FIELDS}
        fields["weights"] = fields["weights"] * (self._parts * self._counted)
        part = Batch(IndexedObservations(rows, self._identity, self._tasks, None), **fields)
        return Minibatch(part, targets.of_steps(steps), None, targets.moments, updates_actor=True, updates_critic=updates_critic)


def _layout(counts: list[int], parts: int) -> tuple[Int[Tensor, "parts S"], Bool[Tensor, "parts S"]]:
    """For each place of each minibatch a position among the steps sorted by task, and whether a step is there that no other place has."""
    positions, filled, start = [], [], 0
    for count in counts:
        size = -(-count // parts)
        position = torch.arange(size) * parts + torch.arange(parts).unsqueeze(1)
        filled.append(position < count)
        positions.append(start + position.clamp(max=max(0, count - 1)))
        start += count
    return torch.cat(positions, dim=1), torch.cat(filled, dim=1)
