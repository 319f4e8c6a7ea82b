"""Several passes over a batch: how it is cut up, and what each part is told."""

from __future__ import annotations

import copy
from typing import NamedTuple, get_type_hints

import numpy as np
import pytest
import torch
from beartype.door import is_bearable
from helpers import collect, toy_config
from jaxtyping import jaxtyped

from envs import make_suite
from mtrl.config import ConfigError, override
from mtrl.learning import targets
from mtrl.learning.batch import make_batch
from mtrl.learning.learner import Learner
from mtrl.learning.losses import clipped_surrogate_loss
from mtrl.learning.minibatches import select_slots, select_steps, split_observations, split_slots, split_steps
from mtrl.rollouts.collector import build_collector

CPU = torch.device("cpu")


def batch_of(config):
    rollout = collect(config)[0]
    return make_batch(
        rollout, int(rollout.task_ids.max()) + 1, discount=0.99, share_power=0.0, share_repeats=config.model.share_repeats, device=CPU
    )


def assert_as_annotated(value: NamedTuple) -> None:
    """Each field has the annotated shape and type; one letter is one size, in nested tuples as well. To be called within `jaxtyped`."""
    for name, hint in get_type_hints(type(value)).items():
        field = getattr(value, name)
        assert is_bearable(field, hint), f"{name} is {field}, not {hint}"
        if hasattr(field, "_fields"):
            assert_as_annotated(field)


CONFIG = toy_config("minigrid/mt3", env_runners__slots=12, env_runners__unroll_length=20)


@pytest.mark.parametrize("memory", [False, True])
def test_batches_and_their_parts_have_the_annotated_shapes(memory):
    batch = batch_of(override(CONFIG, {"model.memory": memory}))
    parts = [batch, select_slots(batch, torch.tensor([0, 3, 8]))]
    if not memory:
        parts.append(select_steps(batch, torch.tensor([5, 17, 100, 239])))
    for part in parts:
        with jaxtyped("context"):
            assert_as_annotated(part)


@pytest.mark.parametrize("split", [split_steps, split_observations])
@pytest.mark.parametrize("parts", [1, 3, 7])
def test_minibatches_of_steps_hold_every_valid_step_once(split, parts):
    batch = batch_of(toy_config(env_runners__unroll_length=30))
    drawn = torch.cat(split(batch, parts, torch.Generator().manual_seed(0)))
    assert sorted(drawn.tolist()) == batch.valid.flatten().nonzero().squeeze(-1).tolist()
    assert not batch.valid.all()


def test_minibatches_of_observations_evaluate_each_observation_once():
    batch = batch_of(CONFIG)
    generator = torch.Generator().manual_seed(0)
    rows = [len(select_steps(batch, part).observations.inverse.unique()) for part in split_observations(batch, 4, generator)]
    used = batch.observations.inverse[:-1][batch.valid].unique()
    assert sum(rows) == len(used)
    assert sum(len(select_steps(batch, part).observations.rows.task_ids) for part in split_steps(batch, 4, generator)) > len(used)


def test_traces_hold_every_slot_once_in_ascending_order():
    batch = batch_of(CONFIG)
    parts = split_slots(batch, 5, torch.Generator().manual_seed(0))
    assert sorted(torch.cat(parts).tolist()) == list(range(12))
    assert all((part.diff() > 0).all() for part in parts)


@pytest.mark.parametrize("share", [True, False])
def test_a_part_is_the_whole_seen_through_a_window(share):
    """Parameters, values and targets of the selected slots and steps are those of the whole batch."""
    config = toy_config("minigrid/mt3", env_runners__slots=12, env_runners__unroll_length=20, model__share_repeats=share)
    batch = batch_of(config)
    learner = Learner(config, make_suite("minigrid/mt3"))
    whole = learner.evaluate(batch)
    slots = torch.tensor([1, 4, 5, 10])
    cut = select_slots(batch, slots)
    part = learner.evaluate(cut)
    for name in ("log_probs", "values"):
        torch.testing.assert_close(getattr(part, name), getattr(whole, name)[:, slots], atol=1e-5, rtol=1e-4)
    vs = [learner.compute_targets(of, seen).vs for of, seen in ((cut, part), (batch, whole))]
    torch.testing.assert_close(vs[0], vs[1][:, slots], atol=1e-5, rtol=1e-4)
    steps = torch.tensor([200, 3, 77, 78, 150])
    acted = learner.policy.act(select_steps(batch, steps).observations)
    everything = learner.policy.act(batch.observations).parameters[:-1].flatten(0, 1)
    torch.testing.assert_close(acted.parameters[0], everything[steps], atol=1e-5, rtol=1e-4)


def test_the_loss_of_equal_parts_averages_to_the_whole_loss():
    batch = batch_of(toy_config("toy/constant", env_runners__slots=8, env_runners__unroll_length=8))
    numbers = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    whole = (batch.weights * numbers).sum()
    parts = [torch.arange(start, 64, 4) for start in range(4)]
    losses = [(select_steps(batch, part, 4).weights * numbers.flatten()[part]).sum() for part in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)


@pytest.mark.parametrize("unit", ["observations", "steps", "traces"])
def test_each_step_counts_the_same_however_large_its_minibatch_is(unit):
    """Minibatches of observations and of traces differ in their numbers of valid steps; a step's weight does not depend on that."""
    config = toy_config(
        "minigrid/mt3", env_runners__slots=13, env_runners__unroll_length=40, learner__minibatches=4, learner__minibatch_of=unit
    )
    batch = batch_of(config)
    learner = Learner(config, make_suite("minigrid/mt3"))
    targets = learner.compute_targets(batch, learner.evaluate(batch))
    of_pass = [part for part in learner.minibatches(batch, targets) if part.updates_actor]
    weights = torch.cat([part.batch.weights[part.batch.valid] for part in of_pass])
    assert unit == "steps" or len({int(part.batch.valid.sum()) for part in of_pass}) > 1
    torch.testing.assert_close(weights.sort().values, 4 * batch.weights[batch.valid].sort().values)


def test_the_dual_clip_by_hand():
    """With c = 3 and an advantage of -1 a ratio of 5 counts -3 and has no gradient; one of 2, and those of good actions, are as without."""
    log_ratios = torch.tensor([[5.0, 2.0, 5.0, 0.5]]).log().requires_grad_()
    advantages, weights = torch.tensor([[-1.0, -1.0, 1.0, -1.0]]), torch.full((1, 4), 0.25)
    loss = clipped_surrogate_loss(log_ratios, advantages, weights, 0.2, 3.0)
    assert float(loss.detach()) == pytest.approx((3.0 + 2.0 - 1.2 + 0.8) / 4)
    loss.backward()
    np.testing.assert_allclose(log_ratios.grad.numpy(), [[0.0, 2.0 / 4, 0.0, 0.0]], atol=1e-6)


def test_the_clipped_surrogate_by_hand():
    weights = torch.full((1, 4), 0.25)
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    ratios = torch.tensor([[1.5, 0.5, 0.5, 1.5]]).log().requires_grad_()
    loss = clipped_surrogate_loss(ratios, advantages, weights, 0.2)
    assert loss.item() == pytest.approx(-0.25 * (1.2 + 0.5 - 0.8 - 1.5))
    (gradient,) = torch.autograd.grad(loss, ratios)
    # What would go further in the wanted direction gets none; what has moved the wrong way is drawn back.
    np.testing.assert_allclose(gradient, [[0.0, -0.25 * 0.5, 0.0, 0.25 * 1.5]], atol=1e-6)


def test_both_surrogates_have_the_same_first_gradient():
    """At the anchor the ratio is 1 and its gradient that of the log-probability, however far behind the weights were that acted."""
    config = toy_config("minigrid/mt3", env_runners__slots=6, env_runners__unroll_length=16)
    rollout = collect(config)[0]
    shift = np.random.default_rng(0).normal(0, 0.5, rollout.behaviour_log_probs.shape).astype(np.float32)
    rollout = rollout._replace(behaviour_log_probs=rollout.behaviour_log_probs + shift)
    gradients = []
    for surrogate in ("vtrace", "clipped"):
        learner = Learner(toy_config("minigrid/mt3", learner__surrogate=surrogate), make_suite("minigrid/mt3"))
        learner.update(rollout, 0.0)
        gradients.append([parameter.grad for parameter in learner.policy.actor.parameters()])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("kind", ["observations", "steps", "traces"])
@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_each_optimiser_makes_its_number_of_steps(kind, trunks):
    config = toy_config(
        learner__surrogate="clipped",
        learner__epochs=3,
        learner__minibatches=2,
        learner__minibatch_of=kind,
        learner__critic_updates=2,
        model__trunks=trunks,
    )
    learner = Learner(config, make_suite(config.suite.name))
    statistics = learner.update(collect(config)[0], 0.0)
    steps = {name: {int(s["step"]) for s in o.state.values()} for name, o in learner.optimizers.named()}
    assert steps == ({"actor": {6}, "critic": {2}} if trunks == "separate" else {"actor": {6}})
    assert {"policy_loss", "value_loss"} <= set(statistics.means)


@pytest.mark.parametrize(
    ("surrogate", "asked", "recomputed"),
    [("clipped", None, False), ("clipped", True, True), ("vtrace", None, True), ("vtrace", False, False)],
)
def test_targets_of_traces_are_computed_once_or_for_each_minibatch(surrogate, asked, recomputed, monkeypatch):
    config = toy_config(
        learner__surrogate=surrogate, learner__epochs=3, learner__minibatches=2, learner__minibatch_of="traces",
        learner__recompute_targets=asked, learner__actor={"learning_rate": 0.01},
    )  # fmt: skip
    learner = Learner(config, make_suite(config.suite.name))
    correct, calls = targets.correct_off_policy, []
    monkeypatch.setattr(targets, "correct_off_policy", lambda *given: calls.append(correct(*given)) or calls[-1])
    learner.update(collect(config)[0], 0.0)
    assert len(calls) == (1 + 3 * 2 if recomputed else 1)
    if recomputed:  # the policy has moved since, so that weights are no longer 1
        assert not torch.allclose(calls[1].vs, calls[-2].vs)
    with pytest.raises(ConfigError, match="needs whole traces"):
        toy_config(learner__minibatches=2, learner__recompute_targets=True)


def test_targets_computed_once_are_those_of_the_minibatchs_own_traces():
    """Until the policy moves, a trace's targets are the same alone as among the others: they depend on no other slot."""
    config = toy_config(learner__surrogate="clipped", learner__minibatches=3, learner__minibatch_of="traces", model__trunks="shared")
    learner = Learner(config, make_suite(config.suite.name))
    batch = learner.make_batch(collect(config)[0])
    before = learner.evaluate(batch)
    batch = batch._replace(proximal_log_probs=before.log_probs)
    for part in learner.minibatches(batch, learner.compute_targets(batch, before)):
        alone = learner.compute_targets(part.batch, learner.evaluate(part.batch))
        assert torch.allclose(part.targets.vs, alone.vs, atol=1e-5) and torch.allclose(part.targets.advantages, alone.advantages, atol=1e-5)


def test_how_far_the_policy_moved_is_reported():
    def report(**changes):
        config = toy_config(learner__surrogate="clipped", **changes)
        learner = Learner(config, make_suite(config.suite.name))
        return learner.update(collect(config)[0], 0.0).means

    still, moved = report(), report(learner__epochs=4, learner__actor={"learning_rate": 0.01})
    assert still["kl"] == pytest.approx(0, abs=1e-6) and still["clip_fraction"] == 0  # what is reported is before the step
    assert moved["kl"] > 1e-3 and 0 < moved["clip_fraction"] < 1


def test_a_policy_that_has_moved_before_the_first_step_is_left_as_it_is():
    """The KL divergence to an average of earlier policies may exceed the target at once: then an update is no step at all."""
    config = toy_config(
        model__trunks="shared",
        learner__surrogate="clipped",
        learner__epochs=4,
        learner__proximal="average",
        learner__target_kl=1e-6,
        learner__actor={"learning_rate": 1e-2},
    )
    learner = Learner(config, make_suite(config.suite.name))
    for rollout in collect(config, 6):
        learner.update(rollout, 0.0)
    before = copy.deepcopy(learner.policy_weights())
    learner.update(rollout, 0.0)
    assert all(np.array_equal(array, learner.policy_weights()[name]) for name, array in before.items())


def test_fewer_actor_steps_than_a_pass_has():
    config = toy_config(learner__actor_updates=3, learner__minibatches=2)
    learner = Learner(config, make_suite(config.suite.name))
    learner.update(collect(config)[0], 0.0)
    assert {int(s["step"]) for s in learner.optimizers.actor.state.values()} == {3}


@pytest.mark.parametrize("kind", [pytest.param("observations", marks=pytest.mark.slow), "steps", "traces"])
def test_reuse_learns_more_from_the_same_frames(kind):
    def score(**changes):
        config = toy_config(env_runners__slots=12, env_runners__unroll_length=32, learner__lambda_=0.95, **changes)
        suite = make_suite(config.suite.name)
        learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
        episodes = []
        for _ in range(25):
            collector.set_weights(learner.version, learner.actor_weights())
            collected = collector.collect()
            episodes = collected.episodes
            learner.update(collected.rollout, 0.0)
        return np.mean([suite.score(e.task_id, e.episode_return) for e in episodes if suite.names[e.task_id] != "constant"])

    reused = score(learner__surrogate="clipped", learner__epochs=8, learner__minibatches=4, learner__minibatch_of=kind)
    assert reused > 0.8 > score()


def test_a_restored_learner_draws_the_same_minibatches():
    config = toy_config(learner__surrogate="clipped", learner__epochs=2, learner__minibatches=3)
    suite, rollout = make_suite(config.suite.name), collect(config)[0]
    first, second = Learner(config, suite), Learner(config, suite)
    first.update(rollout, 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    first.update(rollout, 0.0)
    second.update(rollout, 0.0)
    assert all(np.array_equal(array, second.policy_weights()[name]) for name, array in first.policy_weights().items())


def test_an_action_that_was_all_but_impossible_spoils_no_update():
    """With narrow Gaussians a log-ratio of hundreds occurs (it ended a run on MT10 after 800 000 frames)."""
    log_ratios = torch.tensor([[500.0, 0.1], [-500.0, -0.1]], requires_grad=True)
    loss = clipped_surrogate_loss(log_ratios, torch.tensor([[-1.0, 1.0], [-1.0, 1.0]]), torch.full((2, 2), 0.25), 0.2)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.equal(log_ratios.grad[:, 0], torch.zeros(2)) and (log_ratios.grad[:, 1] < 0).all()
