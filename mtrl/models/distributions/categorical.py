"""Distributions over one choice, and over several."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

FORBIDDEN = -1e9
ABSENT = 10 * FORBIDDEN
"""Fills up the smaller ones of several choices: never drawn, not even where a mask forbids all values that there are."""
"""Parameter of a value that cannot be chosen: its probability is 0 in float32, and nothing that is computed with it is infinite."""


class Categorical:
    """Discrete actions 0 … n - 1; the parameters are unnormalised log-probabilities."""

    def __init__(self, num_actions: int):
        self.num_parameters = self.num_features = num_actions
        self.size = 1

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


class MultiCategorical:
    """Independent choices side by side, of `counts` values each; the parameters are their unnormalised log-probabilities side by side.

    All are evaluated at once, as rows of the largest one's length that are filled up with forbidden values.
    """

    def __init__(self, counts: Sequence[int]):
        self.num_parameters = self.num_features = sum(counts)
        self.counts, self.size = tuple(counts), len(counts)
        # The parameter of each choice's values, and the one behind the last for values that it does not have.
        starts = itertools.accumulate(counts[:-1], initial=0)
        places = [
            [start + value if value < count else sum(counts) for value in range(max(counts))]
            for start, count in zip(starts, counts, strict=True)
        ]
        self._places = {torch.device("cpu"): torch.tensor(places)}

    def sample(self, parameters: Float[Tensor, "N P"], generator: torch.Generator) -> Int[Tensor, "N C"]:
        """One action drawn for each row."""
        probabilities = self._log_probs(parameters).exp()
        return torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator).view(probabilities.shape[:-1])

    def mode(self, parameters: Float[Tensor, "*N P"]) -> Int[Tensor, "*N C"]:
        """The values with the largest parameters."""
        return self._log_probs(parameters).argmax(-1)

    def log_prob(self, parameters: Float[Tensor, "*N P"], actions: Int[Tensor, "*N C"]) -> Float[Tensor, "*N"]:
        """The sum of the choices' log-probabilities."""
        return self._log_probs(parameters).gather(-1, actions.unsqueeze(-1)).squeeze(-1).sum(-1)

    def entropy(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N"]:
        """The sum of the choices' entropies."""
        log_probs = self._log_probs(parameters)
        return -(log_probs.exp() * log_probs).sum((-1, -2))

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions as they are."""
        return actions

    def no_action(self, slots: int) -> np.ndarray:
        """Zeros, [slots, choices]."""
        return np.zeros((slots, self.size), np.int64)

    def encode(self, actions: Int[Tensor, "*N C"]) -> Float[Tensor, "*N P"]:
        """The choices as one-hot, side by side."""
        ones = self._on(actions.device)[:, 0] + actions.long()
        return torch.zeros(*actions.shape[:-1], self.num_features, device=actions.device).scatter_(-1, ones, 1.0)

    def _log_probs(self, parameters: Float[Tensor, "*N P"]) -> Float[Tensor, "*N C W"]:
        return functional.pad(parameters, (0, 1), value=ABSENT)[..., self._on(parameters.device)].log_softmax(-1)

    def _on(self, device: torch.device) -> Int[Tensor, "C W"]:
        """The places on a device, which are sent there once: what is recorded as a CUDA graph sends nothing."""
        if device not in self._places:
            with torch.inference_mode(False):
                self._places[device] = self._places[torch.device("cpu")].to(device)
        return self._places[device]
