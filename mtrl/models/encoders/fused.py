"""One encoder for observations of several arrays: images, vectors, texts and choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from envs.observations import VECTOR, LeafKind, leaf_kind
from mtrl.config import ModelConfig
from mtrl.models.activations import Tanh, tanh
from mtrl.models.encoders.frames import ImageEncoder
from mtrl.models.encoders.text import ChoicesEncoder, TextEncoder
from mtrl.models.encoders.vector import VectorEncoder


def _vector(space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, key: str) -> nn.Module:
    assert key == VECTOR
    return VectorEncoder(space, model, num_tasks)


STEMS: dict[LeafKind, Callable[[gymnasium.spaces.Dict, ModelConfig, int, str], nn.Module]] = {
    "vector": _vector,
    "image": ImageEncoder,
    "text": TextEncoder,
    "choices": ChoicesEncoder,
}
"""The encoder of each kind of array."""


class FusedEncoder(nn.Module):
    """Each array's own encoder makes features of it, a linear layer makes a vector of all of them, and the experts read that (D = 256 at
    width 1). Stems and the linear layer are shared by all experts.
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        self.feature_size = size = max(1, round(256 * model.width))
        alone = model.model_copy(update={"experts": 1})
        self.names = tuple(space)
        stems = [STEMS[leaf_kind(part)](space, alone, num_tasks, name) for name, part in space.items()]
        self.stems = nn.ModuleList(stems)
        self.same_operations = all(getattr(stem, "same_operations", False) for stem in stems)
        sizes: list[Any] = [stem.feature_size for stem in stems]
        self.join = nn.Linear(sum(sizes), size)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(size, size), Tanh(), nn.Linear(size, size)) for _ in range(model.experts))

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N observations."""
        stems = zip(self.names, self.stems, strict=True)
        features = [tanh(stem({name: obs[name]}, task_ids)[:, 0]) for name, stem in stems]
        vectors = tanh(self.join(torch.cat(features, dim=-1)))
        return torch.stack([expert(vectors) for expert in self.experts], dim=1)
