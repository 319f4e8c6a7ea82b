"""Action distributions: how a head's output becomes actions, log-probabilities and entropy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import gymnasium
import torch
from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Distribution(Protocol):
    """A family of distributions over actions, parametrised by a head's output `[..., num_parameters]`."""

    num_parameters: int

    def sample(self, parameters: Tensor, generator: torch.Generator) -> Tensor:
        """One action for each row of parameters."""

    def mode(self, parameters: Tensor) -> Tensor:
        """The most likely action of each row."""

    def log_prob(self, parameters: Tensor, actions: Tensor) -> Tensor:
        """Log-probability (density) of the actions, natural logarithm."""

    def entropy(self, parameters: Tensor) -> Tensor:
        """Entropy in nats."""


class Categorical:
    """Discrete actions 0 … n - 1; the parameters are unnormalised log-probabilities."""

    def __init__(self, num_actions: int):
        self.num_parameters = num_actions

    def sample(self, parameters: Float[Tensor, "N A"], generator: torch.Generator) -> Int[Tensor, " N"]:
        """One action drawn for each row."""
        return torch.multinomial(parameters.softmax(-1), 1, generator=generator).squeeze(-1)

    def mode(self, parameters: Float[Tensor, "*N A"]) -> Int[Tensor, "*N"]:
        """The action with the largest parameter."""
        return parameters.argmax(-1)

    def log_prob(self, parameters: Float[Tensor, "*N A"], actions: Int[Tensor, "*N"]) -> Float[Tensor, "*N"]:
        """Ln π(a)"""
        return parameters.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def entropy(self, parameters: Float[Tensor, "*N A"]) -> Float[Tensor, "*N"]:
        """-Σ π ln π"""
        log_probs = parameters.log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)


def make_distribution(action_space: gymnasium.Space) -> Distribution:
    """The distribution over `action_space`.

    Raises:
        ValueError: no distribution fits the space.
    """
    if isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0:
        return Categorical(int(action_space.n))
    raise ValueError(f"no action distribution for {action_space}; a Discrete space that starts at 0 is supported")
