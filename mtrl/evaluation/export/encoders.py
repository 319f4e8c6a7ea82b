"""Encoders in forms that a file can hold: the same operations for all rows and any number of them, whatever the observations are.

An encoder that already computes in this way is copied. One with operations that depend on the data has an entry in `FORMS`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from envs.mixed import KIND
from mtrl.models.encoders import FusedEncoder, MissionEncoder, MixedEncoder, one_hot
from mtrl.models.encoders.patches import keep_operations
from mtrl.models.encoders.text import TextEncoder


def portable_encoder(encoder: nn.Module, kind: int | None = None) -> Any:
    """A copy of an encoder with the same `experts` and the same features, that a file can hold.

    Args:
        encoder: the policy's.
        kind: for an encoder of several kinds of observations, the one that is left; it is given that kind's arrays by their own names.
    """
    form = FORMS.get(type(encoder))
    portable = copy.deepcopy(encoder) if form is None else form(encoder, kind)
    keep_operations(portable)
    return portable


def read_whole(sentences: Tensor, words: nn.Module, gru: Any) -> Tensor:
    """The GRU's state after each sentence's last word, [N, S]; what comes after it is read and not used."""
    weights = [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]
    embedded = words(sentences.long())
    # The function, since the module keeps a list of its weights that an export would take for others.
    read, _ = torch.gru(embedded, embedded.new_zeros(1, embedded.shape[0], gru.hidden_size), weights, True, 1, 0.0, False, False, True)
    last = ((sentences > 0).sum(dim=1) - 1).clamp(min=0)
    return read.gather(1, last[:, None, None].expand(-1, 1, read.shape[2])).squeeze(1)


class PortableMissions(nn.Module):
    """`MissionEncoder`, which reads each different sentence of a batch once and no further than the longest: here every row's, whole."""

    def __init__(self, encoder: MissionEncoder, kind: int | None):
        super().__init__()
        self.words, self.gru = copy.deepcopy(encoder.words), copy.deepcopy(encoder.gru)
        self.experts = copy.deepcopy(encoder.experts)

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The experts' features of N views with missions, [N, K, D]."""
        image = one_hot(obs["image"])
        sentences = read_whole(obs["mission"], self.words, self.gru)
        return torch.stack([expert(image, sentences) for expert in self.experts], dim=1)


class PortableText(nn.Module):
    """`TextEncoder`, which reads each different text of a batch once: here every row's, whole."""

    def __init__(self, encoder: TextEncoder, kind: int | None):
        super().__init__()
        self.key = encoder.key
        self.words, self.gru = copy.deepcopy(encoder.words), copy.deepcopy(encoder.gru)

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The features of N texts, [N, 1, D]."""
        return read_whole(obs[self.key], self.words, self.gru).unsqueeze(1)


class PortableFused(nn.Module):
    """`FusedEncoder` with portable stems."""

    def __init__(self, encoder: FusedEncoder, kind: int | None):
        super().__init__()
        self._names = encoder.names
        self.stems = nn.ModuleList(portable_encoder(stem) for stem in encoder.stems)
        self.join, self.experts = copy.deepcopy(encoder.join), copy.deepcopy(encoder.experts)

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The experts' features of N observations, [N, K, D]."""
        stems = zip(self._names, self.stems, strict=True)
        features = [torch.tanh(stem({name: obs[name]}, task_ids)[:, 0]) for name, stem in stems]
        vectors = torch.tanh(self.join(torch.cat(features, dim=-1)))
        return torch.stack([expert(vectors) for expert in self.experts], dim=1)


class PortableMixed(nn.Module):
    """`MixedEncoder`, which gives each kind's encoder that kind's rows alone: here all rows, and each takes its own kind's vector."""

    def __init__(self, encoder: MixedEncoder, kind: int | None):
        super().__init__()
        self.experts = copy.deepcopy(encoder.experts)
        self.stems = nn.ModuleDict()
        for number, stem in encoder.stems.items():
            if kind in (None, int(number)):
                self.stems[number] = copy.deepcopy(stem)
                self.stems[number].encoder = portable_encoder(stem.encoder)  # type: ignore[arg-type]
        self._kind = kind

    def forward(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        """The experts' features of N observations, [N, K, D]."""
        vectors = self.stems[str(self._kind)](obs, task_ids) if self._kind is not None else self._select(obs, task_ids)
        return torch.stack([expert(vectors) for expert in self.experts], dim=1)

    def _select(self, obs: dict[str, Tensor], task_ids: Tensor) -> Tensor:
        vectors: Any = 0.0
        for number, stem in self.stems.items():
            arrays = {name.removeprefix(f"{number}."): array for name, array in obs.items() if name.startswith(f"{number}.")}
            vectors = torch.where((obs[KIND] == int(number)).unsqueeze(1), stem(arrays, task_ids), vectors)
        return vectors


FORMS: dict[type[nn.Module], Callable[[Any, int | None], nn.Module]] = {
    FusedEncoder: PortableFused,
    MissionEncoder: PortableMissions,
    MixedEncoder: PortableMixed,
    TextEncoder: PortableText,
}
