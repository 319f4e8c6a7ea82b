"""The orthogonal mixture of experts without the factorisations of linear algebra, which ONNX does not have.

Gram-Schmidt over the K experts, written out: in exact arithmetic step k of it is column k of the Cholesky factor that `mtrl.models.experts`
asks LAPACK for, and so the numbers are the same, with the same ε. K is fixed in a file, and each of its steps works on all rows at once.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mtrl.models.experts import EPSILON, mix_plain

_TINY = 1e-12  # as of `mtrl.models.experts`


def mix(features: Tensor, weights: Tensor) -> Tensor:
    """What `mtrl.models.experts.mix` gives.

    Args:
        features: of the experts, [N, K, D].
        weights: of the experts, [N, K].

    Returns:
        the mixed features, [N, D].
    """
    gram = torch.bmm(features, features.transpose(1, 2))
    num_experts = features.shape[1]
    lengths = (torch.stack([gram[:, k, k] for k in range(num_experts)], dim=1) + _TINY).sqrt()
    cosines = gram / (lengths.unsqueeze(2) * lengths.unsqueeze(1))
    return mix_plain(features, _solve(_triangle(cosines), weights) / lengths)


def _triangle(cosines: Tensor) -> list[Tensor]:
    """The columns of the Cholesky factor, [N, K] each: the products of expert k, made orthogonal to those before it, with all experts."""
    columns: list[Tensor] = []
    for k in range(cosines.shape[1]):
        rest, square = cosines[:, :, k], torch.full_like(cosines[:, 0, k], 1.0 + EPSILON)
        if columns:
            found = torch.stack(columns, dim=2)
            rest = rest - torch.bmm(found, found[:, k].unsqueeze(2)).squeeze(2)
            square = square - found[:, k].square().sum(1)
        length = square.sqrt().unsqueeze(1)
        # Experts before k are orthogonal to it by now; theirs and its own entry are known.
        columns.append(torch.cat([torch.zeros_like(rest[:, :k]), length, rest[:, k + 1 :] / length], dim=1))
    return columns


def _solve(triangle: list[Tensor], weights: Tensor) -> Tensor:
    """C with c L = w: the last expert's coefficient first."""
    coefficients: list[Tensor] = []
    for k in reversed(range(len(triangle))):
        rest = weights[:, k]
        if coefficients:
            rest = rest - (torch.stack(coefficients, dim=1) * triangle[k][:, k + 1 :]).sum(1)
        coefficients.insert(0, rest / triangle[k][:, k])
    return torch.stack(coefficients, dim=1)
