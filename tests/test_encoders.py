"""Encoders: how the experts' inputs are made from observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, MultiDiscrete
from helpers import toy_config

from envs import make_suite
from mtrl.config import ModelConfig
from mtrl.models.encoders import CELL, FusedEncoder, ImageEncoder, make_encoder
from mtrl.models.policy import build_policy


def numbers_of(image: np.ndarray) -> np.ndarray:
    """A cell's three numbers as three channels, [3, 7, 7]."""
    return image.transpose(2, 0, 1).astype(np.float32)


def one_hot_of(image: np.ndarray) -> np.ndarray:
    """A channel for each kind, colour and state, which is 1 in the cells that have it, [21, 7, 7]."""
    return np.stack([image[:, :, i] == value for i, n in enumerate(CELL) for value in range(n)]).astype(np.float32)


@pytest.mark.parametrize(("cells", "read"), [("numbers", numbers_of), ("one_hot", one_hot_of)])
def test_a_grid_cell_is_read_as_the_experiment_says(cells, read):
    config = toy_config("minigrid/DistShift1", model__grid_cells=cells, model__experts=3)
    encoder = build_policy(config.model, make_suite(config.suite.name), seed=0).actor.trunk.encoder
    images = np.random.default_rng(0).integers(0, CELL, (5, 7, 7, 3)).astype(np.uint8)
    features = encoder({"image": torch.from_numpy(images)}, torch.zeros(5, dtype=torch.int64))
    given = torch.from_numpy(np.stack([read(image) for image in images]))
    for k, expert in enumerate(encoder.experts):
        # A feature is a place (height, width) and one of the last layer's channels.
        torch.testing.assert_close(features[:, k], expert(given).permute(0, 2, 3, 1).flatten(1))


FUSED = Dict(
    {
        "camera": Box(0, 255, (3, 40, 36), np.uint8),
        "depth": Box(np.float32(-1), np.float32(3), (1, 9, 20), np.float32),
        "vector": Box(-np.inf, np.inf, (4,), np.float32),
        "words": Box(0, 26, (10,), np.uint8),
        "place": MultiDiscrete([700, 900]),
    }
)


def rows_of(space, count, seed=0):
    space.seed(seed)
    samples = [space.sample() for _ in range(count)]
    return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in space}


def test_every_array_has_its_share_in_what_all_experts_read():
    model = ModelConfig(experts=3, normalize_observations=True)
    encoder = make_encoder(FUSED, model, 2)
    assert isinstance(encoder, FusedEncoder) and not encoder.same_operations  # texts are read once each
    obs, task_ids = rows_of(FUSED, 6), torch.tensor([0, 0, 0, 1, 1, 1])
    before = encoder(obs, task_ids)
    assert before.shape == (6, 3, encoder.feature_size)
    others = rows_of(FUSED, 6, seed=1)
    for name in FUSED:
        changed = encoder(obs | {name: torch.cat([others[name][:1], obs[name][1:]])}, task_ids)
        assert (changed[0] - before[0]).abs().amax(-1).gt(1e-4).all(), name
        torch.testing.assert_close(changed[1:], before[1:])
    before.square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for name, parameter in encoder.named_parameters() if parameter.ndim > 1)


def test_arrays_without_texts_are_read_by_the_same_operations_whatever_they_are():
    space = Dict({name: part for name, part in FUSED.items() if name != "words"})
    assert make_encoder(space, ModelConfig(), 2).same_operations


def test_a_text_ends_where_its_characters_end():
    """As a GRU that reads the characters alone."""
    encoder = make_encoder(Dict({"text": Box(0, 26, (10,), np.uint8)}), ModelConfig(), 1).stems[0]
    texts = torch.zeros(3, 10, dtype=torch.uint8)
    texts[0, :3], texts[1, :10] = torch.tensor([5, 1, 26]), torch.arange(1, 11)
    read = encoder({"text": texts}, torch.zeros(3, dtype=torch.int64))[:, 0]
    for row, length in ((0, 3), (1, 10)):
        _, last = encoder.gru(encoder.words(texts[row : row + 1, :length].long()))
        torch.testing.assert_close(read[row], last[0, 0])


@pytest.mark.parametrize("shape", [(1, 3, 3), (5, 8, 30), (3, 35, 36), (3, 36, 36), (12, 84, 84), (1, 20, 300), (3, 210, 160)])
@pytest.mark.parametrize("kind", ["shallow", "nature", "deep"])
def test_images_of_any_size_are_read(shape, kind):
    space = Dict({"image": Box(0, 255, shape, np.uint8)})
    encoder = make_encoder(space, ModelConfig(experts=2, frames_encoder=kind), 1)
    assert isinstance(encoder, ImageEncoder)
    features = encoder(rows_of(space, 2), torch.zeros(2, dtype=torch.int64))
    assert features.shape == (2, 2, 256) and torch.isfinite(features).all() and not torch.equal(features[0], features[1])
    assert sum(parameter.numel() for parameter in encoder.experts[0].parameters()) < 4_000_000


def test_numbers_of_images_are_scaled_by_their_finite_bounds():
    """An image between any bounds is what the same one between 0 and 1 is; numbers without bounds stay as they are."""
    low = np.array([-1, 100, -np.inf, 0], np.float32)[:, None, None] * np.ones((4, 9, 9), np.float32)
    high = np.array([3, 101, 5, 3e38], np.float32)[:, None, None] * np.ones((4, 9, 9), np.float32)
    unit = torch.rand(2, 4, 9, 9)
    scaled = unit * torch.tensor([4.0, 1.0, 1.0, 1.0])[:, None, None] + torch.tensor([-1.0, 100.0, 0.0, 0.0])[:, None, None]
    encoders = []
    for box in (Box(low, high, dtype=np.float32), Box(0, 1, (4, 9, 9), np.float32)):
        torch.manual_seed(0)
        encoders.append(ImageEncoder(Dict({"image": box}), ModelConfig(experts=2), 1))
    tasks = torch.zeros(2, dtype=torch.int64)
    found, expected = (encoder({"image": image}, tasks) for encoder, image in zip(encoders, (scaled, unit), strict=True))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert encoders[0].state_dict().keys() == encoders[1].state_dict().keys()  # nothing but weights
    for box in (Box(0, 255, (1, 9, 9), np.uint8), Box(0, 1, (1, 9, 9), np.float32)):
        torch.manual_seed(0)
        encoders.append(ImageEncoder(Dict({"image": box}), ModelConfig(experts=2), 1))
    whole = torch.randint(0, 256, (2, 1, 9, 9), dtype=torch.uint8)
    torch.testing.assert_close(encoders[2]({"image": whole}, tasks), encoders[3]({"image": whole / 255}, tasks), rtol=1e-3, atol=1e-4)


def test_bytes_are_exact_in_bfloat16():
    """Every value of a byte, read in bfloat16 at once or by way of float32."""
    encoder = make_encoder(Dict({"image": Box(0, 255, (1, 16, 16), np.uint8)}), ModelConfig(experts=2), 1)
    image = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        found = encoder({"image": image}, torch.zeros(1, dtype=torch.int64))
        expected = torch.stack([expert(image.float().contiguous(memory_format=torch.channels_last)) for expert in encoder.experts], dim=1)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
