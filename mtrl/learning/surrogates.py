"""The actor's objective: V-trace's policy gradient, or the clipped ratio of PPO with V-trace's advantages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mtrl.config import LearnerConfig
from mtrl.learning.batch import Batch
from mtrl.learning.losses import clipped_surrogate_loss, distance_moved, policy_gradient_loss
from mtrl.learning.vtrace import VTrace


@runtime_checkable
class Surrogate(Protocol):
    """An objective of the actor. `losses.py` has the formulas."""

    needs_proximal_policy: ClassVar[bool]
    """Whether `Batch.proximal_log_probs` have to be those of the weights at the start of the update."""

    def importance_weights(self, trace: VTrace, batch: Batch, rho_bar: float) -> Float[Tensor, "T B"]:
        """The clipped weights by which the objective multiplies advantages, so that a mean over steps is one over its policy's actions."""

    def loss(self, log_probs: Float[Tensor, "T B"], batch: Batch, advantages: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
        """The loss whose gradient moves the actor."""

    def metrics(self, log_probs: Float[Tensor, "T B"], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """Sums over steps, by each step's weight, that say how far the policy has moved."""


@dataclass(frozen=True)
class PolicyGradient:
    """IMPALA's: -Σ w_t min(ρ̄, ρ_t) (r_t + γ_t v_{t+1} - V(x_t)) ln π(a_t|x_t)."""

    needs_proximal_policy: ClassVar[bool] = False

    def importance_weights(self, trace: VTrace, batch: Batch, rho_bar: float) -> Float[Tensor, "T B"]:
        """V-trace's own: min(ρ̄, π / μ) of the current policy π."""
        return trace.clipped_rhos

    def loss(self, log_probs: Float[Tensor, "T B"], batch: Batch, advantages: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
        """See `policy_gradient_loss`."""
        return policy_gradient_loss(log_probs, advantages, batch.weights)

    def metrics(self, log_probs: Float[Tensor, "T B"], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """None."""
        return {}


@dataclass(frozen=True)
class ClippedSurrogate:
    """PPO's clipped ratio in its decoupled form (Schulman et al. 2017; Hilton et al. 2022).

    The ratio leads from the proximal policy, the weights at the start of the update, to the current policy. The way from the behaviour
    policy to the proximal policy is corrected by V-trace's clipped importance weight, which multiplies the advantages.
    """

    needs_proximal_policy: ClassVar[bool] = True
    clip: float
    dual_clip: float | None = None

    def importance_weights(self, trace: VTrace, batch: Batch, rho_bar: float) -> Float[Tensor, "T B"]:
        """min(ρ̄, π_proximal / μ)."""
        return (batch.proximal_log_probs - batch.behaviour_log_probs).exp().clamp(max=rho_bar)

    def loss(self, log_probs: Float[Tensor, "T B"], batch: Batch, advantages: Float[Tensor, "T B"]) -> Float[Tensor, ""]:
        """See `clipped_surrogate_loss`."""
        return clipped_surrogate_loss(log_probs - batch.proximal_log_probs, advantages, batch.weights, self.clip, self.dual_clip)

    def metrics(self, log_probs: Float[Tensor, "T B"], batch: Batch) -> dict[str, Float[Tensor, ""]]:
        """The divergence from the proximal policy, and the weight of the steps with a ratio beyond the clip."""
        kl, beyond = distance_moved(log_probs - batch.proximal_log_probs, batch.weights, self.clip)
        return {"kl": kl, "clip_fraction": beyond}


def make_surrogate(config: LearnerConfig) -> Surrogate:
    """The objective that the experiment names."""
    return ClippedSurrogate(config.clip, config.dual_clip) if config.surrogate == "clipped" else PolicyGradient()
