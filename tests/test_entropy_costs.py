"""The entropy target: a bandit with a known optimum, the numbers of one step, and the way through the system."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Silent, collect, fingerprint, toy_config
from scipy import optimize, special, stats

from envs import make_suite
from mtrl.config import ConfigError, override
from mtrl.learning.entropy_costs import EntropyCosts
from mtrl.learning.learner import Learner
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.metrics import update_metrics
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

CPU = torch.device("cpu")


def step(costs, entropies, **changes):
    """One step of the weights from a mean entropy of each task."""
    count = len(entropies)
    costs.update(torch.tensor([entropies]), torch.full((1, count), 1 / count), torch.arange(count), **changes)


def test_a_bandits_policies_have_the_target_entropy():
    """The best policy under a weight α is softmax(r / α), and one α gives it the target: larger rewards need a larger one."""
    rewards = torch.tensor([[0.0, 0.2, 1.0], [0.0, 2.0, 10.0]])
    target = 0.6
    logits = torch.zeros(2, 3, requires_grad=True)
    costs = EntropyCosts(2, start=0.01, target=target, rate=0.04, device=CPU)
    optimizer = torch.optim.Adam([logits], lr=0.05)
    for _ in range(1500):
        policies = logits.softmax(-1)
        entropies = -(policies * policies.log()).sum(-1)
        loss = -((policies * rewards).sum(-1) + costs.costs * entropies).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step(costs, entropies.tolist())
    for task in range(2):
        reward = rewards[task].double().numpy()
        exact = optimize.brentq(lambda a, r=reward: stats.entropy(special.softmax(r / a)) - target, 1e-3, 1e2)
        assert float(costs.costs[task]) == pytest.approx(exact, rel=0.02)
        assert float(costs.entropies[task]) == pytest.approx(target, abs=0.01)
        np.testing.assert_allclose(logits[task].softmax(-1).detach(), special.softmax(reward / exact), atol=0.01)


def test_the_numbers_of_one_step():
    """0.3 nats below the target raise ln α by rate · 0.3; far away counts as one nat; a task without data, or with NaN, stays."""
    costs = EntropyCosts(4, start=0.1, target=1.0, rate=0.5, device=CPU)
    entropies = torch.tensor([[0.6, 40.0, 7.0, torch.nan], [0.9, 40.0, 7.0, 0.0]])
    weights = torch.tensor([[0.2, 0.1, 0.0, 0.1], [0.1, 0.1, 0.0, 0.1]])
    costs.update(entropies, weights, torch.arange(4))
    np.testing.assert_allclose(costs.costs, 0.1 * np.exp([0.5 * 0.3, -0.5, 0.0, 0.0]), rtol=1e-5)
    np.testing.assert_allclose(costs.entropies, [0.7, 40.0, np.nan, np.nan], rtol=1e-6)
    before = costs.costs.clone()
    costs.update(entropies, weights, torch.arange(4), made=torch.tensor(0.0))
    assert torch.equal(costs.costs, before)
    for _ in range(100):
        step(costs, [-50.0, 50.0, -50.0, 50.0])
    np.testing.assert_allclose(costs.costs, np.array([costs.MOST, costs.LEAST] * 2), rtol=1e-5)


def test_two_learners_make_the_step_of_one():
    entropies, weights, task_ids = torch.rand(3, 6), torch.rand(3, 6) / 18, torch.tensor([0, 0, 1, 1, 1, 2])
    one, half = (EntropyCosts(3, start=0.1, target=0.5, rate=0.5, device=CPU) for _ in range(2))
    one.update(entropies, weights, task_ids)

    def sums(columns):
        zeros = torch.zeros(3)
        return torch.cat([zeros.index_add(0, task_ids[columns], part[:, columns].sum(0)) for part in (weights, weights * entropies)])

    mine, other = slice(0, None, 2), slice(1, None, 2)
    half.update(entropies[:, mine], weights[:, mine], task_ids[mine], total=lambda tensor: tensor + sums(other))
    torch.testing.assert_close(half.costs, one.costs)


def test_a_learner_weighs_each_tasks_bonus_by_its_own():
    """The gradient is that of the tasks' losses one by one, and a weight moves after each of the actor's steps."""
    changes = {"learner__entropy_target": 0.5, "learner__entropy_target_rate": 0.1, "learner__entropy_cost": 0.2}
    config = toy_config(**changes)
    (rollout,) = collect(config)
    learner = Learner(config, make_suite(config.suite.name))
    learner._entropy_costs._log_costs.copy_(torch.tensor([0.1, 0.3, 0.7]).log())
    with torch.no_grad():  # tasks of different entropies, so that no two of them can be mistaken for each other
        learner.policy.actor.head.output_bias.copy_(
            torch.arange(3.0)[:, None] * torch.arange(learner.policy.actor.head.output_bias.shape[1])
        )
    batch = learner.make_batch(rollout)
    (minibatch,) = learner.minibatches(batch, None)
    losses = learner.losses(minibatch)
    of_tasks = [batch.weights[:, batch.observations.task_ids == task] for task in range(3)]
    entropies = [losses.entropies[:, batch.observations.task_ids == task] for task in range(3)]
    bonus = sum(cost * (w * h).sum() for cost, w, h in zip((0.1, 0.3, 0.7), of_tasks, entropies, strict=True))
    assert float(losses.actor.detach()) == pytest.approx(float(losses.metrics["policy_loss"] - bonus), abs=1e-6)
    result = learner.update(rollout, 0.0)
    assert losses.entropies.std() > 0.1
    means = np.array([float((w * h).sum() / w.sum()) for w, h in zip(of_tasks, entropies, strict=True)])
    np.testing.assert_allclose(result.entropies.means, means, rtol=1e-5)
    np.testing.assert_allclose(result.entropies.costs, [0.1, 0.3, 0.7] * np.exp(-0.1 * (means - 0.5)), rtol=1e-5)
    metrics = update_metrics(("a", "b", "c"), result)
    assert metrics["tasks/b/entropy"] == pytest.approx(means[1])
    assert metrics["tasks/c/entropy_cost"] > 0.7  # whose entropy is below the target


@pytest.mark.parametrize("minibatches", [1, 2])
def test_each_tasks_entropy_is_a_metric_without_a_target_too(minibatches):
    """Of the last step; the learning rate is nearly nothing, so that it is the first policy's in each part of the batch."""
    config = toy_config(learner__surrogate="clipped", learner__minibatches=minibatches, learner__actor__learning_rate=1e-12)
    (rollout,) = collect(config)
    learner = Learner(config, make_suite(config.suite.name))
    with torch.no_grad():
        bias = learner.policy.actor.head.output_bias
        bias.copy_(torch.arange(3.0)[:, None] * torch.arange(bias.shape[1]))
    batch = learner.make_batch(rollout)
    with torch.no_grad():
        exact = torch.distributions.Categorical(logits=learner.policy.act(batch.observations).parameters[:-1]).entropy()
    result = learner.update(rollout, 0.0)
    assert result.entropies.costs is None
    for task, mean in enumerate(result.entropies.means):
        own = exact[:, batch.observations.task_ids == task]
        assert mean == pytest.approx(float(own.mean()), abs=1e-5 if minibatches == 1 else 0.05)
    assert np.diff(result.entropies.means).max() < -0.02  # the tasks differ by more than their halves do
    metrics = update_metrics(("a", "b", "c"), result)
    assert metrics["tasks/b/entropy"] == pytest.approx(result.entropies.means[1])
    assert "tasks/b/entropy_cost" not in metrics


def test_a_constant_weight_is_the_usual_bonus():
    """With a rate of nearly nothing the weights stay at `entropy_cost`, and so does what is learned."""
    usual, other = (
        Learner(config, make_suite(config.suite.name))
        for config in (toy_config(), toy_config(learner__entropy_target=0.5, learner__entropy_target_rate=1e-30))
    )
    for rollout in collect(toy_config(), 3):
        usual.update(rollout, 0.0)
        other.update(rollout, 0.0)
    for name, array in usual.policy_weights().items():
        np.testing.assert_allclose(other.policy_weights()[name], array, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_resumed_learner_goes_on_exactly(minibatches):
    config = toy_config(
        learner__entropy_target=0.5,
        learner__entropy_target_rate=0.1,
        learner__surrogate="clipped",
        learner__epochs=2,
        learner__minibatches=minibatches,
    )
    suite, rollouts = make_suite(config.suite.name), collect(config, 3)
    first, second = Learner(config, suite), Learner(config, suite)
    first.update(rollouts[0], 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for rollout in rollouts[1:]:
        first.update(rollout, 0.0)
        second.update(rollout, 0.0)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())
    assert (first._entropy_costs.costs != config.learner.entropy_cost).all()


@pytest.mark.parametrize("from_before", [False, True])
def test_weights_follow_their_tasks(tmp_path: Path, from_before: bool) -> None:
    """Also of a checkpoint from before there was a target, whose tasks begin with the experiment's weight."""
    target = {"learner.entropy_target": 0.5, "learner.entropy_target_rate": 0.1}
    config = override(toy_config("toy/corridor,constant", total_frames=600), {} if from_before else target)
    directory, old = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(old, directory, Silent()) == 0
    for suite, places in (("toy/cue,constant,corridor", [None, 1, 0]), ("toy/corridor,constant", [0, 1])):
        other = override(config, target | {"suite.name": suite})
        new = build_trainer(other)
        changes = suite != config.suite.name
        assert resume(new, RunDirectory(directory.path, other), Silent(), allow_task_change=changes)
        start = config.learner.entropy_cost
        before = [start] * 2 if from_before else old.learner._entropy_costs.costs.tolist()
        expected = [start if place is None else before[place] for place in places]
        assert new.learner._entropy_costs.costs.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"learner.entropy_cost": 0.0}, "set it above 0"), ({"learner.entropy_decay": True}, "set learner.entropy_decay to false")],
)
def test_what_does_not_go_together_is_a_sentence(changes, said):
    with pytest.raises(ConfigError, match=said):
        override(toy_config(), {"learner.entropy_target": 0.5} | changes)
