"""The proximal policy of the clipped objective as an average of the actor's weights (PPO-EWMA, Hilton et al. 2022)."""

from __future__ import annotations

import copy
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtrl.learning.batch import Batch
from mtrl.learning.objectives import log_probs_of
from mtrl.models.policy import Actor, seed_gates


class AverageActor:
    """θ̄ ← (β m θ̄ + θ) / (β m + 1), m ← β m + 1: the mean of all weights so far, each worth β times the one after it.

    The clip then holds the policy near what it was over the last 1 / (1 - β) updates, not near what it was at the start of this one. With
    lag, many small moves that are each within the clip no longer lead far from the policies that acted.

    Args:
        actor: the actor that is trained.
        decay: β, of one update.
    """

    def __init__(self, actor: Actor, decay: float):
        self._decay, self._mass = decay, 0.0
        self._average = copy.deepcopy(actor).requires_grad_(False)

    @torch.no_grad()
    def add(self, actor: Actor) -> None:
        """Takes in the weights of one more update. Statistics that are no weights are the newest."""
        self._mass = self._decay * self._mass + 1.0
        for average, newest in zip(self._average.parameters(), actor.parameters(), strict=True):
            average.lerp_(newest, 1.0 / self._mass)
        for kept, statistic in zip(self._average.buffers(), actor.buffers(), strict=True):
            kept.copy_(statistic)

    @torch.no_grad()
    def log_probs(self, batch: Batch, precision: torch.dtype, seed: int) -> Float[Tensor, "T B"]:
        """Log-probabilities of the batch's actions; `seed` is that of gates which draw random numbers."""
        seed_gates(self._average, seed)
        return log_probs_of(self._average, batch, precision)

    def state_dict(self) -> dict[str, Any]:
        """The average and its mass."""
        return {"actor": self._average.state_dict(), "mass": self._mass}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._average.load_state_dict(state["actor"])
        self._mass = float(state["mass"])
