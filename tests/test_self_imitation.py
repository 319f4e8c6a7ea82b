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
from mtrl.rollouts.rollout import RolloutLevels

ON = {"learner__self_imitation": {"weight": 0.5}}
ROLLOUT = collect(toy_config(), 1)[0]


@given(st.data())
def test_returns_are_those_of_episodes_that_end_within_the_trace(data):
    """Against a loop over every step: the sum to the first end after it, unless a reset or the trace's end comes first. Where an episode
    is cut off, the value of its last observation follows.
    """
    steps = data.draw(st.integers(1, 12))
    kinds = data.draw(st.lists(st.sampled_from(["step", "end", "cut", "reset"]), min_size=steps, max_size=steps))
    values = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=steps + 1, max_size=steps + 1)), np.float32)[:, None]
    rewards = np.array(data.draw(st.lists(st.integers(-3, 3), min_size=steps, max_size=steps)), np.float32)[:, None]
    terminated, truncated, valid = (np.array([[kind == name] for kind in kinds]) for name in ("end", "cut", "reset"))
    rewards[valid] = 0.0
    rollout = ROLLOUT._replace(rewards=rewards, terminated=terminated, truncated=truncated, valid=~valid)
    returns, known = returns_to_go(rollout, values, 0.5)
    for t in range(steps):
        total, factor, found = 0.0, 1.0, False
        for later in range(t, steps):
            if kinds[later] == "reset":
                break
            total, factor = total + factor * float(rewards[later, 0]), factor * 0.5
            if kinds[later] in ("end", "cut"):
                total += factor * float(values[later + 1, 0]) if kinds[later] == "cut" else 0.0
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
    returns, known = returns_to_go(rollout, values, 0.99)
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


def test_steps_that_nothing_is_learned_from_are_not_imitated():
    """Those on levels that are only rated."""
    rollout = ROLLOUT
    steps, slots = rollout.rewards.shape
    only_rated = np.zeros((steps, slots), bool)
    only_rated[:, ::2] = True
    levels = RolloutLevels(np.zeros((steps, slots), np.int64), only_rated, np.arange(slots))
    kept = SelfImitation(SelfImitationConfig(weight=1.0), 0.99, None, 3)
    kept.add(rollout._replace(levels=levels), np.full((steps + 1, slots), -10.0, np.float32))
    replayed = kept.sample(np.random.default_rng(0))
    known = returns_to_go(rollout, np.zeros((steps + 1, slots)), 0.99)[1]
    assert len(kept) == known[:, 1::2].any(0).sum() > 0
    assert replayed.known.any()


def test_a_task_that_is_cut_off_and_well_predicted_is_not_imitated():
    """Reward -1 for ever and a time limit: with the value that this has, nothing returned more than the critic expects."""
    ended = ROLLOUT.terminated | ROLLOUT.truncated
    rollout = ROLLOUT._replace(rewards=np.full_like(ROLLOUT.rewards, -1.0), terminated=np.zeros_like(ended), truncated=ended)
    kept = SelfImitation(SelfImitationConfig(weight=1.0), 0.5, None, 3)
    kept.add(rollout, np.full((len(rollout.rewards) + 1, rollout.rewards.shape[1]), -2.0, np.float32))
    assert rollout.truncated.any() and len(kept) == 0


def test_traces_of_another_length_are_dropped():
    """A run may be resumed with another length of unrolls."""
    kept = SelfImitation(SelfImitationConfig(weight=1.0), 0.99, None, 3)
    for steps in (8, 24):
        (rollout,) = collect(toy_config(env_runners__slots=12, env_runners__unroll_length=steps), 1)
        kept.add(rollout, np.full((steps + 1, 12), -10.0, np.float32))
        assert {trace.rollout.unroll_length for traces in kept._traces for trace in traces} == {steps}


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
    returns, known = returns_to_go(rollout, targets.values.numpy(), config.learner.discount)
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
