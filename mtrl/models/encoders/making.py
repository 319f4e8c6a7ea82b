"""Chooses the encoder of an observation space."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from envs.mixed import KIND
from envs.observations import GRID_SHAPE, IMAGE, MASK, VECTOR, leaf_kind
from mtrl.config import ConfigError, ModelConfig, look_up
from mtrl.models.activations import Tanh, tanh
from mtrl.models.encoders.frames import FramesEncoder, ImageEncoder
from mtrl.models.encoders.fused import FusedEncoder
from mtrl.models.encoders.grid import GridEncoder, MissionEncoder
from mtrl.models.encoders.vector import VectorEncoder
from mtrl.models.normalization import ObservationScale


class MixedEncoder(nn.Module):
    """Observations of several kinds: each kind's own encoder turns them into vectors of one length, which all experts share (D = 256 at
    width 1).
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        kinds: dict[str, dict[str, gymnasium.Space]] = {}
        for name, part in space.items():
            number, _, key = name.partition(".")
            if name != KIND and key != MASK:
                kinds.setdefault(number, {})[key] = part
        self.feature_size = size = max(1, round(256 * model.width))
        self._names = {number: tuple(kind) for number, kind in kinds.items()}
        alone = model.model_copy(update={"experts": 1})
        self.stems = nn.ModuleDict({number: _Stem(gymnasium.spaces.Dict(kind), alone, num_tasks, size) for number, kind in kinds.items()})
        for number, stem in self.stems.items():
            for module in stem.modules():
                if isinstance(module, ObservationScale):
                    module.key = f"{number}.{module.key}"
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(size, size), Tanh(), nn.Linear(size, size)) for _ in range(model.experts))

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N observations, each of its kind."""
        vectors = torch.zeros(len(task_ids), self.feature_size, device=task_ids.device)
        for number, stem in self.stems.items():
            rows = (obs[KIND] == int(number)).nonzero().squeeze(1)
            if len(rows):
                arrays = {name: obs[f"{number}.{name}"][rows] for name in self._names[number]}
                vectors = vectors.index_copy(0, rows, stem(arrays, task_ids[rows]).float())
        return torch.stack([expert(vectors) for expert in self.experts], dim=1)


class _Stem(nn.Module):
    """One kind's encoder and a layer to the common length."""

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, size: int):
        super().__init__()
        self.encoder = make_encoder(space, model, num_tasks)
        self.out = nn.Linear(int(self.encoder.feature_size), size)  # type: ignore[arg-type]

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        return tanh(self.out(tanh(self.encoder(obs, task_ids)[:, 0])))


class EncoderKind(NamedTuple):
    """An encoder and the observation spaces that it reads."""

    fits: Callable[[gymnasium.spaces.Dict], bool]
    build: Callable[[gymnasium.spaces.Dict, ModelConfig, int], nn.Module]


def _can_be_fused(space: gymnasium.spaces.Dict) -> bool:
    """Whether the arrays are as `envs.observations` makes them; their vector is called so."""
    kinds = {name: leaf_kind(part) for name, part in space.items()}
    grids = any(part.shape == GRID_SHAPE for part in space.values())  # channels last
    return KIND not in kinds and not grids and all((kind == "vector") == (name == VECTOR) for name, kind in kinds.items())


def _is_image(space: gymnasium.Space) -> bool:
    return leaf_kind(space) == "image" and space.shape != GRID_SHAPE


ENCODERS: dict[str, EncoderKind] = {
    # The newest entry that fits is taken, so this one goes first.
    "fused": EncoderKind(_can_be_fused, FusedEncoder),
    "frames": EncoderKind(lambda space: set(space) == {"frames"} and len(space["frames"].shape or ()) == 3, FramesEncoder),
    "grid": EncoderKind(lambda space: set(space) == {"image"} and space["image"].shape == (7, 7, 3), GridEncoder),
    "mission": EncoderKind(
        lambda space: set(space) == {"image", "mission"} and space["image"].shape == (7, 7, 3) and len(space["mission"].shape or ()) == 1,
        MissionEncoder,
    ),
    "image": EncoderKind(lambda space: set(space) == {IMAGE} and _is_image(space[IMAGE]), ImageEncoder),
    "mixed": EncoderKind(lambda space: KIND in set(space), MixedEncoder),
    "vector": EncoderKind(lambda space: set(space) == {"vector"} and len(space["vector"].shape or ()) == 1, VectorEncoder),
}


def make_encoder(space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int) -> nn.Module:
    """The encoder for observations of `space`, with `model.experts` experts whose layers have `model.width` times their usual units.

    A mask of actions is none of what it reads.

    Raises:
        ValueError: no encoder reads this space.
        ConfigError: its features have fewer dimensions than there are experts.
    """
    space = gymnasium.spaces.Dict({name: part for name, part in space.items() if name != MASK})
    # The newest entry that fits: one's own goes before those that come with the program.
    fitting = [kind.build for kind in reversed(ENCODERS.values()) if kind.fits(space)]
    if model.encoder is not None:
        fitting = [look_up(model.encoder, {name: kind.build for name, kind in ENCODERS.items()}, "model.encoder", "encoder")]
    if not fitting:
        raise ValueError(f"no encoder reads {space}; known kinds are {', '.join(ENCODERS)}")
    encoder = fitting[0](space, model, num_tasks)
    if model.experts > int(encoder.feature_size):  # type: ignore[arg-type]
        raise ConfigError(
            f"model.experts is {model.experts}, but the experts' features have {encoder.feature_size} dimensions and no more "
            f"than {encoder.feature_size} vectors can be orthogonal there"
        )
    return encoder
