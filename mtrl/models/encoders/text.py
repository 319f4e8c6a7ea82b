"""Readers of texts and of choices among many values: each word, character or value has a vector of its own that is learned."""

from __future__ import annotations

from typing import Any

import gymnasium
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mtrl.config import ModelConfig

EMBEDDING, SENTENCE = 32, 128


def read_sentences(sentences: Num[Tensor, "N L"], words: nn.Embedding, gru: nn.GRU) -> Float[Tensor, "N S"]:
    """The GRU's state after each sentence's last word; 0 fills up a sentence. A batch has few different ones, and each is read once."""
    different, place = sentences.unique(dim=0, return_inverse=True)
    lengths = (different > 0).sum(dim=1)
    longest = max(1, int(lengths.max()))
    read, _ = gru(words(different[:, :longest].long()))
    return read[torch.arange(len(different), device=read.device), (lengths - 1).clamp(min=0)][place]


class TextEncoder(nn.Module):
    """A GRU over the words or characters of the array `key`, as one expert; there is one vector for all empty texts (D = 128)."""

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, key: str):
        super().__init__()
        numbers: Any = space[key]
        self.key, self.feature_size = key, SENTENCE
        self.words = nn.Embedding(int(numbers.high.max()) + 1, EMBEDDING, padding_idx=0)
        self.gru = nn.GRU(EMBEDDING, SENTENCE, batch_first=True)

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N 1 D"]:
        """The features of N texts."""
        return read_sentences(obs[self.key], self.words, self.gru).unsqueeze(1)


class ChoicesEncoder(nn.Module):
    """The vectors of the values of the array `key` side by side, as one expert (D = 32 for each choice)."""

    same_operations = True  # whatever the observations are, so that they can be recorded as a CUDA graph

    def __init__(self, space: gymnasium.spaces.Dict, model: ModelConfig, num_tasks: int, key: str):
        super().__init__()
        choices: Any = space[key]
        self.key, self.feature_size = key, EMBEDDING * len(choices.nvec)
        self.values = nn.ModuleList(nn.Embedding(int(count), EMBEDDING) for count in choices.nvec)

    def forward(self, obs: dict[str, Tensor], task_ids: Int[Tensor, " N"]) -> Float[Tensor, "N 1 D"]:
        """The features of N rows of choices."""
        chosen = obs[self.key].long()
        return torch.cat([vectors(chosen[:, place]) for place, vectors in enumerate(self.values)], dim=1).unsqueeze(1)
