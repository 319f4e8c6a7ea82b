"""Experts for screens: IMPALA's convolutions over stacked frames."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mtrl.config import ModelConfig


class FramesEncoder(nn.Module):
    """Stacked frames of a screen through IMPALA's convolutions (Espeholt et al. 2018): two large ones and a linear layer (`shallow`), or
    three sections of two residual blocks each (`deep`). Features are the linear layer's outputs (D = 256 at width 1).
    """

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph

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
    """A residual block: `x + conv(relu(conv(relu(x))))`."""

    def __init__(self, channels: int):
        super().__init__()
        self.first, self.second = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))
