"""CLUTR's teacher (Azad et al. 2023): a policy over the latent vectors of levels, with the student's regret as its reward."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Normal

NOISE = 8  # numbers that the teacher observes: without them all of its means were the same
HIDDEN = 64
BOUND = 2.0  # of the means: the autoencoder knows the latent vectors of a standard normal distribution
LOG_DEVIATIONS = (-1.5, 0.25)  # bounds, which are soft: beyond a hard one no gradient leads back
EPOCHS = 4
CLIP = 0.2  # of the ratio of probabilities, as in PPO


class Teacher(nn.Module):
    """Proposes latent vectors z ~ N(mean(noise), deviation), and learns by PPO which of them the student regrets most.

    At first it proposes as the prior does: near 0 with a deviation of 1. An episode of the teacher is a single proposal.
    """

    def __init__(self, latent_size: int, learning_rate: float, entropy_cost: float):
        super().__init__()
        to_means = nn.Linear(HIDDEN, latent_size)
        self.means = nn.Sequential(nn.Linear(NOISE, HIDDEN), nn.Tanh(), to_means)
        low, high = LOG_DEVIATIONS
        self.deviations = nn.Parameter(torch.full((latent_size,), -low / (high - low)).logit())  # a deviation of 1
        self.value = nn.Sequential(nn.Linear(NOISE, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, 1))
        nn.init.normal_(to_means.weight, std=0.01)
        nn.init.zeros_(to_means.bias)
        self._entropy_cost = entropy_cost
        self._optimizer = torch.optim.Adam(self.parameters(), learning_rate)

    def distribution(self, noise: Float[Tensor, "N n"]) -> Normal:
        """The distribution of the proposals."""
        low, high = LOG_DEVIATIONS
        deviations = (low + (high - low) * self.deviations.sigmoid()).exp()
        return Normal(BOUND * torch.tanh(self.means(noise) / BOUND), deviations.expand(len(noise), -1))

    def log_prob(self, noise: Float[Tensor, "N n"], latents: Float[Tensor, "N L"]) -> Float[Tensor, " N"]:
        """Log-probabilities of proposals."""
        return self.distribution(noise).log_prob(latents).sum(dim=-1)

    def update(
        self, noise: Float[Tensor, "N n"], latents: Float[Tensor, "N L"], log_probs: Float[Tensor, " N"], regrets: Float[Tensor, " N"]
    ) -> None:
        """Learns from proposals that the student has played.

        Args:
            noise: what the teacher observed.
            latents: what it proposed.
            log_probs: of the proposals, when they were made.
            regrets: of the student.
        """
        for _ in range(EPOCHS):
            values = self.value(noise)[:, 0]
            advantages = (regrets - values).detach()
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            ratios = (self.log_prob(noise, latents) - log_probs).exp()
            gained = torch.minimum(ratios * advantages, ratios.clamp(1 - CLIP, 1 + CLIP) * advantages).mean()
            entropy = self.distribution(noise).entropy().sum(dim=-1).mean()
            loss = -gained - self._entropy_cost * entropy + (values - regrets).square().mean()
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()

    def everything(self) -> dict[str, Any]:
        """Weights and the optimiser's state."""
        return {"weights": self.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_everything(self, state: dict[str, Any]) -> None:
        """Goes on from `everything`."""
        self.load_state_dict(state["weights"])
        learning_rate = self._optimizer.param_groups[0]["lr"]  # the experiment's, whatever the state's is
        self._optimizer.load_state_dict(state["optimizer"])
        self._optimizer.param_groups[0]["lr"] = learning_rate
