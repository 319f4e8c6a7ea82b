"""The orthogonal mixture of experts (MOORE, Hendawy et al. 2024).

The K experts' features of one sample are made orthonormal by Gram-Schmidt, in the experts' order, and then mixed with the task's weights.
Gram-Schmidt of the rows of F is a triangular solve: with F Fᵀ = L Lᵀ, the orthonormal rows are L⁻¹ F. A mixture w L⁻¹ F therefore needs
only the K numbers w L⁻¹ and never the basis itself, which saves most of the memory traffic.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Added to the diagonal of the Gram matrix of unit-length features. It keeps collinear experts finite in float32, where the entries of
# that matrix are off by about 1e-6, and moves the basis of well-separated experts by no more than that.
EPSILON = 1e-5
_TINY = 1e-12  # keeps the length of an expert that is exactly zero differentiable


def orthogonalize(features: Float[Tensor, "B K D"]) -> Float[Tensor, "B K D"]:
    """Gram-Schmidt over the K experts of each sample, in their order: rows become orthonormal and span what the first k rows spanned.

    An expert that lies in the span of those before it gets a row of (nearly) zero length instead of noise.

    Raises:
        ValueError: more experts than dimensions, so that they cannot be orthogonal.
    """
    triangle, lengths = _triangle(_gram(features))
    return torch.linalg.solve_triangular(triangle, features.float() / lengths.unsqueeze(-1), upper=False)


def mix(features: Float[Tensor, "B K D"], weights: Float[Tensor, "B K"]) -> Float[Tensor, "B D"]:
    """`(weights[:, None] @ orthogonalize(features))[:, 0]`, without building the basis.

    Raises:
        ValueError: more experts than dimensions.
    """
    if torch.is_grad_enabled() and features.requires_grad:
        return _Mix.apply(features, weights)  # type: ignore[no-any-return, no-untyped-call]
    return mix_plain(features, _coefficients(_gram(features), weights))


class _Mix(torch.autograd.Function):
    """The mixture with a way back that reads the features twice; autograd's own, step by step, takes four times as long on a CPU.

    With coefficients c(G, w) of the Gram matrix G = F Fᵀ and m = c F, the gradient is dF = c ⊗ dm + (dG + dGᵀ) F with dc = F dm. What leads
    from G and w to c is K numbers a sample, and left to autograd.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, weights: Tensor) -> Tensor:
        with torch.enable_grad():
            gram, weights = _gram(features.detach()).requires_grad_(), weights.detach().requires_grad_()
            coefficients = _coefficients(gram, weights)
        ctx.small = (gram, weights, coefficients)
        ctx.save_for_backward(features)
        return mix_plain(features, coefficients.detach())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        gram, weights, coefficients = ctx.small
        (features,) = ctx.saved_tensors
        by_coefficient = (features * gradient.unsqueeze(1)).sum(-1).float()
        # The graph is kept: with retain_graph=True a caller may run this backward pass again.
        by_gram, by_weights = torch.autograd.grad(coefficients, (gram, weights), by_coefficient, retain_graph=True)
        by_features = torch.bmm((by_gram + by_gram.mT).to(features.dtype), features)
        return by_features.addcmul_(coefficients.detach().to(features.dtype).unsqueeze(2), gradient.unsqueeze(1)), by_weights


def mix_plain(features: Float[Tensor, "B K D"], weights: Float[Tensor, "B K"]) -> Float[Tensor, "B D"]:
    """The weighted sum of the experts' features as they are."""
    return torch.bmm(weights.to(features.dtype).unsqueeze(1), features).squeeze(1)


class Health(NamedTuple):
    """Similarity of the experts before they are made orthogonal, averaged over samples."""

    gram_offdiagonal: Float[Tensor, ""]  # mean |cosine| between two experts; 0 when all are orthogonal, 1 when all are the same
    effective_rank: Float[Tensor, ""]  # exp of the entropy of the Gram matrix's normalised eigenvalues, 1 to K


@torch.no_grad()
def health(features: Float[Tensor, "B K D"]) -> Health:
    """Similarity and effective rank (Roy and Vetterli 2007) of the experts' features."""
    experts = features.shape[1]
    unit = features.float() / (features.float().norm(dim=-1, keepdim=True) + _TINY)
    gram = torch.bmm(unit, unit.mT)
    others = gram.abs().sum((-1, -2)) - gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    shares = torch.linalg.eigvalsh(gram).clamp(min=1e-9) / experts
    return Health((others / max(1, experts * (experts - 1))).mean(), (-(shares * shares.log()).sum(-1)).exp().mean())


def _gram(features: Float[Tensor, "B K D"]) -> Float[Tensor, "B K K"]:
    """The experts' scalar products, computed in float32 whatever the features are: rounded to bfloat16, those of experts that nearly agree
    have no Cholesky factor.
    """
    num_experts, dimensions = features.shape[-2:]
    if num_experts > dimensions:
        raise ValueError(f"{num_experts} experts cannot be orthogonal in {dimensions} dimensions; use at most {dimensions} experts")
    with torch.autocast(features.device.type, enabled=False):
        wide = features.float()
        return torch.bmm(wide, wide.mT)


def _coefficients(gram: Float[Tensor, "B K K"], weights: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """The coefficient of each expert's own features in the mixture: w L⁻¹, for features of any length."""
    triangle, lengths = _triangle(gram)
    return torch.linalg.solve_triangular(triangle.mT, weights.float().unsqueeze(-1), upper=True).squeeze(-1) / lengths


def _triangle(gram: Float[Tensor, "B K K"]) -> tuple[Float[Tensor, "B K K"], Float[Tensor, "B K"]]:
    """The Cholesky factor of the Gram matrix of the features at unit length, and those lengths.

    Gram-Schmidt does not depend on the experts' lengths; at unit length one ε serves all scales.
    """
    with torch.autocast(gram.device.type, enabled=False):
        lengths = (gram.diagonal(dim1=-2, dim2=-1) + _TINY).sqrt()
        unit_gram = gram / (lengths.unsqueeze(-1) * lengths.unsqueeze(-2))
        # Set, not added: the diagonal of unit vectors is 1 by definition, and an expert that is zero still gets a usable row.
        diagonal = torch.full_like(lengths, 1.0 + EPSILON)
        unit_gram = torch.diagonal_scatter(unit_gram, diagonal, dim1=-2, dim2=-1)
        triangle, _ = torch.linalg.cholesky_ex(unit_gram)
    return triangle, lengths
