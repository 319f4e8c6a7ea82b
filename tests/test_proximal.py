"""The proximal policy as an average of weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import collect, toy_config

from envs import make_suite
from mtrl.config import ExperimentConfig, override
from mtrl.learning.learner import Learner
from mtrl.learning.proximal import AverageActor
from mtrl.models.policy import build_policy

SUITE = make_suite("toy/three")
CONFIG = override(
    toy_config(env_runners__slots=12, env_runners__unroll_length=20),
    {"learner.surrogate": "clipped", "learner.epochs": 3, "learner.minibatches": 2, "learner.actor.learning_rate": 0.02},
)
AVERAGE = {"learner.proximal": "average", "learner.proximal_decay": 0.6}


def trained(config: ExperimentConfig, updates: int) -> Learner:
    learner = Learner(config, SUITE)
    for rollout in collect(CONFIG)[:1] * updates:
        learner.update(rollout, 0.0)
    return learner


def weights_of(learner: Learner) -> np.ndarray:
    return np.concatenate([array.ravel() for array in learner.policy_weights().values()])


def test_the_average_is_the_weighted_mean_of_all_weights():
    """Against a sum of powers of the decay."""
    actor, decay = build_policy(CONFIG.model, SUITE, 0).actor, 0.6
    average, seen = AverageActor(actor, decay), []
    for step in range(5):
        with torch.no_grad():
            for parameter in actor.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(step))
        seen.append([parameter.detach().numpy().astype(float).copy() for parameter in actor.parameters()])
        average.add(actor)
    powers = decay ** np.arange(5)[::-1]
    expected = [sum(p * array for p, array in zip(powers, arrays, strict=True)) / powers.sum() for arrays in zip(*seen, strict=True)]
    for parameter, array in zip(average._average.parameters(), expected, strict=True):
        np.testing.assert_allclose(parameter.numpy(), array, atol=1e-5)


def test_without_decay_it_is_the_weights_at_the_start():
    start = weights_of(trained(CONFIG, 3))
    np.testing.assert_array_equal(weights_of(trained(override(CONFIG, AVERAGE | {"learner.proximal_decay": 0.0}), 3)), start)
    np.testing.assert_array_equal(weights_of(trained(override(CONFIG, AVERAGE), 1)), weights_of(trained(CONFIG, 1)))
    assert not np.array_equal(weights_of(trained(override(CONFIG, AVERAGE), 3)), start)


@pytest.mark.parametrize("memory", [False, True])
def test_it_goes_on_exactly(memory):
    changes = {"model.memory": memory, "learner.minibatch_of": "traces"} if memory else {}
    config = override(CONFIG, AVERAGE | changes)
    rollouts = collect(config)[:1] * 4
    whole, first, second = Learner(config, SUITE), Learner(config, SUITE), Learner(config, SUITE)
    for number, rollout in enumerate(rollouts):
        whole.update(rollout, 0.0)
        if number == 2:
            second.load_state_dict(copy.deepcopy(first.state_dict()))
        (first if number < 2 else second).update(rollout, 0.0)
    np.testing.assert_array_equal(weights_of(second), weights_of(whole))


def test_it_holds_the_policy_back():
    """The same batch again and again: the ratio to the average leaves the clip, where the ratio to the start does not."""
    distances = []
    for changes in ({}, AVERAGE | {"learner.proximal_decay": 0.9}):
        learner = Learner(override(CONFIG, changes), SUITE)
        (rollout, *_) = collect(CONFIG)
        batch = learner.make_batch(rollout)
        before = learner.evaluate(batch).log_probs
        for _ in range(8):
            learner.update(rollout, 0.0)
        distances.append(float((learner.evaluate(batch).log_probs - before).abs().mean()))
    assert distances[1] < 0.8 * distances[0], distances


def test_steps_end_where_the_policy_has_moved_far():
    """The divergence before each step that is made stays within the limit, and a limit that is never reached changes nothing."""
    (rollout,) = collect(CONFIG)
    results = {}
    for limit in (None, 1e9, 1e-3, 1e-9):
        learner = Learner(override(CONFIG, {"learner.target_kl": limit}), SUITE)
        results[limit] = [learner.update(rollout, 0.0).means["actor_steps"] for _ in range(2)], weights_of(learner)
    assert results[None][0] == results[1e9][0] == [6.0, 6.0]
    np.testing.assert_array_equal(results[None][1], results[1e9][1])
    assert results[1e-9][0] == [1.0, 1.0], "the first step is at the proximal policy itself"
    assert 1 <= results[1e-3][0][1] < 6


def test_a_critic_of_its_own_is_trained_on():
    """Ending the actor's steps does not end those of a separate critic, whose steps come first or beside the actor's."""
    for changes in ({"learner.critic_updates": 3}, {"learner.critic_updates": 3, "learner.minibatches": 1}):
        config = override(CONFIG, changes | {"learner.target_kl": 1e-9})
        (rollout,), learner = collect(config), Learner(config, SUITE)
        before = learner.policy.critic.head.output_bias.detach().clone()
        result = learner.update(rollout, 0.0)
        assert result.means["actor_steps"] == 1.0
        steps = {int(state["step"]) for state in learner.optimizers.critic.state_dict()["state"].values()}
        assert steps == {3} and not torch.equal(before, learner.policy.critic.head.output_bias)
