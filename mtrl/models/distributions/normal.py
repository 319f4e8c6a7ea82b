"""Distributions over numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class Normal:
    """Independent Gaussians; the parameters are means and offsets of the log-scales.

    Environments clip actions to their bounds. The log-probability is that of the action before it was clipped, so the
    policy's gradient stays unbiased.
    """

    INITIAL_LOG_SCALE = -0.3
    LOG_SCALES = (-5.0, 1.0)  # bounds of the log-scale
    SHARPNESS = 10.0  # of the bounds: within a quarter of a unit of a bound the log-scale bends, and beyond it still has a slope

    def __init__(self, size: int):
        self.num_parameters, self.num_features, self.size = 2 * size, size, size

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Float[Tensor, "N A"]:
        """One action drawn for each row."""
        return self.with_noise(parameters, torch.randn((len(parameters), self.size), generator=generator))

    def with_noise(self, parameters: Float[Tensor, "N P"], noise: Float[Tensor, "N A"]) -> Float[Tensor, "N A"]:
        """The actions for standard normal noise."""
        mean, log_scale = self._split(parameters)
        return mean + log_scale.exp() * noise

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
