"""Atari through our contract: both backends, published returns of random play, IMPALA's encoders, clipped rewards."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from helpers import toy_config

from envs import SuiteError, UnknownTaskError, make_suite, make_vector
from envs.suites.atari import PUBLISHED
from mtrl.config import ModelConfig
from mtrl.learning.learner import Learner
from mtrl.models.encoders import make_encoder
from mtrl.rollouts.collector import build_collector


@pytest.mark.parametrize(
    ("game", "backend", "tolerance"), [("Pong", "envpool", 1.0), ("Pong", "gymnasium", 1.0), ("Boxing", "envpool", 6.0)]
)
def test_random_play_returns_what_was_published(game, backend, tolerance):
    """Which needs the right actions, frames to skip, rewards that are not clipped, and episodes that outlive a life."""
    suite = make_suite(f"atari/{game}")
    tasks, rng, episodes = make_vector(suite, 3, backend=backend, seed=1), np.random.default_rng(0), []
    tasks.reset()
    for _ in range(2500):
        episodes += tasks.step(rng.integers(18, size=3)).episodes
        if len(episodes) >= 3:
            break
    tasks.close()
    assert len(episodes) >= 3
    assert np.mean([episode.episode_return for episode in episodes]) == pytest.approx(PUBLISHED[game].random, abs=tolerance)
    assert suite.score(0, PUBLISHED[game].random) == 0.0
    assert suite.score(0, PUBLISHED[game].human) == 1.0
    assert suite.score(0, 1000.0) == 1.0  # capped, as in IMPALA's tables


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_frames_are_stacked_oldest_first(backend):
    tasks = make_vector(make_suite("atari/Pong"), 2, backend=backend, seed=0)
    before = tasks.reset()["frames"]
    assert before.shape == (2, 4, 84, 84)
    assert before.dtype == np.uint8
    for _ in range(40):
        after = tasks.step(np.full(2, 2)).obs["frames"]
        np.testing.assert_array_equal(after[:, :3], before[:, 1:])
        before = after
    tasks.close()
    # The play is seen: a ball and two bats move on a uniform ground.
    assert 0 < (after[:, 3] != after[:, 0]).mean() < 0.05


def test_the_sets():
    assert make_suite("atari/57").num_tasks == len(PUBLISHED) == 57
    assert make_suite("atari/5").backends == ("envpool", "gymnasium")
    with pytest.raises(UnknownTaskError, match="no game 'Pongg'; did you mean Pong"):
        make_suite("atari/Pongg")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ale_py", None)
    with pytest.raises(SuiteError, match=r"install mtrl-trainer\[atari\]"):
        make_vector(make_suite("atari/Pong"), 1, backend="gymnasium").reset()


@pytest.mark.parametrize("kind", ["shallow", "nature", "deep"])
def test_encoders_see_fractions_of_255(kind):
    """Layer by layer with bytes divided beforehand, as IMPALA has it."""
    encoder = make_encoder(make_suite("atari/Pong").observation_space, ModelConfig(experts=2, frames_encoder=kind), 1)
    frames = torch.randint(0, 256, (3, 4, 84, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features = encoder({"frames": frames}, torch.zeros(3, dtype=torch.int64))
    assert features.shape == (3, 2, 256)
    for k, expert in enumerate(encoder.experts):
        x = torch.nn.functional.conv2d(frames / 255, expert[0].weight, expert[0].bias, expert[0].stride, expert[0].padding)
        torch.testing.assert_close(expert[1:](x), features[:, k], atol=1e-4, rtol=1e-3)
    # The published sizes: 9 x 9 x 32 after the two convolutions, 7 x 7 x 64 after the three, 11 x 11 x 32 after the three sections.
    assert encoder.experts[0][-1].in_features == {"shallow": 2592, "nature": 3136, "deep": 3872}[kind]


def test_rewards_are_clipped_for_learning_alone():
    config = toy_config("atari/Pong", env_runners__slots=2, env_runners__unroll_length=4, learner__clip_rewards=0.5, model__memory=True)
    suite = make_suite("atari/Pong")
    collector = build_collector(config, suite, 0)
    learner = Learner(config, suite)
    collector.set_weights(0, learner.actor_weights())
    rollout = collector.collect().rollout
    collector.close()
    rollout = rollout._replace(rewards=np.linspace(-7, 7, 8, dtype=np.float32).reshape(4, 2))
    batch = learner.make_batch(rollout)
    np.testing.assert_array_equal(batch.rewards.numpy(), rollout.rewards.clip(-0.5, 0.5))
    np.testing.assert_array_equal(batch.observations.recurrence.last_rewards[1:].numpy(), rollout.rewards)
    assert all(np.isfinite(value) for value in learner.update(rollout, 0.0).means.values())
