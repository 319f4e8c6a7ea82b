"""Experts for screens and other images: the convolutions of IMPALA or DQN, or smaller ones where the image is small."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mtrl.config import ModelConfig

LONGEST_SIDE = 128
"""Pixels; images that are longer are averaged over squares of pixels first."""
NATURE_SIDE = 36
"""Pixels that `nature` needs."""
LARGEST_RANGE = 1e6
"""Between the bounds of an image's numbers; those with a larger one are not scaled."""


class FramesEncoder(nn.Module):
    """Stacked frames of a screen through the convolutions of IMPALA (Espeholt et al. 2018): two large ones and a linear layer (`shallow`),
    or three sections of two residual blocks each (`deep`); or through the three of DQN (Mnih et al. 2015, `nature`). Features are the
    linear layer's outputs (D = 256 at width 1).

    Numbers are scaled from their finite bounds to [0, 1]; those with an infinite bound stay as they are.

    Args:
        space: of the observations.
        model: the experiment's.
        num_tasks: has no influence.
        key: the name of the array, channels first.
    """

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph
    SMALLEST_SIDE = 20
    """Pixels that `shallow` needs; smaller images have convolutions of three pixels."""

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, key: str = "frames"):
        super().__init__()
        box: Any = space[key]
        self.key, self.feature_size = key, max(1, round(256 * model.width))
        # Not part of the state: they follow from the space.
        self.low: Tensor | None
        self.scale: Tensor | None
        bytes_ = box.dtype == np.uint8 and bool((box.low == 0).all() and (box.high == 255).all())
        low, scale = (None, None) if bytes_ else _scaling(box)
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("scale", scale, persistent=False)
        smallest = max(self.SMALLEST_SIDE, NATURE_SIDE if model.frames_encoder == "nature" else 0)
        build = _small if min(box.shape[1:]) < smallest else NETWORKS[model.frames_encoder]
        first = _ByteConv2d if bytes_ else nn.Conv2d
        self.experts = nn.ModuleList(build(tuple(box.shape), model.width, self.feature_size, first) for _ in range(model.experts))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, obs: dict[str, Num[Tensor, "N F H W"]], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N K D"]:
        """The experts' features of N stacks."""
        # In two steps: to change the type and the order of the pixels at once takes PyTorch three times as long on a CPU.
        frames = obs[self.key].contiguous(memory_format=torch.channels_last).to(self._dtype_of(obs[self.key]))
        if self.low is not None and self.scale is not None:
            frames = (frames - self.low) * self.scale
        return torch.stack([expert(frames) for expert in self.experts], dim=1)

    def _dtype_of(self, frames: Tensor) -> torch.dtype:
        """The type that the convolutions read. Whole numbers up to 256 are exact in bfloat16: no float32 is needed in between."""
        autocast = frames.dtype == torch.uint8 and self.scale is None and torch.is_autocast_enabled(frames.device.type)
        return torch.get_autocast_dtype(frames.device.type) if autocast else torch.float32


class ImageEncoder(FramesEncoder):
    """The same for images of any size and type: two convolutions of 8 and 4 pixels leave nothing of small ones."""

    SMALLEST_SIDE = 36

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, key: str = "image"):
        super().__init__(space, model, num_tasks, key)


def _scaling(box: Any) -> tuple[Float[Tensor, "F H W"], Float[Tensor, "F H W"]]:
    """The lower bounds, and the factors that bring the ranges of numbers to 1; 0 and 1 where there is no range."""
    low, high = box.low.astype(np.float64), box.high.astype(np.float64)
    with np.errstate(invalid="ignore"):
        ranges = high - low
    ranged = np.isfinite(low) & np.isfinite(high) & (ranges > 0) & (ranges < LARGEST_RANGE)
    scale = 1.0 / np.where(ranged, ranges, 1.0)
    return torch.from_numpy(np.where(ranged, low, 0.0)).float(), torch.from_numpy(scale).float()


def _shallow(frames: tuple[int, int, int], width: float, features: int, first: type[nn.Conv2d]) -> nn.Sequential:
    a, b = (max(1, round(width * channels)) for channels in (16, 32))
    layers = [*_smaller(frames), first(frames[0], a, 8, 4), nn.ReLU(), nn.Conv2d(a, b, 4, 2), nn.ReLU(), nn.Flatten()]
    return _to_features(layers, frames, features)


def _nature(frames: tuple[int, int, int], width: float, features: int, first: type[nn.Conv2d]) -> nn.Sequential:
    """Mnih et al. 2015."""
    a, b, c = (max(1, round(width * channels)) for channels in (32, 64, 64))
    layers = [*_smaller(frames), first(frames[0], a, 8, 4), nn.ReLU(), nn.Conv2d(a, b, 4, 2), nn.ReLU()]
    return _to_features([*layers, nn.Conv2d(b, c, 3), nn.ReLU(), nn.Flatten()], frames, features)


def _deep(frames: tuple[int, int, int], width: float, features: int, first: type[nn.Conv2d]) -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = frames[0]
    for section in (16, 32, 32):
        wide = max(1, round(width * section))
        convolution = nn.Conv2d if layers else first
        layers += [convolution(channels, wide, 3, padding=1), nn.MaxPool2d(3, 2, padding=1), _Residual(wide), _Residual(wide)]
        channels = wide
    return _to_features([*_smaller(frames), *layers, nn.ReLU(), nn.Flatten()], frames, features)


def _small(frames: tuple[int, int, int], width: float, features: int, first: type[nn.Conv2d]) -> nn.Sequential:
    """Three convolutions of three pixels, the later ones with steps of two pixels where a side has more than 8 or 16."""
    a, b, c = (max(1, round(width * channels)) for channels in (16, 32, 32))
    _, rows, columns = frames
    second, third = ((1 + (rows > most), 1 + (columns > most)) for most in (8, 16))
    layers = [*_smaller(frames), first(frames[0], a, 3, padding=1), nn.ReLU(), nn.Conv2d(a, b, 3, second, 1), nn.ReLU()]
    return _to_features([*layers, nn.Conv2d(b, c, 3, third, 1), nn.ReLU(), nn.Flatten()], frames, features)


def _smaller(frames: tuple[int, int, int]) -> list[nn.Module]:
    """Averages over squares of pixels where a side is too long."""
    factors = (-(-frames[1] // LONGEST_SIDE), -(-frames[2] // LONGEST_SIDE))
    return [nn.AvgPool2d(factors, ceil_mode=True)] if max(factors) > 1 else []


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


NETWORKS = {"shallow": _shallow, "nature": _nature, "deep": _deep}
