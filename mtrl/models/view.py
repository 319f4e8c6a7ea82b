"""The observation itself as an input of the memory, beside the mixed feature."""

from __future__ import annotations

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from envs.observations import GRID_SHAPE, VECTOR
from mtrl.models.encoders import CELL, one_hot
from mtrl.models.normalization import Scale
from mtrl.parallel import Total


class View(nn.Module):
    """The raw observation, normalised per task: a vector's numbers, or the frequency of each kind, colour and state in the parts of a
    grid's view to the left, straight ahead and to the right.

    A memory has to tell a key from a ball long after it has seen one. In the mixed feature, which has unit length, their difference is some
    hundredths of what all observations have in common, and moves with every step of the optimiser. In the raw observation the difference
    has unit scale and does not move. Each cell's own numbers would say more, and the policy learned to shun lava from them before it had
    found a gap.
    """

    def __init__(self, space: gymnasium.spaces.Dict, num_tasks: int):
        super().__init__()
        self.key = _key_of(space) or VECTOR
        self.size = 3 * sum(CELL) if self.key == "image" else int(space[self.key].shape[0])  # type: ignore[index]
        self.scale = Scale(num_tasks, self.size)

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N size"]:
        """The normalised vectors of N observations."""
        return self.scale(self._vectors(obs), task_ids)

    @torch.no_grad()
    def observe(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"], counts: Float[Tensor, " N"], total: Total) -> None:
        """Takes N observations that count `counts` times each into the statistics."""
        self.scale.update(self._vectors(obs), task_ids, counts, total)

    def _vectors(self, obs: dict[str, Tensor]) -> Tensor:
        return _shown(one_hot(obs["image"])) if self.key == "image" else obs[self.key].float()


def make_view(space: gymnasium.Space, num_tasks: int) -> View | None:
    """The view of a space; None for observations that are too large to be read raw, such as screens, and for those of several families."""
    assert isinstance(space, gymnasium.spaces.Dict)
    return View(space, num_tasks) if _key_of(space) is not None else None


def _key_of(space: gymnasium.spaces.Dict) -> str | None:
    """The array that is read: MiniGrid's view, or else the vector."""
    if "image" in space.spaces and space["image"].shape == GRID_SHAPE:
        return "image"
    return VECTOR if VECTOR in space.spaces else None


def _shown(cells: Float[Tensor, "N C 7 7"]) -> Float[Tensor, "N D"]:
    """Means over the columns to the left of the agent, its own and those to the right, beside each other."""
    half = cells.shape[2] // 2
    return torch.cat([part.mean((2, 3)) for part in cells.tensor_split([half, half + 1], dim=2)], dim=1)
