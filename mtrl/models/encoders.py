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
from torch.nn import functional

from mtrl.config import ConfigError, ModelConfig
from mtrl.models.activations import Tanh
from mtrl.parallel import Total, add_up, alone


class GridEncoder(nn.Module):
    """Three 2x2 convolutions over MiniGrid's 7x7x3 view, as MOORE has them; no activation after the last (D = 1024 at width 1)."""

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        num_experts, width = model.experts, model.width
        self._channels = (3, *(max(1, round(width * channels)) for channels in (16, 32, 64)))
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
        image = obs["image"].float().permute(0, 3, 1, 2)
        # Flattened in memory's order (height, width, channel), which costs no copy.
        return torch.stack([expert(image).permute(0, 2, 3, 1).flatten(1) for expert in self.experts], dim=1)


class MissionEncoder(nn.Module):
    """A grid's view read in the light of a sentence: between the convolutions of `GridEncoder`, each expert scales and shifts its channels
    by what a GRU has made of the mission (FiLM, Perez et al. 2018). What is in a cell is one-hot: kinds and colours have no order.
    """

    CELL = (11, 6, 4)  # kinds of objects, colours, states of doors and directions of agents
    EMBEDDING, SENTENCE = 32, 128

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        mission: Any = space["mission"]
        self.words = nn.Embedding(int(mission.high.max()) + 1, self.EMBEDDING, padding_idx=0)
        self.gru = nn.GRU(self.EMBEDDING, self.SENTENCE, batch_first=True)
        channels = [max(1, round(model.width * count)) for count in (16, 32, 64)]
        self.feature_size = 4 * 4 * channels[-1]
        self.experts = nn.ModuleList(_MissionExpert(sum(self.CELL), channels, self.SENTENCE) for _ in range(model.experts))

    def forward(self, obs: dict[str, UInt8[Tensor, "N ..."]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N views with missions."""
        parts = [functional.one_hot(obs["image"][..., i].long().clamp(max=n - 1), n) for i, n in enumerate(self.CELL)]
        image = torch.cat(parts, dim=-1).float().permute(0, 3, 1, 2)
        sentences = self._read(obs["mission"])
        return torch.stack([expert(image, sentences) for expert in self.experts], dim=1)

    def _read(self, missions: UInt8[Tensor, "N L"]) -> Float[Tensor, "N S"]:
        """What is left of each sentence after its last word. A batch has few different ones, and each is read once."""
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


class FramesEncoder(nn.Module):
    """Stacked frames of a screen through IMPALA's convolutions (Espeholt et al. 2018): two large ones and a linear layer (`shallow`), or
    three sections of two residual blocks each (`deep`). Features are the linear layer's outputs (D = 256 at width 1).
    """

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int):
        super().__init__()
        frames: Any = space["frames"].shape
        self.feature_size = max(1, round(256 * model.width))
        build = {"shallow": _shallow, "deep": _deep}[model.frames_encoder]
        self.experts = nn.ModuleList(build(tuple(frames), model.width, self.feature_size) for _ in range(model.experts))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: dict[str, UInt8[Tensor, "N F H W"]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N stacks."""
        frames = obs["frames"].to(torch.float32, memory_format=torch.channels_last)
        return torch.stack([expert(frames) for expert in self.experts], dim=1)


def _shallow(frames: tuple[int, int, int], width: float, features: int) -> nn.Sequential:
    a, b = (max(1, round(width * channels)) for channels in (16, 32))
    layers = [_ByteConv2d(frames[0], a, 8, 4), nn.ReLU(), nn.Conv2d(a, b, 4, 2), nn.ReLU(), nn.Flatten()]
    return _to_features(layers, frames, features)


def _deep(frames: tuple[int, int, int], width: float, features: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = frames[0]
    for section in (16, 32, 32):
        wide = max(1, round(width * section))
        first = nn.Conv2d if layers else _ByteConv2d
        layers += [first(channels, wide, 3, padding=1), nn.MaxPool2d(3, 2, padding=1), _Residual(wide), _Residual(wide)]
        channels = wide
    return _to_features([*layers, nn.ReLU(), nn.Flatten()], frames, features)


def _to_features(layers: list[nn.Module], frames: tuple[int, int, int], features: int) -> nn.Sequential:
    convolutions = nn.Sequential(*layers)
    with torch.no_grad():
        size = convolutions(torch.zeros(1, *frames)).shape[1]
    return nn.Sequential(*layers, nn.Linear(size, features))


class _ByteConv2d(nn.Conv2d):
    """A convolution of bytes as if they were fractions of 255: to divide the weights is cheaper than to divide a batch of screens."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight / 255.0, self.bias)


class _Residual(nn.Module):
    """x + conv(relu(conv(relu(x))))"""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


class VectorEncoder(nn.Module):
    """Two hidden layers of tanh units over a vector of floats; the features are the outputs of a third linear layer (D = 64 at width 1)."""

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


class ObservationScale(nn.Module):
    """Each task's observations at mean 0 and deviation 1, by running statistics that travel with the weights."""

    LIMIT = 10.0  # deviations; what lies further out is clipped

    def __init__(self, num_tasks: int, size: int):
        super().__init__()
        self.count: Tensor
        self.mean: Tensor
        self.square: Tensor
        self.register_buffer("count", torch.zeros(num_tasks, 1, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(num_tasks, size, dtype=torch.float64))
        self.register_buffer("square", torch.zeros(num_tasks, size, dtype=torch.float64))  # sum of squared distances from the mean

    def forward(self, vectors: Float[Tensor, "N size"], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N size"]:
        """Normalised; a dimension that never changes is only centred."""
        deviation = (self.square / self.count.clamp(min=1)).sqrt()
        deviation = torch.where((self.count > 1) & (deviation > 1e-6), deviation, 1.0).float()
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
        self.count.copy_(both)


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
    "vector": EncoderKind(lambda space: set(space) == {"vector"} and len(space["vector"].shape or ()) == 1, VectorEncoder),
}


def make_encoder(space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int) -> nn.Module:
    """The encoder for observations of `space`, with `model.experts` experts whose layers have `model.width` times their usual units.

    Raises:
        ValueError: no encoder reads this space.
        ConfigError: its features have fewer dimensions than there are experts.
    """
    for kind in ENCODERS.values():
        if kind.fits(space):
            encoder = kind.build(space, model, num_tasks)
            if model.experts > int(encoder.feature_size):  # type: ignore[arg-type]
                raise ConfigError(
                    f"model.experts is {model.experts}, but the experts' features have {encoder.feature_size} dimensions and no more "
                    f"than {encoder.feature_size} vectors can be orthogonal there"
                )
            return encoder
    raise ValueError(f"no encoder reads {space}; known kinds are {', '.join(ENCODERS)}")


def initialize(layer: nn.Module, gain: float) -> None:
    """Xavier-uniform weights scaled by `gain`, and zero biases."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
