"""Encoders: K experts that each turn an observation into a feature vector.

An encoder is a module with `feature_size` (D) whose `forward(obs, task_ids)` takes the observation's arrays `[N, ...]` and gives
`[N, K, D]`.
`make_encoder` picks one by the observation space; a new kind of observation is a class and a line in `ENCODERS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import torch
from jaxtyping import Float, Int, Num, UInt8
from torch import Tensor, nn

from envs.mixed import KIND
from mtrl.config import ConfigError, ModelConfig, look_up
from mtrl.models.activations import Tanh, tanh
from mtrl.models.frames import FramesEncoder
from mtrl.models.normalization import ObservationScale

CELL = (11, 6, 4)  # MiniGrid's kinds of objects, its colours, its states of doors and directions of agents


class GridEncoder(nn.Module):
    """Three 2x2 convolutions over MiniGrid's 7x7x3 view, as MOORE has them; no activation after the last (D = 1024 at width 1).

    `model.grid_cells` says whether they read a cell's three numbers as they are, which is MOORE's way, or which of its kinds it is.
    """

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        num_experts, width = model.experts, model.width
        self._one_hot = model.grid_cells == "one_hot"
        self._channels = (sum(CELL) if self._one_hot else 3, *(max(1, round(width * channels)) for channels in (16, 32, 64)))
        self.feature_size = 4 * 4 * self._channels[-1]
        # Separate small convolutions: on a CPU one grouped convolution takes twice their time.
        self.experts = nn.ModuleList(self._expert() for _ in range(num_experts))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _expert(self) -> nn.Sequential:
        a, b, c, d = self._channels
        layers = nn.Sequential(nn.Conv2d(a, b, 2), nn.ReLU(), nn.Conv2d(b, c, 2), nn.ReLU(), nn.Conv2d(c, d, 2))
        for layer in (layers[0], layers[2]):
            initialize(layer, nn.init.calculate_gain("relu"))
        initialize(layers[4], 1.0)
        return layers

    def forward(self, obs: dict[str, UInt8[Tensor, "N 7 7 3"]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N views."""
        image = one_hot(obs["image"]) if self._one_hot else obs["image"].float().permute(0, 3, 1, 2)
        # Flattened in memory's order (height, width, channel), which costs no copy.
        return torch.stack([expert(image).permute(0, 2, 3, 1).flatten(1) for expert in self.experts], dim=1)


class MissionEncoder(nn.Module):
    """A grid's view together with a sentence: between the convolutions of `GridEncoder`, each expert scales and shifts its channels
    by numbers that depend on a GRU's encoding of the mission (FiLM, Perez et al. 2018). Cells are one-hot.
    """

    EMBEDDING, SENTENCE = 32, 128

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        mission: Any = space["mission"]
        self.words = nn.Embedding(int(mission.high.max()) + 1, self.EMBEDDING, padding_idx=0)
        self.gru = nn.GRU(self.EMBEDDING, self.SENTENCE, batch_first=True)
        channels = [max(1, round(model.width * count)) for count in (16, 32, 64)]
        self.feature_size = 4 * 4 * channels[-1]
        self.experts = nn.ModuleList(_MissionExpert(sum(CELL), channels, self.SENTENCE) for _ in range(model.experts))

    def forward(self, obs: dict[str, UInt8[Tensor, "N ..."]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N views with missions."""
        image = one_hot(obs["image"])
        sentences = self._read(obs["mission"])
        return torch.stack([expert(image, sentences) for expert in self.experts], dim=1)

    def _read(self, missions: UInt8[Tensor, "N L"]) -> Float[Tensor, "N S"]:
        """The GRU's state after each sentence's last word. A batch has few different ones, and each is read once."""
        different, place = missions.unique(dim=0, return_inverse=True)
        lengths = (different > 0).sum(dim=1)
        longest = max(1, int(lengths.max()))
        read, _ = self.gru(self.words(different[:, :longest].long()))
        return read[torch.arange(len(different), device=read.device), (lengths - 1).clamp(min=0)][place]


class _MissionExpert(nn.Module):
    def __init__(self, inputs: int, channels: list[int], sentence: int):
        super().__init__()
        a, b, c = channels
        self.first, self.second, self.third = nn.Conv2d(inputs, a, 2), nn.Conv2d(a, b, 2), nn.Conv2d(b, c, 2)
        for layer in (self.first, self.second):
            initialize(layer, nn.init.calculate_gain("relu"))
        initialize(self.third, 1.0)
        self.modulation = nn.Linear(sentence, 2 * b)

    def forward(self, image: Tensor, sentences: Tensor) -> Tensor:
        scale, shift = self.modulation(sentences)[:, :, None, None].chunk(2, dim=1)
        hidden = self.second(torch.relu(self.first(image)))
        return self.third(torch.relu((1 + scale) * hidden + shift)).flatten(1)


class VectorEncoder(nn.Module):
    """Two hidden layers of tanh units over a vector of floats; the features are the outputs of a third linear layer (D = 64 at width 1)."""

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        num_experts, width = model.experts, model.width
        size = int(space["vector"].shape[0])  # type: ignore[index]
        self.feature_size = hidden = max(1, round(64 * width))
        self.scale = ObservationScale(num_tasks, size) if model.normalize_observations else None
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(size, hidden), Tanh(), nn.Linear(hidden, hidden), Tanh(), nn.Linear(hidden, hidden))
            for _ in range(num_experts)
        )

    def forward(self, obs: dict[str, Num[Tensor, "N size"]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N vectors."""
        vector = obs["vector"].float()
        if self.scale is not None:
            vector = self.scale(vector, task_ids)
        return torch.stack([expert(vector) for expert in self.experts], dim=1)


class MixedEncoder(nn.Module):
    """Observations of several kinds: each kind's own encoder turns them into vectors of one length, which all experts share (D = 256 at
    width 1).
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        kinds: dict[str, dict[str, gymnasium.Space]] = {}
        for name, part in space.items():
            if name != KIND:
                number, _, key = name.partition(".")
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


ENCODERS: dict[str, EncoderKind] = {
    "frames": EncoderKind(lambda space: set(space) == {"frames"} and len(space["frames"].shape or ()) == 3, FramesEncoder),
    "grid": EncoderKind(lambda space: set(space) == {"image"} and space["image"].shape == (7, 7, 3), GridEncoder),
    "mission": EncoderKind(
        lambda space: set(space) == {"image", "mission"} and space["image"].shape == (7, 7, 3) and len(space["mission"].shape or ()) == 1,
        MissionEncoder,
    ),
    "mixed": EncoderKind(lambda space: KIND in set(space), MixedEncoder),
    "vector": EncoderKind(lambda space: set(space) == {"vector"} and len(space["vector"].shape or ()) == 1, VectorEncoder),
}


def make_encoder(space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int) -> nn.Module:
    """The encoder for observations of `space`, with `model.experts` experts whose layers have `model.width` times their usual units.

    Raises:
        ValueError: no encoder reads this space.
        ConfigError: its features have fewer dimensions than there are experts.
    """
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


def one_hot(image: UInt8[Tensor, "N 7 7 3"]) -> Float[Tensor, "N C 7 7"]:
    """Each cell's kind, colour and state as ones among zeros: none of them has an order."""
    numbers = image.flatten(0, 2).int()
    # Looked up, which takes a quarter of the time of writing ones into zeros.
    parts = [torch.eye(n, device=image.device).index_select(0, numbers[:, i].clamp(max=n - 1)) for i, n in enumerate(CELL)]
    return torch.cat(parts, dim=1).unflatten(0, image.shape[:3]).permute(0, 3, 1, 2)


def initialize(layer: nn.Module, gain: float) -> None:
    """Xavier-uniform weights scaled by `gain`, and zero biases."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
