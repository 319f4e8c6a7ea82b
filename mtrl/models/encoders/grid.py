"""Experts for MiniGrid's view, alone or with a mission."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from mtrl.config import ModelConfig
from mtrl.models.encoders.patches import Patches, convolve, distinct_patches
from mtrl.models.encoders.text import read_sentences

CELL = (11, 6, 4)  # MiniGrid's kinds of objects, its colours, its states of doors and directions of agents


class GridEncoder(nn.Module):
    """Three 2x2 convolutions over MiniGrid's 7x7x3 view, as MOORE has them; no activation after the last (D = 1024 at width 1).

    `model.grid_cells` says whether they read a cell's three numbers as they are, which is MOORE's way, or which of its kinds it is.
    """

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph
    share_patches = True
    """Whether views are evaluated patch by patch, each distinct one once, on a CPU. The operations then depend on the views."""

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
        by_patches = self.share_patches and obs["image"].device.type == "cpu"
        patches = distinct_patches(obs["image"], sizes=3) if by_patches else None
        if patches is not None:
            return self._by_patches(patches)
        image = one_hot(obs["image"]) if self._one_hot else obs["image"].float().permute(0, 3, 1, 2)
        # Flattened in memory's order (height, width, channel), which costs no copy.
        return torch.stack([expert(image).permute(0, 2, 3, 1).flatten(1) for expert in self.experts], dim=1)

    def _by_patches(self, patches: Patches) -> Tensor:
        cells = cell_codes(patches.cells) if self._one_hot else patches.cells.float()
        experts: Any = self.experts
        return convolve([[expert[layer] for expert in experts] for layer in (0, 2, 4)], cells, patches)


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
        sentences = read_sentences(obs["mission"], self.words, self.gru)
        return torch.stack([expert(image, sentences) for expert in self.experts], dim=1)


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


def one_hot(image: UInt8[Tensor, "N 7 7 3"]) -> Float[Tensor, "N C 7 7"]:
    """Each cell's kind, colour and state as ones among zeros: none of them has an order."""
    return cell_codes(image.flatten(0, 2)).unflatten(0, image.shape[:3]).permute(0, 3, 1, 2)


def cell_codes(cells: UInt8[Tensor, "N 3"]) -> Float[Tensor, "N C"]:
    """The same for cells one by one."""
    numbers = cells.int()
    # Looked up, which takes a quarter of the time of writing ones into zeros.
    parts = [torch.eye(n, device=cells.device).index_select(0, numbers[:, i].clamp(max=n - 1)) for i, n in enumerate(CELL)]
    return torch.cat(parts, dim=1)


def initialize(layer: nn.Module, gain: float) -> None:
    """Xavier-uniform weights scaled by `gain`, and zero biases."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.xavier_uniform_(layer.weight, gain)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
