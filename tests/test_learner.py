"""The learner on rollouts whose right answer is known."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import collect, fingerprint, toy_config

from envs import make_suite
from mtrl.config import LearnerConfig, OptimizerConfig, override
from mtrl.learning.batch import Batch
from mtrl.learning.interface import NonFiniteError
from mtrl.learning.learner import MAX_SKIPPED, Learner
from mtrl.learning.losses import normalize_per_task, step_weights, task_moments
from mtrl.learning.optimizers import RMSProp, learning_rate_at
from mtrl.learning.surrogates import make_surrogate
from mtrl.learning.targets import TargetSettings, compute_targets
from mtrl.models.heads import MultiHead
from mtrl.models.rows import IndexedObservations, Rows, make_rows, single_steps
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import Rollout, concatenate
from mtrl.storage.checkpoint import load_checkpoint, save_checkpoint

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("unroll_length", "truncated"),
    [(4, True), pytest.param(10, True, marks=pytest.mark.slow), (11, True), (4, False), pytest.param(11, False, marks=pytest.mark.slow)],
)
def test_constant_reward_converges_to_its_discounted_sum(unroll_length, truncated):
    """Reward 1 for ever and γ = 0.9: every value is 10, wherever rollouts end or a time limit cuts. RLlib 2.60 arrives at 5.43."""
    config = toy_config(
        "toy/constant", learner__discount=0.9, env_runners__unroll_length=unroll_length, learner__critic={"learning_rate": 0.01}
    )
    suite = make_suite(config.suite.name)
    learner = Learner(config, suite)
    collector = build_collector(config, suite, runner=0)
    for _ in range(200):
        collector.set_weights(learner.version, learner.actor_weights())
        rollout = collector.collect().rollout
        if not truncated:
            # The same stream without a limit: nothing ends, and the reset steps pay like all others.
            everywhere = np.ones_like(rollout.valid)
            rollout = rollout._replace(truncated=~everywhere, valid=everywhere, rewards=np.ones_like(rollout.rewards))
        learner.update(rollout, 0.0)
    obs = {"vector": rollout.obs["vector"][0]}
    values = learner.policy(single_steps(make_rows(obs, rollout.task_ids, 1, CPU)))[1].values
    assert values.detach().numpy() == pytest.approx(10.0, abs=0.15)


def test_learns_the_toy_tasks():
    config = toy_config(
        env_runners__slots=24, env_runners__unroll_length=16, learner__entropy_cost=0.003, learner__actor={"learning_rate": 3e-3}
    )
    suite = make_suite(config.suite.name)
    learner = Learner(config, suite)
    collector = build_collector(config, suite, runner=0)
    episodes = []
    for _ in range(150):
        collector.set_weights(learner.version, learner.actor_weights())
        collected = collector.collect()
        episodes = (episodes + collected.episodes)[-200:]
        learner.update(collected.rollout, 0.0)
    for task in range(suite.num_tasks):
        returns = [e.episode_return for e in episodes if e.task_id == task]
        assert suite.score(task, np.mean(returns)) > 0.85, suite.names[task]


@pytest.mark.parametrize("suite", ["minigrid/mt3", "minigrid/mt7"])
@pytest.mark.parametrize("trunks", ["separate", "shared"])
@pytest.mark.parametrize("heads", ["multi", "single"])
def test_sharing_repeats_changes_no_number(suite, trunks, heads):
    """Same outputs and, after one update, the same weights as when every observation is evaluated."""
    weights = []
    for share in (True, False):
        config = toy_config(
            suite,
            model__share_repeats=share,
            model__trunks=trunks,
            model__heads=heads,
            env_runners__slots=14,
            learner__actor={"name": "rmsprop", "epsilon": 1.0},
            learner__critic={"name": "rmsprop", "epsilon": 1.0},
        )
        learner = Learner(config, make_suite(suite))
        statistics = learner.update(collect(toy_config(suite, env_runners__slots=14, model__trunks=trunks, model__heads=heads))[0], 0.0)
        assert (statistics.distinct_rows < 0.9 * 9 * 14) == share
        weights.append(learner.policy_weights())
    start = Learner(config, make_suite(suite)).policy_weights()
    moved = max(np.abs(weights[0][name] - start[name]).max() for name in start)
    apart = max(np.abs(weights[0][name] - weights[1][name]).max() for name in start)
    assert moved > 100 * apart


def test_behaviour_log_probs_are_those_of_the_weights_that_acted():
    for suite in ("toy/three", "minigrid/mt3"):
        config = toy_config(suite)
        rollout = collect(config)[0]
        learner = Learner(config, make_suite(suite))
        statistics = learner.update(rollout, 0.0)
        assert statistics.means["rho_mean"] == pytest.approx(1.0, abs=1e-5)


def test_weights_count_tasks_or_frames():
    valid = torch.tensor([[True, True, True], [True, False, True]])
    task_ids = torch.tensor([0, 0, 2])
    tasks = step_weights(valid, task_ids, 3, share_power=0.0)
    assert torch.allclose(tasks, torch.tensor([[1 / 6, 1 / 6, 1 / 4], [1 / 6, 0, 1 / 4]]))
    frames = step_weights(valid, task_ids, 3, share_power=1.0)
    assert torch.allclose(frames, valid / 5)
    # Three frames of five and two of five: between both, in the proportion of the roots.
    between = step_weights(valid, task_ids, 3, share_power=0.5)
    assert float(between[:, 2].sum() / between[:, :2].sum()) == pytest.approx((2 / 3) ** 0.5) and float(between.sum()) == pytest.approx(1)


def test_advantages_are_normalized_within_each_task():
    advantages = torch.tensor([[1.0, 100.0, 300.0], [3.0, 500.0, 7.0]])
    valid = torch.tensor([[True, True, True], [True, False, True]])
    task_ids = torch.tensor([0, 1, 1])
    result = normalize_per_task(advantages, task_ids, task_moments(advantages, valid.float(), task_ids, 2))
    own = torch.tensor([100.0, 300.0, 7.0])
    assert torch.allclose(result[:, 0], torch.tensor([-1.0, 1.0]), atol=1e-5)
    assert torch.allclose(torch.stack([result[0, 1], result[0, 2], result[1, 2]]), (own - own.mean()) / own.std(correction=0), atol=1e-4)


@pytest.mark.parametrize("surrogate", ["vtrace", "clipped"])
def test_lag_does_not_turn_the_gradient(surrogate):
    """A bandit with rewards 1 and 0.9 whose better action the behaviour policy took in 8 of 10 steps: its logit rises.

    The policy is at (½, ½), so that the importance weights are 0.625 and 2.5, the second clipped at 1. Normalising the weighted advantages
    takes off a constant that is no baseline and pushes the better action down.
    """
    behaviour, rewards = torch.tensor([0.8, 0.2]), torch.tensor([1.0, 0.9])
    actions = torch.tensor([[0] * 8 + [1] * 2])
    logits = torch.zeros(2, requires_grad=True)
    zeros = torch.zeros(1, 10)
    batch = Batch(
        observations=IndexedObservations(
            Rows({}, torch.zeros(10, dtype=torch.int64), (10,)), actions, torch.zeros(10, dtype=torch.int64), None
        ),
        actions=actions,
        behaviour_log_probs=behaviour.log()[actions],
        proximal_log_probs=torch.full((1, 10), 0.5).log(),
        rewards=rewards[actions],
        discounts=zeros,
        continues=zeros,
        valid=torch.ones(1, 10, dtype=torch.bool),
        weights=torch.full((1, 10), 0.1),
    )
    objective = make_surrogate(LearnerConfig(surrogate=surrogate))
    log_probs = logits.log_softmax(0)[actions]
    settings = TargetSettings(1.0, 1.0, 1.0, objective, normalize_advantages=True, advantage_floor=0.0)
    targets = compute_targets(batch, log_probs.detach(), torch.zeros(2, 10), settings, None, num_tasks=1)
    objective.loss(log_probs, batch, targets.weighted_advantages(batch.observations.task_ids)).backward()
    assert -logits.grad[0] > 0.1
    # The mean over steps of ρ A is 0: what is taken off is the mean under the weights.
    assert float(targets.weighted_advantages(batch.observations.task_ids).mean()) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("popart", [False, True])
def test_advantages_that_are_the_critics_errors_alone_stay_small(popart):
    """A task that pays nothing has advantages of next to nothing. Below its floor they stay small; above it their deviation becomes 1."""
    config = toy_config("toy/corridor,constant", learner__advantage_floor=0.05, model__popart=popart)
    learner = Learner(config, make_suite(config.suite.name))
    with torch.no_grad():
        learner.policy.critic.head.output_weight.mul_(0.01)  # it knows nearly that nothing is paid
    rollout = collect(config)[0]
    constant = rollout.task_ids == 1
    paid = constant & (np.arange(len(rollout.rewards)) % 2 == 1)[:, None]
    rollout = rollout._replace(rewards=np.where(paid, rollout.rewards, np.float32(0)))
    batch = learner.make_batch(rollout)
    targets = learner.compute_targets(batch, learner.evaluate(batch))
    scale = learner.policy.critic.popart.scale.numpy() if popart else np.ones(2)
    advantages = targets.advantages.numpy() * scale[rollout.task_ids]
    deviations = [advantages[rollout.valid & (rollout.task_ids == task)].std() for task in (0, 1)]
    assert deviations[0] < 0.01 and deviations[1] > 0.1
    assert (targets.moments.deviation.numpy() * scale).tolist() == pytest.approx([0.05, deviations[1]], rel=1e-4)
    normal = targets.weighted_advantages(batch.observations.task_ids).numpy()
    assert normal[rollout.valid & (rollout.task_ids == 0)].std() < 0.2


def test_rmsprop_is_impalas():
    """TensorFlow's: ε inside the root and second moments that begin at 1. With ε = 0.1 and gradients of 0.02 the first step is 0.019 η."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = RMSProp([{"params": [parameter]}], learning_rate=1.0, epsilon=0.1)
    square, expected = 1.0, 0.0
    for step in range(500):
        parameter.grad = torch.full((1,), 0.02)
        optimizer.step()
        square = 0.99 * square + 0.01 * 0.02**2
        expected -= 0.02 / (square + 0.1) ** 0.5
        if step == 0:
            assert float(parameter) == pytest.approx(-0.0192, abs=2e-4)
    assert float(parameter) == pytest.approx(expected, rel=1e-4)
    assert 0.02 / (square + 0.1) ** 0.5 == pytest.approx(0.061, abs=2e-3)


@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_a_resumed_run_follows_its_new_settings(name):
    """PyTorch's optimisers take their former options back with their state."""
    options = {"name": name, "epsilon": 1e-8}
    old = toy_config(model__memory=True, learner__actor=options, learner__critic=options, learner__balancing="uncertainty")
    new = override(
        old,
        {
            "learner.actor.epsilon": 1e-5,
            "learner.actor.learning_rate": 7e-4,
            "learner.memory_learning_rate_factor": 0.1,
            "learner.balancing": "gradnorm",
        },
    )
    suite = make_suite(old.suite.name)
    before, after, fresh = Learner(old, suite), Learner(new, suite), Learner(new, suite)
    before.update(collect(old)[0], 0.0)
    after.load_state_dict(before.state_dict())
    for (_, ours), (_, theirs) in zip(after.optimizers.named(), fresh.optimizers.named(), strict=True):
        strip = [[{key: value for key, value in group.items() if key != "params"} for group in of.param_groups] for of in (ours, theirs)]
        assert strip[0] == strip[1]
        assert ours.state  # the moments were taken
    after.update(collect(new)[0], 0.1)


def test_an_update_that_is_interrupted_ends_after_a_minibatch():
    """One of twelve and more here; on Meta-World's MT10 the others would take 14 seconds more."""
    config = toy_config(learner__epochs=4, learner__minibatches=3, learner__surrogate="clipped")
    learner = Learner(config, make_suite(config.suite.name))
    (rollout,) = collect(config)
    made, step = [], learner._step
    learner._step = lambda *arguments: (made.append(1), step(*arguments))[1]  # type: ignore[method-assign]
    learner.update(rollout, 0.0)
    assert len(made) >= 12
    made.clear()
    before = learner.policy_weights()
    learner.interrupted = lambda: len(made) >= 2
    result = learner.update(rollout, 0.0)
    assert len(made) == 2 and learner.version == 2 and all(np.isfinite(value) for value in result.means.values())
    assert any(not np.array_equal(before[name], after) for name, after in learner.policy_weights().items())
    made.clear()
    learner.interrupted = lambda: True
    learner.update(rollout, 0.0)
    assert len(made) == 1  # an update has figures to report


def test_a_batch_that_is_not_finite_is_never_applied_and_its_task_is_named():
    config = toy_config()
    learner = Learner(config, make_suite(config.suite.name))
    good = collect(config)[0]
    rewards = good.rewards.copy()
    rewards[2, good.task_ids == 1] = np.nan
    bad = good._replace(rewards=rewards)
    before = learner.policy_weights()
    for skipped in range(1, MAX_SKIPPED):
        learner.update(bad, 0.0)
        assert learner.skipped_steps == skipped
    assert all(np.array_equal(before[name], after) for name, after in learner.policy_weights().items())
    learner.update(good, 0.0)  # a good one begins the count anew
    for _ in range(MAX_SKIPPED - 1):
        learner.update(bad, 0.0)
    with pytest.raises(NonFiniteError, match="constant"):
        learner.update(bad, 0.0)


def test_the_critic_keeps_its_own_pace():
    config = toy_config(learner__actor_updates=3, learner__critic_updates=1)
    learner = Learner(config, make_suite(config.suite.name))
    learner.update(collect(config)[0], 0.0)
    steps = {name: {int(s["step"]) for s in o.state.values()} for name, o in learner.optimizers.named()}
    assert steps == {"actor": {3}, "critic": {1}}


def test_the_learning_rate_falls_to_zero():
    config = toy_config(learner__actor={"decay": True}, learner__critic={"decay": True})
    learner = Learner(config, make_suite(config.suite.name))
    before = learner.policy_weights()
    learner.update(collect(config)[0], 1.0)
    assert all(np.array_equal(before[name], after) for name, after in learner.policy_weights().items())


@pytest.mark.parametrize(
    ("decay", "progress", "cost"), [(True, 0.0, 0.5), (True, 0.25, 0.375), (True, 1.0, 0.0), (False, 0.25, 0.5), (False, 1.0, 0.5)]
)
def test_the_entropy_bonus_falls_to_zero_where_it_is_to(decay, progress, cost):
    """An update is the one that the cost of the moment would make if it stayed as it is."""
    falling = toy_config(learner__entropy_cost=0.5, learner__entropy_decay=decay)
    constant = toy_config(learner__entropy_cost=cost)
    (rollout,) = collect(falling)
    weights = []
    for config, at in ((falling, progress), (constant, 0.0)):
        learner = Learner(config, make_suite(config.suite.name))
        learner.update(rollout, at)
        weights.append(fingerprint(learner.policy_weights()))
    assert weights[0] == weights[1]


@pytest.mark.parametrize(("progress", "share"), [(0.0, 1.0), (0.5, 1.0), (0.75, 0.5), (1.0, 0.0), (1.1, 0.0)])
def test_a_learning_rate_can_stay_for_a_while_before_it_falls(progress, share):
    settings = OptimizerConfig(learning_rate=1e-3, decay=True, decay_from=0.5)
    assert learning_rate_at(settings, progress) == pytest.approx(share * 1e-3)
    assert learning_rate_at(OptimizerConfig(learning_rate=1e-3), progress) == 1e-3


def test_a_restored_learner_goes_on_to_the_same_weights():
    config = toy_config()
    suite = make_suite(config.suite.name)
    rollouts = collect(config, 4)
    first, second = Learner(config, suite), Learner(config, suite)
    for rollout in rollouts[:2]:
        first.update(rollout, 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch's optimisers keep the tensors they are given
    for rollout in rollouts[2:]:
        first.update(rollout, 0.0)
        second.update(rollout, 0.0)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())


@pytest.mark.parametrize(("suite", "memory"), [("toy/three", False), ("minigrid/mt3", False), ("toy/three", True)])
def test_a_learner_goes_on_from_a_file_to_the_same_weights(suite, memory, tmp_path):
    """Files hold tensors in the order of their axes; in memory a convolution's weights and their moments have another order."""
    config = toy_config(suite, model__memory=memory, learner__memory_learning_rate_factor=0.5)
    tasks = make_suite(suite)
    rollouts = collect(config, 4)
    first, second = Learner(config, tasks), Learner(config, tasks)
    for rollout in rollouts[:2]:
        first.update(rollout, 0.0)
    path = save_checkpoint(tmp_path, 1, {"learner": first.state_dict()}, tasks=tasks.names, keep=1)
    second.load_state_dict(load_checkpoint(path).components["learner"])
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())
    for rollout in rollouts[2:]:
        first.update(rollout, 0.0)
        second.update(rollout, 0.0)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())


def test_concatenated_rollouts_are_sorted_by_task_and_keep_every_step():
    rollouts = collect(toy_config(), 3)
    whole = concatenate(rollouts)
    assert (np.diff(whole.task_ids) >= 0).all()
    assert whole.num_frames == sum(rollout.num_frames for rollout in rollouts)
    for task in range(3):
        apart = np.sort(np.concatenate([r.rewards[:, r.task_ids == task].ravel() for r in rollouts]))
        np.testing.assert_array_equal(np.sort(whole.rewards[:, whole.task_ids == task].ravel()), apart)
    assert isinstance(whole, Rollout)


def test_heads_gradients_are_not_as_large_as_all_heads_for_each_task():
    """As an indexed weight's is (a node `SelectBackward`); the outputs and gradients are those of indexed weights."""
    head, counts = MultiHead(4, 6, 5, 3, output_gain=1.0), [2, 0, 3, 1]
    features = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    outputs = head(features, counts)
    waiting, nodes = [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in nodes:
            nodes.add(node)
            waiting += [following for following, _ in node.next_functions]
    assert not any("Select" in node.name() for node in nodes)
    parameters = list(head.parameters())
    found = torch.autograd.grad(outputs.square().sum(), parameters)
    own = torch.tensor([0, 0, 2, 2, 2, 3])
    hidden = torch.tanh(torch.einsum("nwd,nd->nw", head.hidden_weight[own], features) + head.hidden_bias[own])
    expected = torch.einsum("now,nw->no", head.output_weight[own], hidden) + head.output_bias[own]
    torch.testing.assert_close(outputs, expected)
    for ours, theirs in zip(found, torch.autograd.grad(expected.square().sum(), parameters), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("value", [37.7, 1000.1, 33_000.0, -4e4])
def test_equal_advantages_push_nothing(value):
    """The rounding of their mean must not be blown up to deviation 1."""
    advantages, tasks = torch.full((37, 3), value), torch.zeros(3, dtype=torch.int64)
    moments = task_moments(advantages, torch.ones(37, 3), tasks, 1)
    assert normalize_per_task(advantages, tasks, moments).abs().max() < 0.5


def test_a_task_without_a_step_has_no_value_error():
    """Its slots rest, since its environments fail: that says nothing of the critic."""
    config = toy_config()
    suite, collector = make_suite(config.suite.name), build_collector(config, make_suite(config.suite.name), runner=0)
    learner = Learner(config, suite)
    collector.set_weights(0, learner.actor_weights())
    rollout = collector.collect().rollout
    valid = rollout.valid & (rollout.task_ids != 1)
    errors = learner.update(rollout._replace(valid=valid), 0.0).task_values.errors
    assert np.isnan(errors[1]) and not np.isnan(errors[[0, 2]]).any()
