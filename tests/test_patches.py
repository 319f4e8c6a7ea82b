"""Convolutions over distinct patches give what convolutions over all views give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs import make_suite
from mtrl.config import ModelConfig
from mtrl.models.encoders import patches
from mtrl.models.encoders.grid import GridEncoder
from mtrl.models.encoders.patches import distinct_patches


def encoder_of(**settings) -> GridEncoder:
    torch.manual_seed(0)
    suite = make_suite("minigrid/mt3")
    encoder = GridEncoder(suite.observation_space, ModelConfig(experts=3, **settings), 3)
    for parameter in encoder.parameters():
        if parameter.ndim == 1:  # biases begin at 0
            torch.nn.init.normal_(parameter)
    return encoder


def views(kind: str, count: int = 70) -> torch.Tensor:
    """Of MiniGrid's kind, with whole walls, or of any bytes."""
    rng = np.random.default_rng(0)
    if kind == "bytes":
        return torch.from_numpy(rng.integers(0, 256, (count, 7, 7, 3), dtype=np.uint8))
    images = rng.integers(0, (3, 2, 1), (count, 7, 7, 3)).astype(np.uint8)
    images[:, :, 2:] = (2, 5, 0)
    return torch.from_numpy(images)


@pytest.mark.parametrize("settings", [{}, {"grid_cells": "numbers"}, {"width": 1.7}])
@pytest.mark.parametrize(("kind", "count"), [("cells", 70), ("bytes", 70), ("cells", 1)])
def test_features_and_gradients_are_those_of_the_convolutions(settings, kind, count):
    encoder, images = encoder_of(**settings), views(kind, count)
    found = []
    for share in (False, True):
        encoder.share_patches = share
        encoder.zero_grad()
        features = encoder({"image": images}, torch.zeros(len(images), dtype=torch.long))
        (features * torch.rand(features.shape, generator=torch.Generator().manual_seed(1))).sum().backward()
        found.append((features.detach(), [parameter.grad.clone() for parameter in encoder.parameters()]))
    (plain, of_plain), (shared, of_shared) = found
    assert plain.shape == (len(images), 3, encoder.feature_size)
    scale = float(plain.abs().max())
    torch.testing.assert_close(shared / scale, plain / scale, rtol=1e-4, atol=1e-6)
    for one, other in zip(of_shared, of_plain, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-5


def test_reduced_precision_is_that_of_the_result_alone():
    encoder, images = encoder_of(), views("cells")
    tasks = torch.zeros(len(images), dtype=torch.long)
    exact = encoder({"image": images}, tasks)
    with torch.autocast("cpu", torch.bfloat16):
        reduced = encoder({"image": images}, tasks)
    assert reduced.dtype == torch.bfloat16
    torch.testing.assert_close(reduced.float(), exact, rtol=2**-8, atol=1e-6)


def test_each_patch_occurs_once_and_is_put_together_again():
    images = views("cells")
    found = distinct_patches(images, sizes=3)
    assert [len(level.unique(dim=0)) for level in found.levels] == [len(level) for level in found.levels]
    assert len(found.levels[0]) < 0.2 * len(images) * 36
    places = found.views.view(len(images), 4, 4)
    upper_left = places
    for level in reversed(found.levels):
        upper_left = level[upper_left][..., 0]
    np.testing.assert_array_equal(found.cells[upper_left], images[:, :4, :4])


def test_too_many_patches_are_convolved(monkeypatch):
    encoder, images = encoder_of(), views("bytes")
    tasks = torch.zeros(len(images), dtype=torch.long)
    expected = encoder({"image": images}, tasks)
    monkeypatch.setattr(patches, "MOST", 256)
    assert distinct_patches(images, sizes=3) is None
    torch.testing.assert_close(encoder({"image": images}, tasks), expected, rtol=1e-4, atol=1e-3)
