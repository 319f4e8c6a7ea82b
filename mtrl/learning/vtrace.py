"""V-trace: off-policy corrected value targets and policy-gradient advantages (Espeholt et al. 2018, equations 1 to 4).

With importance weights ρ_t = π(a_t|x_t) / μ(a_t|x_t), clipped once for the fixed point (ρ̄) and once for the trace (c̄):

    δ_t   = min(ρ̄, ρ_t) (r_t + γ_t V(x_{t+1}) - V(x_t))
    v_t   = V(x_t) + δ_t + γ_t λ min(c̄, ρ_t) (v_{t+1} - V(x_{t+1}))
    A_t   = r_t + γ_t (λ v_{t+1} + (1 - λ) V(x_{t+1})) - V(x_t)

The policy gradient weighs ln π(a_t|x_t) with min(ρ̄, ρ_t) A_t. The paper's text has λ = 1 in A_t. With λ below 1 the advantage above is the
generalised advantage estimate of Schulman et al. 2016 where π = μ, and the target less the value: A_t = v_t - V(x_t).

Two things differ between an episode that ends and one that is cut off, so they come in as two arguments. `discounts` says whether
anything of value follows (0 after a terminated step). `continues` says whether the next row is the same episode; where it is not, the
trace stops and v_{t+1} is V(x_{t+1}), the value of the observation that the step itself led to.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class VTrace(NamedTuple):
    """All carry no gradient."""

    vs: Float[Tensor, "T B"]  # targets of the value function
    advantages: Float[Tensor, "T B"]  # A_t, without importance weights
    clipped_rhos: Float[Tensor, "T B"]  # min(ρ̄, ρ_t), by which the policy gradient multiplies the advantages


@torch.no_grad()
def vtrace(
    log_rhos: Float[Tensor, "T B"],
    rewards: Float[Tensor, "T B"],
    discounts: Float[Tensor, "T B"],
    continues: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    *,
    rho_bar: float = 1.0,
    c_bar: float = 1.0,
    lambda_: float = 1.0,
) -> VTrace:
    """Targets and advantages of T consecutive steps of B slots; all tensors float32.

    Args:
        log_rhos: log π(a_t|x_t) - log μ(a_t|x_t).
        rewards: r_t.
        discounts: γ (1 - terminated_t).
        continues: 0 where row t + 1 is no continuation of row t (terminated, truncated, or an invalid step), else 1.
        values: V(x_t).
        next_values: V of the observation that step t led to; the last row is the bootstrap.
        rho_bar: clip of the weights in δ and of those that belong to the advantages.
        c_bar: clip of the weights in the trace; at most `rho_bar`.
        lambda_: decay of the trace (Remark 2) and of the advantages.

    Raises:
        ValueError: `c_bar` exceeds `rho_bar`.
    """
    if c_bar > rho_bar:
        raise ValueError(f"V-trace needs rho_bar >= c_bar, got {rho_bar} < {c_bar}")
    rhos = log_rhos.exp()
    clipped_rhos = rhos.clamp(max=rho_bar)
    deltas = clipped_rhos * (rewards + discounts * next_values - values)
    carry = discounts * continues * lambda_ * rhos.clamp(max=c_bar)

    # errors[t] = v_t - V(x_t), from the last step backwards.
    errors = torch.empty_like(deltas)
    error = torch.zeros_like(deltas[0])
    for t in range(len(deltas) - 1, -1, -1):
        error = torch.addcmul(deltas[t], carry[t], error, out=errors[t])

    vs = values + errors
    # v_{t+1} - V(x_{t+1}); where the trace stops v_{t+1} is V(x_{t+1}).
    corrections = torch.cat([errors[1:], torch.zeros_like(errors[:1])])
    advantages = rewards + discounts * (next_values + lambda_ * continues * corrections) - values
    return VTrace(vs, advantages, clipped_rhos)
