"""Encoders: how the experts' inputs are made from observations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import toy_config

from envs import make_suite
from mtrl.models.encoders import CELL
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
