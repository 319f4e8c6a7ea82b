"""Action distributions: how a head's output becomes actions, log-probabilities and entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from envs.mixed import EitherSpace
from mtrl.config import ConfigError


@runtime_checkable
class Distribution(Protocol):
    """A family of distributions over actions, parametrised by a head's output `[..., num_parameters]`."""

    num_parameters: int
    num_features: int
    """Size of the action encoding that the LSTM reads."""

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """One action for each row of parameters."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely action of each row."""

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of the actions, natural logarithm."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy in nats."""

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The environments' actions for sampled ones."""

    def no_action(self, slots: int) -> np.ndarray:
        """A placeholder of the shape and type of `slots` actions."""

    def encode(self, actions: Tensor) -> Tensor:
        """The encoding of actions that the LSTM reads, `[..., num_features]`."""


class Categorical:
    """Discrete actions 0 … n - 1; the parameters are unnormalised log-probabilities."""

    def __init__(self, num_actions: int):
        self.num_parameters = self.num_features = num_actions

    def sample(self, parameters: Float[Tensor, "N A"], generator: torch.Generator) -> Int[Tensor, " N"]:
        """One action drawn for each row."""
        return torch.multinomial(parameters.softmax(-1), 1, generator=generator).squeeze(-1)

    def mode(self, parameters: Float[Tensor, "*N A"]) -> Int[Tensor, "*N"]:
        """The action with the largest parameter."""
        return parameters.argmax(-1)

    def log_prob(self, parameters: Float[Tensor, "*N A"], actions: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """`ln π(a)`."""
        return parameters.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
        """Entropy `-Σ π ln π`."""
        log_probs = parameters.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as they are."""
        return actions

    def no_action(self, slots: int) -> np.ndarray:
        """Zeros, [slots]."""
        return np.zeros(slots, np.int64)

    def encode(self, actions: Int[Tensor, "*N"]) -> Float[Tensor, "*N A"]:
        """One-hot."""
        return functional.one_hot(actions.long(), self.num_parameters).float()


class Normal:
    """Independent Gaussians; the parameters are means and offsets of the log-scales.

    Environments clip actions to their bounds. The log-probability is that of the action before it was clipped, so the
    policy's gradient stays unbiased.
    """

    INITIAL_LOG_SCALE = -0.3
    LOG_SCALES = (-5.0, 1.0)  # bounds of the log-scale
    SHARPNESS = 10.0  # of the bounds: within a quarter of a unit of a bound the log-scale bends, and beyond it still has a slope

    def __init__(self, size: int):
        self.num_parameters, self.num_features = 2 * size, size

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Float[Tensor, "N A"]:
        """One action drawn for each row."""
        mean, log_scale = self._split(parameters)
        return mean + log_scale.exp() * torch.randn(mean.shape, generator=generator)

    def mode(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N A"]:
        """The mean."""
        return self._split(parameters)[0]

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
        """Log-density, summed over dimensions."""
        mean, log_scale = self._split(parameters)
        standard = (actions - mean) * (-log_scale).exp()
        return (-0.5 * standard.square() - log_scale - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """Entropy `Σ (log σ + ½ log 2πe)`."""
        return (self._split(parameters)[1] + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as they are; environments clip them."""
        return actions

    def no_action(self, slots: int) -> np.ndarray:
        """Zeros, [slots, size]."""
        return np.zeros((slots, self.num_features), np.float32)

    def encode(self, actions: Float[Tensor, "*N A"]) -> Float[Tensor, "*N A"]:
        """The actions as they are."""
        return actions.float()

    def _split(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        mean, offset = parameters.chunk(2, dim=-1)
        return mean, self.log_scale(offset)

    @classmethod
    def log_scale(cls, offset: Tensor) -> Tensor:
        """The log-scale for a head's output."""
        return softly_bounded(cls.INITIAL_LOG_SCALE + offset, *cls.LOG_SCALES, cls.SHARPNESS)


def softly_bounded(x: Tensor, low: float, high: float, sharpness: float) -> Tensor:
    """`x` bent near `low` and `high`, so that it stays between them. Its slope is never 0: what has left the range comes back."""
    x = high - functional.softplus(high - x, beta=sharpness)
    return low + functional.softplus(x - low, beta=sharpness)


class TanhNormal(Normal):
    """Gaussians squashed by tanh into (-1, 1). Actions are stored before squashing, which makes the density exact."""

    # Nodes and weights of Gauss-Hermite quadrature, for the part of the entropy that has no closed form.
    _NODES, _WEIGHTS = (torch.tensor(array, dtype=torch.float32) for array in np.polynomial.hermite_e.hermegauss(9))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The squashed actions."""
        return np.tanh(actions)

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
        """Log-density of tanh(actions): the Gaussian's, minus Σ log(1 - tanh²)."""
        return super().log_prob(parameters, actions) - _log_slope(actions).sum(-1)

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """The Gaussian's, plus the mean of Σ log(1 - tanh²)."""
        mean, log_scale = self._split(parameters)
        points = mean.unsqueeze(-1) + log_scale.exp().unsqueeze(-1) * self._NODES.to(mean.device)
        weights = (self._WEIGHTS / self._WEIGHTS.sum()).to(mean.device)
        return super().entropy(parameters) + (_log_slope(points) * weights).sum(-1).sum(-1)


def _log_slope(x: Tensor) -> Tensor:
    """The log-slope `log(1 - tanh²(x))` = 2 (log 2 - x - softplus(-2x)), which stays finite where tanh rounds to 1."""
    return 2.0 * (math.log(2.0) - x - functional.softplus(-2.0 * x))


class Either:
    """A distribution for each kind of actions of an `EitherSpace`.

    The first parameter of a row is its kind, which the head writes there; the kind's own parameters follow, and the rest is unused.
    """

    def __init__(self, kinds: list[Distribution], width: int):
        self._kinds = kinds
        self._width = width  # of an action
        self.num_parameters = 1 + max(kind.num_parameters for kind in kinds)
        self.num_features = sum(kind.num_features for kind in kinds)

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Float[Tensor, "N W"]:
        """One action drawn for each row."""
        return self._act(parameters, lambda kind, part: kind.sample(part, generator))

    def mode(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N W"]:
        """The most likely action of each row."""
        return self._act(parameters, lambda kind, part: kind.mode(part))

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Float[Tensor, "*N W"]) -> Float[Tensor, "*N"]:
        """Log-probability of each action; log-density where its kind is continuous."""
        return self._measure(parameters, lambda kind, part, rows: kind.log_prob(part, _value_of(kind, actions[rows])))

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """The entropy of each row's kind."""
        return self._measure(parameters, lambda kind, part, rows: kind.entropy(part))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """Each kind's environment actions, as vectors."""
        vectors = np.zeros_like(actions)
        for number, kind in enumerate(self._kinds):
            rows = actions[..., 0] == number
            values = kind.to_environment(_value_of(kind, torch.from_numpy(actions[rows])).numpy())
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
            features[rows] = kind.encode(_value_of(kind, actions[rows]))
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


def _value_of(kind: Distribution, vectors: Tensor) -> Tensor:
    """The kind's actions in vectors of its kind."""
    return vectors[..., 1].long() if isinstance(kind, Categorical) else vectors[..., 1 : 1 + kind.num_features]


def make_distribution(action_space: gymnasium.Space, *, squashed: bool = False) -> Distribution:
    """The distribution over `action_space`.

    Raises:
        ConfigError: no distribution fits the space.
    """
    if isinstance(action_space, EitherSpace):
        return Either([make_distribution(kind, squashed=squashed) for kind in action_space.kinds], int(action_space.shape[0]))  # type: ignore[index]
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return Categorical(int(action_space.n))
    if isinstance(action_space, gymnasium.spaces.Box) and len(action_space.shape) == 1 and np.issubdtype(action_space.dtype, np.floating):
        if squashed and not (np.all(action_space.low == -1) and np.all(action_space.high == 1)):
            raise ConfigError(f"model.squashed_actions gives actions between -1 and 1, which {action_space} does not ask for")
        return (TanhNormal if squashed else Normal)(action_space.shape[0])
    raise ConfigError(f"no action distribution for {action_space}; Discrete spaces that start at 0 and vectors of floats are supported")
