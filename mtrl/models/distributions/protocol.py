"""What all action distributions have in common."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor


@runtime_checkable
class Distribution(Protocol):
    """A family of distributions over actions, parametrised by a head's output `[..., num_parameters]`."""

    num_parameters: int
    size: int
    """Numbers of an action that is written as a vector, as spaces of several kinds of actions have it."""
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
