"""Self-imitation: returns counted by hand, the paper's two losses, the traces that are kept, and a success that is repeated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import collect, fingerprint, toy_config
from hypothesis import given
from hypothesis import strategies as st

from envs import make_suite
from mtrl.config import ConfigError, SelfImitationConfig, override
from mtrl.learning.learner import Learner
from mtrl.learning.self_imitation import SelfImitation, imitation_losses, returns_to_go

ON = {"learner__self_imitation": {"weight": 0.5}}


@given(st.data())
def test_returns_are_those_of_episodes_that_end_within_the_trace(data):
    """Against a loop over every step: the sum to the first end after it, unless a reset or the trace's end comes first."""
    steps = data.draw(st.integers(1, 12))
    kinds = data.draw(st.lists(st.sampled_from(["step", "end", "reset"]), min_size=steps, max_size=steps))
    rewards = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=steps, max_size=steps)), np.float32)[:, None]
    ended, valid = np.array([[kind == "end"] for kind in kinds]), np.array([[kind != "reset"] for kind in kinds])
    rewards[~valid] = 0.0
    returns, known = returns_to_go(rewards, ended, valid, 0.5)
    for t in range(steps):
        total, factor, found = 0.0, 1.0, False
        for later in range(t, steps):
            if kinds[later] == "reset":
                break
            total, factor = total + factor * float(rewards[later, 0]), factor * 0.5
            if kinds[later] == "end":
                found = True
                break
        assert known[t, 0] == found
        if found:
            assert returns[t, 0] == pytest.approx(total, abs=1e-5)


def test_the_losses_are_the_papers():
    """-Σ w ln π (R - V)₊ and ½ Σ w (R - V)₊², with returns that are above the value, below it, and unknown; and no entropy bonus."""
    config = toy_config(**ON)
    (rollout,) = collect(config, 1)
    learner = Learner(config, make_suite(config.suite.name))
    batch = learner.make_batch(rollout)
    evaluation = learner.evaluate(batch)
    rng = np.random.default_rng(0)
    returns = evaluation.values[:-1] + torch.from_numpy(rng.normal(size=rollout.rewards.shape).astype(np.float32))
    known = torch.from_numpy(rng.random(rollout.rewards.shape) < 0.7)
    arguments = {"num_tasks": 3, "precision": torch.float32}
    losses, gaps = imitation_losses(learner.policy, batch, returns, known, learner._coefficients(0.0), **arguments)
    expected = np.where(known, np.maximum(returns - evaluation.values[:-1], 0.0), 0.0)
    np.testing.assert_allclose(gaps, expected, rtol=1e-5)
    weights = batch.weights.numpy()
    assert float(losses.actor.detach()) == pytest.approx(-(weights * evaluation.log_probs.numpy() * expected).sum(), rel=1e-4)
    assert float(losses.critic.loss.detach()) == pytest.approx(0.5 * (weights * expected**2).sum(), rel=1e-4)


def test_the_best_traces_of_each_task_are_kept():
    """By the mean of what they returned above the value; those that the critic expects by now are not drawn any more."""
    (rollout,) = collect(toy_config(env_runners__slots=12, env_runners__unroll_length=24), 1)
    kept = SelfImitation(SelfImitationConfig(weight=1.0, capacity=2, traces=4), 0.99, None, 3)
    values = np.zeros((25, 12), np.float32)
    kept.add(rollout, values)
    returns, known = returns_to_go(rollout.rewards, rollout.terminated | rollout.truncated, rollout.valid, 0.99)
    gaps = (np.maximum(returns, 0) * known).sum(0) / np.maximum(known.sum(0), 1)
    for task in range(3):
        best = np.sort(gaps[(rollout.task_ids == task) & (gaps > 0)])[::-1][:2]
        np.testing.assert_allclose([trace.gap for trace in kept._traces[task]], best, rtol=1e-5)
    replayed = kept.sample(np.random.default_rng(0))
    assert len(replayed.places) == len(kept) > 2
    assert (np.diff(replayed.rollout.task_ids) >= 0).all()
    for column, (task, number) in enumerate(replayed.places):
        assert replayed.rollout.task_ids[column] == task
        np.testing.assert_array_equal(replayed.returns[:, column], kept._traces[task][number].returns[:, 0])
    kept.rate(replayed, np.zeros_like(replayed.returns))
    assert kept.sample(np.random.default_rng(0)) is None


@pytest.mark.parametrize("memory", [False, True])
def test_a_success_is_repeated(memory):
    """By imitation alone, with a critic that stays, actions become more likely by what they led to above its values."""
    changes = {"model__memory": True, "model__memory_size": 8} if memory else {}
    config = toy_config(learner__self_imitation={"weight": 1.0, "value_weight": 0.0}, learner__actor__learning_rate=3e-3, **changes)
    suite, (rollout,) = make_suite(config.suite.name), collect(config, 1)
    learner = Learner(config, suite)
    batch = learner.make_batch(rollout)
    targets = learner.compute_targets(batch, learner.evaluate(batch))
    coefficients = learner._coefficients(0.0)
    figures = learner._imitate(rollout, targets, coefficients, progress=0.0)
    assert figures["imitation_traces"] > 0 and figures["imitation_gap"] > 0
    returns, known = returns_to_go(rollout.rewards, rollout.terminated | rollout.truncated, rollout.valid, config.learner.discount)
    gaps = torch.from_numpy(np.where(known, np.maximum(returns - targets.values[:-1].numpy(), 0.0), 0.0))

    def likelihood():
        return float((learner.evaluate(batch).log_probs * gaps).sum() / gaps.sum())

    before = likelihood()
    for version in range(40):
        learner.version = version
        figures = learner._imitate(rollout, targets, coefficients, progress=0.0)
    assert likelihood() > before + 0.1
    assert figures["imitation_traces"] <= 3 * config.learner.self_imitation.capacity


def test_a_resumed_learner_goes_on_exactly():
    config = toy_config(**ON)
    suite, rollouts = make_suite(config.suite.name), collect(config, 6)
    first, second = Learner(config, suite), Learner(config, suite)
    for rollout in rollouts[:3]:
        means = first.update(rollout, 0.0).means
    assert means["imitation_traces"] > 0
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for rollout in rollouts[3:]:
        first.update(rollout, 0.0)
        second.update(rollout, 0.0)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())


def test_several_learners_are_refused():
    with pytest.raises(ConfigError, match=r"learners.num_learners is 2, but learner.self_imitation keeps its traces in one learner"):
        override(toy_config(**ON), {"env_runners.num_env_runners": 1, "learners.num_learners": 2})
