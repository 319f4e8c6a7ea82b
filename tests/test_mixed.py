"""Families side by side: every part does what it does alone, and one policy serves all kinds of observations and actions."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from foreign import FORBIDDING
from helpers import toy_config
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import SuiteError, make_suite, make_vector
from envs.mixed import EitherSpace
from mtrl.cli.dispatch import main
from mtrl.learning.learner import Learner
from mtrl.models.distributions import make_distribution
from mtrl.models.policy import build_policy
from mtrl.rollouts.collector import build_collector

MIXED = "minigrid/mt3+metaworld/reach,drawer-close"


@pytest.mark.parametrize("backend", ["envpool", "gymnasium"])
def test_each_part_does_what_it_does_alone(backend):
    """Same seeds, same actions: the arrays of its own kind are its own, and the other kind's are zeros."""
    counts, steps, rng = [2, 1, 1, 2, 1], 40, np.random.default_rng(0)
    suite = make_suite(MIXED)
    alone = [make_vector(part, own, backend=backend, seed=5) for part, own in zip(suite.parts, (counts[:3], counts[3:]), strict=True)]
    both = make_vector(suite, counts, backend=backend, seed=5)
    assert suite.names == ("LavaGapS7", "RedBlueDoors-6x6", "MemoryS11", "reach", "drawer-close")
    grid, arm = (tasks.reset() for tasks in alone)
    obs = both.reset()
    for _ in range(steps):
        np.testing.assert_array_equal(obs["kind"], [0, 0, 0, 0, 1, 1, 1])
        np.testing.assert_array_equal(obs["0.image"][:4], grid["image"])
        np.testing.assert_array_equal(obs["1.vector"][4:], arm["vector"])
        assert not obs["0.image"][4:].any()
        assert not obs["1.vector"][:4].any()
        moves, pushes = rng.integers(7, size=4), rng.uniform(-2, 2, (3, 4)).astype(np.float32)
        vectors = np.concatenate([suite.action_space.join(0, moves), suite.action_space.join(1, pushes)])
        step, first, second = both.step(vectors), alone[0].step(moves), alone[1].step(pushes)
        for name in ("rewards", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(step, name), np.concatenate([getattr(first, name), getattr(second, name)]))
        assert [e._replace(task_id=0, slot=0) for e in step.episodes] == [
            e._replace(task_id=0, slot=0) for e in first.episodes + second.episodes
        ]
        obs, grid, arm = step.obs, first.obs, second.obs
    for tasks in (both, *alone):
        tasks.close()


def test_random_actions_are_of_the_tasks_own_kind_and_allowed():
    suite = make_suite(f"gym/{FORBIDDING[0]},{FORBIDDING[3]},Pendulum-v1")
    tasks = make_vector(suite, 9, seed=0)
    obs, space = tasks.reset(), suite.action_space
    for _ in range(30):  # the environments fail when what is forbidden is done
        actions = suite.random_actions(tasks.task_ids, obs)
        assert actions[:, 0].tolist() == [suite.action_kinds[task] for task in tasks.task_ids]
        assert all(space.contains(action) for action in actions)
        obs = tasks.step(actions).obs
    tasks.close()


def test_allocation_moves_slots_between_families():
    suite = make_suite(MIXED)
    tasks = make_vector(suite, [1, 1, 1, 1, 1], seed=0)
    tasks.reset()
    tasks.set_allocation([0, 0, 0, 3, 2])
    assert (tasks.observe()["kind"] == 1).all()
    tasks.step(np.stack([suite.action_space.sample() for _ in range(5)]))
    tasks.set_allocation([5, 0, 0, 0, 0])
    step = tasks.step(suite.action_space.join(0, np.full(5, 2)))
    assert step.obs["0.image"].any()
    assert (step.obs["kind"] == 0).all()
    tasks.close()


def test_scores_are_each_parts_own():
    suite = make_suite(MIXED)
    assert float(suite.score(0, 0.9633, 1.0)) == pytest.approx(1.0)  # by return
    assert float(suite.score(0, 0.9633 / 2, 1.0)) == pytest.approx(0.5)
    assert float(suite.score(3, 4000.0, 0.0)) == 0.0  # by success
    assert float(suite.score(3, 10.0, 1.0)) == 1.0


def test_faults_name_the_task_as_the_whole_suite_counts():
    suite = make_suite("toy/constant+chaos/toy/corridor?raise=1")
    tasks = make_vector(suite, [1, 1], seed=0)
    marker = np.full(1, -1, np.int64)
    tasks.watch(marker)
    with pytest.raises(RuntimeError):
        tasks.reset()
        for _ in range(50):
            tasks.step(np.zeros(2, np.int64))
    assert int(marker[0]) == 1  # that is where it stopped


def test_rules_that_differ_are_all_named():
    assert make_suite(MIXED).rules == {"reward_version": "v2"}
    assert make_suite("metaworld/reach?reward=v1+metaworld/push").rules == {"reward_version": "v1, v2"}


def test_names_that_clash_and_pluses_that_join_nothing():
    with pytest.raises(SuiteError, match="names a task twice"):
        make_suite("toy/constant+toy/constant")
    assert make_suite("context/cartpole=0.5,1+rollin").num_tasks == 2
    assert make_suite("context/cartpole=0.5,1+rollin+minigrid/DistShift1").num_tasks == 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_actions_survive_the_common_form(seed):
    space: EitherSpace = make_suite(MIXED).action_space
    space.seed(seed)
    vector = space.sample()
    assert space.contains(vector)
    kind = int(vector[0])
    np.testing.assert_array_equal(space.join(kind, space.split(kind, vector)), vector)
    assert not space.contains(vector + 0.5)


def test_the_distribution_is_each_kinds_own():
    space = make_suite(MIXED).action_space
    both, kinds = make_distribution(space), [make_distribution(kind) for kind in space.kinds]
    generator = torch.Generator().manual_seed(0)
    parameters = torch.randn(2, 6, both.num_parameters, generator=generator)
    parameters[..., 0] = torch.tensor([0, 1, 1, 0, 0, 1]).float()
    parameters.requires_grad_()
    actions = both.sample(parameters.flatten(0, 1), generator).detach().unflatten(0, (2, 6))
    assert all(space.contains(space.join(0, space.split(0, vector.numpy()))) for vector in actions[parameters[..., 0] == 0])
    log_probs, entropies, features = both.log_prob(parameters, actions), both.entropy(parameters), both.encode(actions)
    assert features.shape == (2, 6, 7 + 4)
    for number, kind in enumerate(kinds):
        rows = parameters[..., 0] == number
        own = parameters[rows][:, 1 : 1 + kind.num_parameters]
        values = actions[rows][:, 1].long() if number == 0 else actions[rows][:, 1:]
        torch.testing.assert_close(log_probs[rows], kind.log_prob(own, values))
        torch.testing.assert_close(entropies[rows], kind.entropy(own))
        torch.testing.assert_close(features[rows][:, 7 * number :][:, : kind.num_features], kind.encode(values))
        assert not features[rows][:, 7 * (1 - number) :][:, : 11 - kind.num_features].any()
    (gradient,) = torch.autograd.grad(log_probs.sum(), parameters)
    assert not gradient[..., 0].any()  # the kind is no choice
    assert gradient[..., 1:8].abs().sum(-1).gt(0).all()


def test_an_observation_is_read_by_its_own_kinds_encoder_alone():
    suite = make_suite(MIXED)
    config = toy_config(MIXED, model__experts=3)
    encoder = build_policy(config.model, suite, 0).actor.trunk.encoder
    obs = {name: torch.from_numpy(np.stack([suite.observation_space[name].sample()] * 2)) for name in suite.observation_space}
    obs["kind"] = torch.tensor([0, 1], dtype=torch.uint8)
    tasks = torch.tensor([0, 3])
    before = encoder(obs, tasks)
    assert before.shape == (2, 3, encoder.feature_size)
    changed = encoder(obs | {"0.image": obs["0.image"] + 1}, tasks)
    assert not torch.equal(changed[0], before[0])
    torch.testing.assert_close(changed[1], before[1])


@pytest.mark.parametrize("memory", [False, True])
def test_one_policy_learns_from_both(memory):
    config = toy_config(
        MIXED,
        env_runners__slots=10,
        env_runners__unroll_length=12,
        model__memory=memory,
        model__trunks="shared",
        model__normalize_observations=True,
        model__popart=True,
        learner__surrogate="clipped",
        learner__epochs=2,
        learner__minibatches=2,
        learner__minibatch_of="traces" if memory else "steps",
    )
    suite = make_suite(MIXED)
    collector, learner = build_collector(config, suite, 0), Learner(config, suite)
    before = {name: tensor.clone() for name, tensor in learner.policy.named_parameters()}
    for version in range(2):
        collector.set_weights(version, learner.actor_weights())
        rollout = collector.collect().rollout
        # Every task acts as its own kind: grids by moves, arms by forces of all sizes.
        assert (rollout.actions[..., 0] == np.array([0, 0, 0, 1, 1])[rollout.task_ids]).all()
        arms = rollout.actions[:, rollout.task_ids >= 3, 1:]
        assert (arms != np.rint(arms)).all()
        # Before the first step the policy is the one that acted.
        if version == 0:
            looked = learner.evaluate(learner.make_batch(rollout)).log_probs.detach().numpy()
            np.testing.assert_allclose(looked, rollout.behaviour_log_probs, atol=2e-3)
        assert all(np.isfinite(value) for value in learner.update(rollout, 0.0).means.values())
    collector.close()
    unmoved = [name for name, tensor in learner.policy.named_parameters() if torch.equal(tensor, before[name])]
    assert unmoved == []


def test_a_run_is_trained_filmed_and_evaluated(tmp_path):
    directory = tmp_path / "run"
    options = ["--env-runners.num-env-runners", "0", "--env-runners.slots", "6", "--env-runners.unroll-length", "20"]
    arguments = ["train", "mixed_minigrid_metaworld", "--run-dir", str(directory), "--total-frames", "300", "--suite.name", MIXED, *options]
    assert main(arguments) == 0
    assert main(["evaluate", str(directory), "--episodes", "1", "--backend", "gymnasium"]) == 0
    (results,) = directory.glob("evaluation/*/results.json")
    assert set(json.loads(results.read_text())["tasks"]) == set(make_suite(MIXED).names)
