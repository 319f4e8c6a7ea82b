"""Vectors at unit scale, task by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mtrl.parallel import Total, add_up, alone

UNCHANGED = 1e-6  # deviation of a number that never changes, but for rounding


class Scale(nn.Module):
    """Each task's vectors at mean 0 and deviation 1, by running statistics that travel with the weights.

    Args:
        num_tasks: tasks with statistics of their own.
        size: numbers in a vector.
        least_deviation: the smallest number that a distance from the mean is divided by, in the units of the vectors.
        memory: vectors of a task that the statistics remember; of more, older ones fade. None remembers all alike.
    """

    LIMIT = 10.0  # in deviations; larger values are clipped

    def __init__(self, num_tasks: int, size: int, *, least_deviation: float = UNCHANGED, memory: int | None = None):
        super().__init__()
        self._least_deviation, self._memory = least_deviation, memory
        self.count: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("count", torch.zeros(num_tasks, 1, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(num_tasks, size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(num_tasks, size, dtype=torch.float64))  # sum of squared distances from the mean

    def forward(self, vectors: Float[Tensor, "N size"], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N size"]:
        """The normalised vectors; a dimension that never changes is only centred."""
        deviation = (self.square / self.count.clamp(min=1)).sqrt()
        moves = (self.count > 1) & (deviation > UNCHANGED)
        deviation = torch.where(moves, deviation.clamp(min=self._least_deviation), 1.0).float()
        centred = vectors - self.mean.float()[task_ids]
        return (centred / deviation[task_ids]).clamp(-self.LIMIT, self.LIMIT)

    @torch.no_grad()
    def update(
        self, vectors: Num[Tensor, "N size"], task_ids: Int[Tensor, " N"], weights: Float[Tensor, " N"], total: Total = alone
    ) -> None:
        """Takes in vectors that count `weights` times each, those of all learners.

        Chan et al.: two groups' means and squares give those of both.
        """
        x, w = vectors.double(), weights.double().unsqueeze(-1)
        added = ((self.count, w), (self.mean, w * x))
        count, sums = add_up([torch.zeros_like(like).index_add(0, task_ids, each) for like, each in added], total)
        mean = sums / count.clamp(min=1)
        square = total(torch.zeros_like(self.square).index_add(0, task_ids, w * (x - mean[task_ids]).square()))
        both = self.count + count
        shift = mean - self.mean
        self.mean += torch.where(count > 0, shift * count / both.clamp(min=1), 0.0)
        self.square += torch.where(count > 0, square + shift.square() * self.count * count / both.clamp(min=1), 0.0)
        kept = 1.0 if self._memory is None else (self._memory / both.clamp(min=1)).clamp(max=1)
        self.square *= kept
        self.count.copy_(both * kept)

    def rows_for(self, trained: Mapping[str, Tensor], places: Sequence[int | None]) -> dict[str, Tensor]:
        """The statistics of tasks of which some were not trained; these have the statistics of all observations of all trained tasks.

        Args:
            trained: this module's entries in the state dict of the trained policy.
            places: of the tasks among those of the trained policy; None for those that were not trained.
        """
        count, mean, square = (trained[name] for name in ("count", "mean", "square"))
        total = count.sum(0)
        centre = (count * mean).sum(0) / total.clamp(min=1)
        of_all = {"count": total, "mean": centre, "square": (square + count * (mean - centre).square()).sum(0)}
        return {name: torch.stack([row if at is None else trained[name][at] for at in places]) for name, row in of_all.items()}


class ObservationScale(Scale):
    """The normalisation of one of an observation's arrays."""

    def __init__(self, num_tasks: int, size: int, key: str = "vector", *, least_deviation: float = UNCHANGED, memory: int | None = None):
        super().__init__(num_tasks, size, least_deviation=least_deviation, memory=memory)
        self.key = key  # name of the array in the observation

    @torch.no_grad()
    def observe(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"], counts: Float[Tensor, " N"], total: Total) -> None:
        """Takes N observations that count `counts` times each into the statistics."""
        self.update(obs[self.key], task_ids, counts, total)
