"""Slow NumPy twins of the kernels, written from the papers and close to their notation on purpose."""

from __future__ import annotations

import numpy as np


def vtrace_targets(log_rhos, rewards, discounts, continues, values, next_values, rho_bar, c_bar, lambda_):
    """v_s as the sum of equation 1, one slot and one s at a time. Arrays [T, B], float64."""
    steps, slots = rewards.shape
    vs = np.zeros((steps, slots))
    for b in range(slots):
        rho = np.minimum(rho_bar, np.exp(log_rhos[:, b]))
        c = lambda_ * np.minimum(c_bar, np.exp(log_rhos[:, b]))
        delta = rho * (rewards[:, b] + discounts[:, b] * next_values[:, b] - values[:, b])
        for s in range(steps):
            total = values[s, b]
            for t in range(s, steps):
                # Π_{i=s}^{t-1} γ_i c_i, zero as soon as the episode of step s is left.
                product = np.prod([discounts[i, b] * c[i] * continues[i, b] for i in range(s, t)])
                total += product * delta[t]
            vs[s, b] = total
    return vs


def vtrace_advantages(log_rhos, rewards, discounts, continues, values, next_values, rho_bar, vs):
    """ρ_s (r_s + γ_s v_{s+1} - V(x_s)) at λ = 1, where v_{s+1} is V of the next observation if the next row is no continuation."""
    steps, slots = rewards.shape
    advantages = np.zeros((steps, slots))
    for b in range(slots):
        for s in range(steps):
            follows = s + 1 < steps and continues[s, b] == 1
            next_target = vs[s + 1, b] if follows else next_values[s, b]
            rho = min(rho_bar, np.exp(log_rhos[s, b]))
            advantages[s, b] = rho * (rewards[s, b] + discounts[s, b] * next_target - values[s, b])
    return advantages


def gae(rewards, discounts, continues, values, next_values, lambda_):
    """Generalised advantages (Schulman et al. 2016, equation 16): Σ_l (γλ)^l δ_{s+l} within an episode. Arrays [T, B], float64."""
    steps, slots = rewards.shape
    advantages = np.zeros((steps, slots))
    for b in range(slots):
        for s in range(steps):
            factor = 1.0
            for t in range(s, steps):
                advantages[s, b] += factor * (rewards[t, b] + discounts[t, b] * next_values[t, b] - values[t, b])
                factor *= discounts[t, b] * lambda_ * continues[t, b]
    return advantages


def gram_schmidt(features):
    """The textbook procedure over the rows of each sample, [B, K, D] float64."""
    basis = np.zeros_like(features)
    for b, rows in enumerate(features):
        for k, row in enumerate(rows):
            rest = row - sum((basis[b, j] @ row) * basis[b, j] for j in range(k))
            basis[b, k] = rest / np.linalg.norm(rest)
    return basis
