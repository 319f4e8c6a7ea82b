"""What a memory reads of an observation beside the mixed feature."""

from __future__ import annotations

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mtrl.models.encoders import CELL, one_hot
from mtrl.models.normalization import Scale
from mtrl.parallel import Total

KINDS = ("image", "vector")


class View(nn.Module):
    """The observation itself as one vector, each number at mean 0 and deviation 1 of its task; a grid's cells one-hot.

    A memory has to multiply what it saw with what it sees. In the mixed feature, which has unit length, what tells a key from a ball is
    some hundredths of what all observations have in common, and moves with every step of the optimiser. Here it is as large as anything
    else and stays where it is.
    """

    def __init__(self, space: gymnasium.spaces.Dict, num_tasks: int):
        super().__init__()
        self.key = next(key for key in KINDS if key in space.spaces)
        self.size = 49 * sum(CELL) if self.key == "image" else int(space[self.key].shape[0])  # type: ignore[index]
        self.scale = Scale(num_tasks, self.size)

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N size"]:
        """Of N observations."""
        return self.scale(self._vectors(obs), task_ids)

    @torch.no_grad()
    def observe(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"], counts: Float[Tensor, " N"], total: Total) -> None:
        """Takes N observations that count `counts` times each into the statistics."""
        self.scale.update(self._vectors(obs), task_ids, counts, total)

    def _vectors(self, obs: dict[str, Tensor]) -> Tensor:
        return one_hot(obs["image"]).flatten(1) if self.key == "image" else obs[self.key].float()


def make_view(space: gymnasium.Space, num_tasks: int) -> View | None:
    """None for observations that are too large to be read as they are, such as screens, and for those of several families."""
    assert isinstance(space, gymnasium.spaces.Dict)
    return View(space, num_tasks) if any(key in space.spaces for key in KINDS) else None
