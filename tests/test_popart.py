"""PopArt keeps every value while its statistics move, and makes tasks of any reward scale learnable together."""

from __future__ import annotations

import dataclasses
import functools

import gymnasium
import numpy as np
import pytest
import torch
from helpers import toy_config

from envs import make_suite
from envs.suites.toy import ACTION_SPACE, OBSERVATION_SPACE
from envs.task import Task
from mtrl.config import ConfigError
from mtrl.learning.learner import Learner
from mtrl.models.heads import MultiHead
from mtrl.models.popart import PopArt
from mtrl.rollouts.collector import build_collector


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_no_value_moves_when_the_statistics_do(scale):
    torch.manual_seed(0)
    popart, head = PopArt(3, 1e-4), MultiHead(3, 8, 16, 1, output_gain=1.0)
    features, task_ids = torch.randn(12, 8), torch.arange(3).repeat_interleave(4)
    with torch.no_grad():
        for _ in range(20):
            targets = scale * (torch.randn(5, 3) + torch.tensor([0.0, 5.0, -2.0]))
            before = popart.denormalize(head(features, (4, 4, 4)).squeeze(-1), task_ids)
            popart.update(targets, torch.rand(5, 3) > 0.2, torch.arange(3), head, 0.1)
            after = popart.denormalize(head(features, (4, 4, 4)).squeeze(-1), task_ids)
            assert (after - before).abs().max() < 1e-5 * max(1.0, float(popart.scale.max()))


def test_statistics_are_the_means_over_each_tasks_targets():
    popart, head = PopArt(2, 1e-4), MultiHead(2, 4, 4, 1, output_gain=1.0)
    targets = torch.tensor([[1.0, 10.0, 99.0], [3.0, 14.0, 99.0]])
    valid = torch.tensor([[True, True, False], [True, True, False]])
    popart.update(targets, valid, torch.tensor([0, 1, 1]), head, 0.5)
    torch.testing.assert_close(popart.mean.float(), torch.tensor([2.0, 12.0]))
    torch.testing.assert_close(popart.scale, torch.tensor([1.0, 2.0]))
    # The second step is half the way for a rate of 0.5.
    popart.update(targets + 2, valid, torch.tensor([0, 1, 1]), head, 0.5)
    torch.testing.assert_close(popart.mean.float(), torch.tensor([3.0, 13.0]))


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (3000.0, 1.0), (30_000.0, 5.0), (-1e5, 1.0)])
def test_the_scale_is_right_where_values_are_large_against_their_spread(mean, deviation):
    popart, head = PopArt(1, 0.1), MultiHead(1, 4, 4, 1, output_gain=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        targets = mean + deviation * torch.randn(500, 4, generator=generator)
        popart.update(targets, torch.ones(500, 4, dtype=torch.bool), torch.zeros(4, dtype=torch.int64), head, 0.01)
    assert float(popart.scale) == pytest.approx(deviation, rel=0.1)
    assert popart.scale.dtype == popart.normalize(targets, torch.zeros_like(targets, dtype=torch.int64)).dtype == torch.float32


def test_a_target_that_is_not_finite_leaves_no_trace():
    popart, head = PopArt(2, 1e-4), MultiHead(2, 4, 4, 1, output_gain=1.0)
    targets = torch.tensor([[1.0, float("nan")], [3.0, 1.0]])
    popart.update(targets, torch.ones(2, 2, dtype=torch.bool), torch.arange(2), head, 0.5)
    assert popart.mean.tolist() == [2.0, 0.0]
    assert all(torch.isfinite(parameter).all() for parameter in head.parameters())


def test_the_first_reward_of_a_task_is_no_outlier():
    """600 updates whose targets are a critic's errors of a thousandth; then a reward of 1 comes."""
    popart, head = PopArt(1, 0.1), MultiHead(1, 4, 4, 1, output_gain=1.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(600):
        popart.update(
            1e-3 * torch.randn(8, 1, generator=generator), torch.ones(8, 1, dtype=torch.bool), torch.zeros(1, dtype=torch.int64), head, 0.02
        )
    assert float(popart.normalize(torch.tensor([1.0]), torch.tensor([0]))) == pytest.approx(10, rel=0.01)


class Steps(gymnasium.Env):
    """Pays 0.2, 0.7, 0 and 0.1 in four steps whatever is done, times its scale."""

    observation_space, action_space = OBSERVATION_SPACE, ACTION_SPACE
    rewards = (0.2, 0.7, 0.0, 0.1)

    def __init__(self, scale):
        self.scale = scale

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._at = 0
        return self._show(), {}

    def step(self, action):
        reward = self.scale * self.rewards[self._at]
        self._at += 1
        return self._show(), reward, self._at == 4, False, {}

    def _show(self):
        return {"vector": np.eye(8, dtype=np.float32)[self._at]}


def relative_values(*, popart: bool) -> np.ndarray:
    """The critic's value of the first state over the truth, for a task and for the same task with 1000 times its rewards, in one run."""
    tasks = (Task("small", functools.partial(Steps, 1.0)), Task("large", functools.partial(Steps, 1000.0), high=1000.0))
    suite = dataclasses.replace(make_suite("toy/three"), name="test/scaled", tasks=tasks)
    config = toy_config(
        env_runners__slots=16, env_runners__unroll_length=16, model__trunks="shared", model__popart=popart, learner__popart_rate=0.05
    )
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    for _ in range(200):
        collector.set_weights(learner.version, learner.actor_weights())
        rollout = collector.collect().rollout
        learner.update(rollout, 0.0)
    values = learner.evaluate(learner.make_batch(rollout)).values.numpy()[1:]
    starts = ~rollout.valid
    means = np.array([values[:, rollout.task_ids == task][starts[:, rollout.task_ids == task]].mean() for task in range(2)])
    truth = sum(0.99**t * reward for t, reward in enumerate(Steps.rewards))
    return means / (truth * np.array([1, 1000]))


def test_values_a_thousand_times_larger_are_learned_as_quickly():
    np.testing.assert_allclose(relative_values(popart=True), 1, atol=0.1)
    assert relative_values(popart=False)[1] < 0.5


def test_statistics_are_part_of_the_policy():
    config = toy_config(model__popart=True)
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    collector.set_weights(0, learner.actor_weights())
    for _ in range(3):
        learner.update(collector.collect().rollout, 0.0)
    assert np.abs(learner.policy_weights()["critic.popart.mean"]).max() > 0
    other = Learner(config, suite)
    other.load_state_dict(learner.state_dict())
    torch.testing.assert_close(other.policy.critic.popart.scale, learner.policy.critic.popart.scale)


def test_needs_a_head_for_each_task():
    config = toy_config(model__popart=True, model__heads="single")
    with pytest.raises(ConfigError, match="multi"):
        Learner(config, make_suite(config.suite.name))
