"""The orthogonal mixture: properties of Gram-Schmidt, the equality of both ways to mix, and hard inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import gram_schmidt

from mtrl.models.activations import tanh
from mtrl.models.experts import health, mix, orthogonalize


def features(samples: int, experts: int, dimensions: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, experts, dimensions, generator=torch.Generator().manual_seed(seed))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 5), st.integers(1, 6), st.integers(0, 10**6))
def test_equals_the_textbook(samples, experts, seed):
    x = features(samples, experts, 64, seed) * 10 ** np.random.default_rng(seed).uniform(-2, 2)
    np.testing.assert_allclose(orthogonalize(x).numpy(), gram_schmidt(x.double().numpy()), atol=2e-4)


def test_rows_are_orthonormal_and_span_the_same_space():
    x = features(7, 4, 32)
    basis = orthogonalize(x)
    np.testing.assert_allclose((basis @ basis.mT).numpy(), np.eye(4)[None].repeat(7, 0), atol=1e-4)
    projected = (x @ basis.mT) @ basis
    np.testing.assert_allclose(projected.numpy(), x.numpy(), atol=1e-3)
    # Expert k is a combination of the first k rows: the coefficients form a lower triangle with a positive diagonal.
    coefficients = (x @ basis.mT).numpy()
    assert np.abs(np.triu(coefficients, 1)).max() < 1e-3
    assert (np.diagonal(coefficients, axis1=1, axis2=2) > 0).all()


def test_mix_equals_mixing_the_basis_with_gradients():
    x = features(9, 4, 64).requires_grad_()
    weights = torch.randn(9, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    target = torch.randn(9, 64, generator=torch.Generator().manual_seed(2))
    both = (mix(x, weights), (weights[:, None] @ orthogonalize(x))[:, 0])
    gradients = [(y, *torch.autograd.grad((y * target).sum(), (x, weights))) for y in both]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


def test_the_mixtures_own_way_back_is_the_numerical_one():
    """Along a random direction, and the same again where the graph is retained, as comparing tasks' gradients does."""
    x, weights = (each.requires_grad_() for each in (features(3, 3, 8), torch.randn(3, 3, generator=torch.Generator().manual_seed(1))))
    target = torch.randn(3, 8, generator=torch.Generator().manual_seed(2))
    first, second = (torch.autograd.grad((y * target).sum(), (x, weights), retain_graph=True) for y in (mix(x, weights),) * 2)
    step = 1e-2
    for place, (tensor, gradient) in enumerate(zip((x, weights), first, strict=True)):
        torch.testing.assert_close(gradient, second[place])
        direction = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            ends = [[*[x, weights][:place], tensor + sign * step * direction, *[x, weights][place + 1 :]] for sign in (1, -1)]
            ahead, behind = ((mix(*end) * target).sum() for end in ends)
        assert float((gradient * direction).sum()) == pytest.approx(float(ahead - behind) / (2 * step), rel=0.02, abs=1e-3)


def test_the_fast_tanh_is_tanh():
    x = torch.linspace(-30, 30, 1001, requires_grad=True)
    weights = torch.randn(1001, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(tanh(x), x.tanh(), atol=5e-7, rtol=0)
    (own,), (theirs,) = (torch.autograd.grad((y * weights).sum(), x) for y in (tanh(x), x.tanh()))
    torch.testing.assert_close(own, theirs, atol=2e-6, rtol=0)
    torch.testing.assert_close(tanh(x.detach().double()), x.detach().double().tanh(), atol=0, rtol=0)


def test_does_not_depend_on_the_experts_lengths():
    x, weights = features(5, 3, 32), torch.randn(5, 3)
    scale = torch.tensor([1e-3, 1.0, 1e4])[None, :, None]
    torch.testing.assert_close(mix(x, weights), mix(x * scale, weights), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("case", ["collinear", "zero", "all zero", "tiny", "huge"])
def test_degenerate_experts_stay_finite(case):
    x = features(6, 4, 32)
    if case == "collinear":
        x[:, 1] = -3 * x[:, 0]
        x[:, 2] = x[:, 0]
    elif case == "zero":
        x[:, 2] = 0
    else:
        x = x * {"all zero": 0.0, "tiny": 1e-15, "huge": 1e8}[case]
    x.requires_grad_()
    weights = torch.ones(6, 4, requires_grad=True)
    for y in (mix(x, weights), orthogonalize(x)):
        assert torch.isfinite(y).all()
        for gradient in torch.autograd.grad(y.sum(), (x, weights), allow_unused=True):
            assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("cosine", [0.5, 0.99, 0.9975])
def test_experts_that_nearly_agree_are_mixed_right_in_bfloat16(cosine):
    """The Gram matrix is computed in float32 under autocast; rounded to eight bits, it has no Cholesky factor at 0.9975."""
    x = features(64, 4, 128)
    x = x / x.norm(dim=-1, keepdim=True)
    x = (cosine**0.5 * x[:, :1] + (1 - cosine) ** 0.5 * x).bfloat16()
    weights = torch.randn(64, 4, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        mixed = mix(x, weights)
    exact = (weights.double().numpy()[:, None] @ gram_schmidt(x.double().numpy()))[:, 0]
    assert np.linalg.norm(mixed.double().numpy() - exact) < 0.06 * np.linalg.norm(exact)


def test_more_experts_than_dimensions_is_an_error():
    with pytest.raises(ValueError, match="5 experts cannot be orthogonal in 4 dimensions"):
        mix(features(2, 5, 4), torch.ones(2, 5))


def test_health_knows_equal_and_orthogonal_experts():
    same = features(6, 1, 16).expand(-1, 4, -1)
    assert [float(x) for x in health(same)] == pytest.approx([1.0, 1.0], abs=1e-3)
    apart = orthogonalize(features(6, 4, 16))
    assert [float(x) for x in health(apart)] == pytest.approx([0.0, 4.0], abs=1e-2)
    # Two equal pairs: four of the twelve cosines are 1, and two directions are left.
    pairs = apart[:, [0, 0, 1, 1]]
    assert [float(x) for x in health(pairs)] == pytest.approx([1 / 3, 2.0], abs=1e-2)
