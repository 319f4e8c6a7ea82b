"""Distributions made of others: over actions of one kind or another, and over choices beside numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.models.distributions.categorical import Categorical, MultiCategorical
from mtrl.models.distributions.protocol import Distribution


class Either:
    """A distribution for each kind of actions of an `EitherSpace`.

    The first parameter of a row is its kind, which the head writes there; the kind's own parameters follow, and the rest is unused.
    """

    def __init__(self, kinds: list[Distribution], width: int):
        self._kinds = kinds
        self._width = self.size = width  # of an action
        self.num_parameters = 1 + max(kind.num_parameters for kind in kinds)
        self.num_features = sum(kind.num_features for kind in kinds)

    @property
    def kinds(self) -> tuple[Distribution, ...]:
        """The distributions, in the order of their numbers."""
        return tuple(self._kinds)

    @property
    def width(self) -> int:
        """Numbers in an action (W)."""
        return self._width

    def value(self, number: int, vectors: Float[Tensor, "*N W"]) -> Tensor:
        """The actions of a kind in vectors that are all of that kind."""
        return actions_in(self._kinds[number], vectors[..., 1:])

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Float[Tensor, "N W"]:
        """One action drawn for each row."""
        return self._act(parameters, lambda kind, part: kind.sample(part, generator))

    def mode(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N W"]:
        """The most likely action of each row."""
        return self._act(parameters, lambda kind, part: kind.mode(part))

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Float[Tensor, "*N W"]) -> Float[Tensor, "*N"]:
        """Log-probability of each action; log-density where its kind is continuous."""
        return self._measure(parameters, lambda kind, part, rows: kind.log_prob(part, actions_in(kind, actions[rows][..., 1:])))

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """The entropy of each row's kind."""
        return self._measure(parameters, lambda kind, part, rows: kind.entropy(part))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Each kind's environment actions, as vectors."""
        vectors = np.zeros_like(actions)
        for number, kind in enumerate(self._kinds):
            rows = actions[..., 0] == number
            values = kind.to_environment(actions_in(kind, torch.from_numpy(actions[rows])[..., 1:]).numpy())
            vectors[rows] = self._vectors(number, torch.from_numpy(values))
        return vectors

    def no_action(self, slots: int) -> np.ndarray:
        """Zeros, [slots, width]."""
        return np.zeros((slots, self._width), np.float32)

    def encode(self, actions: Float[Tensor, "*N W"]) -> Float[Tensor, "*N F"]:
        """The features of all kinds side by side, with zeros for all kinds but the row's own."""
        parts = []
        for number, kind in enumerate(self._kinds):
            rows = actions[..., 0] == number
            features = actions.new_zeros(*actions.shape[:-1], kind.num_features)
            features[rows] = kind.encode(actions_in(kind, actions[rows][..., 1:]))
            parts.append(features)
        return torch.cat(parts, dim=-1)

    def _act(self, parameters: Tensor, act: Callable[[Distribution, Tensor], Tensor]) -> Tensor:
        vectors = parameters.new_zeros(*parameters.shape[:-1], self._width)
        for number, kind in enumerate(self._kinds):
            rows = parameters[..., 0] == number
            vectors[rows] = self._vectors(number, act(kind, parameters[rows][:, 1 : 1 + kind.num_parameters])).to(vectors.dtype)
        return vectors

    def _measure(self, parameters: Tensor, measure: Callable[[Distribution, Tensor, Tensor], Tensor]) -> Tensor:
        values = parameters.new_zeros(parameters.shape[:-1])
        for number, kind in enumerate(self._kinds):
            rows = parameters[..., 0] == number
            values = values.masked_scatter(rows, measure(kind, parameters[rows][:, 1 : 1 + kind.num_parameters], rows))
        return values

    def _vectors(self, number: int, values: Tensor) -> Tensor:
        """Actions of a kind as vectors, [N, width]."""
        values = values.unsqueeze(-1) if values.ndim == 1 else values
        vectors = torch.zeros(len(values), self._width, device=values.device)
        vectors[:, 0] = number
        vectors[:, 1 : 1 + values.shape[1]] = values
        return vectors


class Factored:
    """Independent parts side by side; so are their parameters, and the numbers of their actions."""

    def __init__(self, parts: Sequence[Distribution]):
        self.parts = list(parts)
        self.num_parameters = sum(part.num_parameters for part in parts)
        self.num_features = sum(part.num_features for part in parts)
        self.size = sum(part.size for part in parts)

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Float[Tensor, "N W"]:
        """One action drawn for each row."""
        return self._act(parameters, lambda part, own: part.sample(own, generator))

    def mode(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N W"]:
        """The most likely action of each part."""
        return self._act(parameters, lambda part, own: part.mode(own))

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Float[Tensor, "*N W"]) -> Float[Tensor, "*N"]:
        """The sum of the parts' log-probabilities and log-densities."""
        parts = zip(self.parts, self._own(parameters), self._actions(actions), strict=True)
        return torch.stack([part.log_prob(own, values) for part, own, values in parts]).sum(0)

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """The sum of the parts' entropies."""
        return torch.stack([part.entropy(own) for part, own in zip(self.parts, self._own(parameters), strict=True)]).sum(0)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Each part's environment actions, side by side."""
        values = zip(self.parts, self._actions(torch.from_numpy(actions)), strict=True)
        return np.concatenate([part.to_environment(own.numpy()).astype(np.float32) for part, own in values], axis=-1)

    def no_action(self, slots: int) -> np.ndarray:
        """Zeros, [slots, size]."""
        return np.zeros((slots, self.size), np.float32)

    def encode(self, actions: Float[Tensor, "*N W"]) -> Float[Tensor, "*N F"]:
        """The features of all parts side by side."""
        return torch.cat([part.encode(own) for part, own in zip(self.parts, self._actions(actions), strict=True)], dim=-1)

    def _act(self, parameters: Tensor, act: Callable[[Distribution, Tensor], Tensor]) -> Tensor:
        return torch.cat([act(part, own).float() for part, own in zip(self.parts, self._own(parameters), strict=True)], dim=-1)

    def _own(self, parameters: Tensor) -> Sequence[Tensor]:
        return parameters.split([part.num_parameters for part in self.parts], dim=-1)

    def _actions(self, vectors: Tensor) -> list[Tensor]:
        numbers = vectors.split([part.size for part in self.parts], dim=-1)
        return [actions_in(part, own) for part, own in zip(self.parts, numbers, strict=True)]


def actions_in(kind: Distribution, vectors: Float[Tensor, "*N W"]) -> Tensor:
    """The actions of a distribution in vectors that begin with their numbers."""
    own = vectors[..., : kind.size]
    if isinstance(kind, Categorical):
        return own[..., 0].long()
    return own.long() if isinstance(kind, MultiCategorical) else own
