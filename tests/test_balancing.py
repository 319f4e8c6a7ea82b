"""Balancing against slow twins: the papers' own formulas, brute force over tasks, and properties that each rule is known for."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import toy_config
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import make_suite
from mtrl.config import ConfigError
from mtrl.learning.balancers import BALANCERS, GradNorm, ImprovableGap, Uncertainty, make_balancer
from mtrl.learning.combiners import COMBINERS, Combiner
from mtrl.learning.learner import Learner
from mtrl.learning.minibatches import Minibatch
from mtrl.rollouts.collector import build_collector

CPU = torch.device("cpu")
ALL = torch.ones(3, dtype=torch.bool)


def wishes(seed: int, tasks: int = 3, size: int = 6) -> torch.Tensor:
    return torch.randn(tasks, size, generator=torch.Generator().manual_seed(seed))


def test_uncertainty_finds_the_variances():
    """With losses held the best σ² of each task is its loss."""
    balancer, losses = Uncertainty(3, CPU), torch.tensor([0.2, 1.0, 5.0])
    for _ in range(2000):
        weights = balancer.update(losses, ALL, None)
    torch.testing.assert_close(weights, 1 / losses, rtol=0.05, atol=0)


def test_gradnorm_makes_gradients_equally_long_and_helps_who_lags():
    balancer, norms, losses = GradNorm(3, CPU), torch.tensor([0.5, 1.0, 4.0]), torch.ones(3)
    for _ in range(2000):
        weights = balancer.update(losses, ALL, norms)
        assert float(weights.sum()) == pytest.approx(3.0, abs=1e-4)
    lengths = weights * norms
    torch.testing.assert_close(lengths, lengths.mean().expand(3), rtol=0.1, atol=0)
    # The second task has come half as far as the others: its gradient is to be longer by the ratio of rates to the power of α.
    behind = torch.tensor([0.5, 1.0, 0.5])
    for _ in range(3000):
        weights = balancer.update(behind, ALL, norms)
    lengths = weights * norms
    assert float(lengths[1] / lengths[0]) == pytest.approx(2**GradNorm.ALPHA, rel=0.15)


@pytest.mark.parametrize("name", ["uncertainty", "igb"])
@pytest.mark.parametrize("paid_at_first", [True, False])
def test_a_task_without_loss_does_not_take_all_the_weight(name, paid_at_first):
    """Value losses do reach 0 in reinforcement learning: of a solved task, and of one that pays nothing yet."""
    balancer = make_balancer(name, 3, CPU)
    first, later = torch.tensor([0.1, 0.1, 0.1 if paid_at_first else 1e-6]), torch.tensor([0.1, 0.1, 1e-6])
    for _ in range(ImprovableGap.BASE_STEPS):
        balancer.update(first, ALL, None)
    for _ in range(5000):
        weights = balancer.update(later, ALL, None)
    assert float(weights[2] / weights[0]) < 10.1
    assert float(weights.max()) < 60
    for _ in range(500):  # and it has come back when the task is paid
        weights = balancer.update(torch.full((3,), 0.1), ALL, None)
    assert 0.3 < float(weights[2] / weights[0]) < 3


def test_igb_is_a_softmax_of_how_much_is_left():
    balancer, base = ImprovableGap(3, CPU), np.array([1.0, 2.0, 4.0])
    for _ in range(ImprovableGap.BASE_STEPS):
        weights = balancer.update(torch.tensor(base, dtype=torch.float32), ALL, None)
    losses = np.array([0.9, 0.2, 2.0])
    weights = balancer.update(torch.tensor(losses, dtype=torch.float32), ALL, None).numpy()
    gaps = np.exp(losses / base) / np.exp(losses / base).sum()
    np.testing.assert_allclose(weights, gaps / losses / (gaps / losses).mean(), rtol=1e-5)


@pytest.mark.parametrize("name", BALANCERS)
def test_a_task_that_is_not_there_changes_nothing_of_its_own(name):
    balancer = make_balancer(name, 3, CPU)
    before = balancer.state_dict()
    present = torch.tensor([True, True, False])
    for _ in range(5):
        weights = balancer.update(torch.tensor([1.0, 2.0, 0.0]), present, torch.ones(3) if balancer.needs_gradients else None)
    assert weights.isfinite().all()
    if name != "gradnorm":  # whose weights are relative to each other
        assert all(torch.equal(tensor[2], before[key][2]) for key, tensor in balancer.state_dict().items())
    again = make_balancer(name, 3, CPU)
    again.load_state_dict(balancer.state_dict())
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in balancer.state_dict().items())


def test_pcgrad_is_the_papers_for_two_tasks():
    g = wishes(1, tasks=2)
    g[1] -= 2 * g[0] * (g[0] @ g[1]) / g[0].square().sum()  # now they conflict, or did
    if g[0] @ g[1] > 0:
        g[1] = -g[1]
    projected = [g[i] - (g[i] @ g[1 - i]) / g[1 - i].square().sum() * g[1 - i] for i in (0, 1)]
    torch.testing.assert_close(Combiner("pcgrad").weights(g) @ g, projected[0] + projected[1], rtol=1e-4, atol=1e-5)


def test_aligned_mtl_is_the_papers():
    """B = √λ_min V Λ^(-1/2) Vᵀ of the Gram matrix, applied to equal weights, here scaled to sum up like the number of tasks."""
    g = wishes(2).double().numpy()
    g /= np.linalg.norm(g, axis=1).max()
    values, vectors = np.linalg.eigh(g @ g.T)
    expected = np.sqrt(values.min()) * vectors @ np.diag(values**-0.5) @ vectors.T @ np.ones(3)
    np.testing.assert_allclose(Combiner("aligned_mtl").weights(torch.tensor(g).float()).numpy(), expected, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(["upgrad", "mgda"]), st.integers(0, 10**6))
def test_no_task_is_harmed_where_the_rule_says_so(name, seed):
    g = wishes(seed)
    assert (g @ (Combiner(name).weights(g) @ g)).min() > -0.05 * g.norm(dim=1).max()


@pytest.mark.parametrize("name", COMBINERS)
def test_tasks_that_have_nothing_to_do_with_each_other_are_left_alone(name):
    g = torch.eye(3, 5) * 0.3
    torch.testing.assert_close(Combiner(name).weights(g), torch.ones(3), rtol=0.6 if name == "cagrad" else 0.05, atol=0)
    g[1] = 0  # and one that wishes nothing is not asked
    assert Combiner(name).weights(g)[1] == 1
    assert Combiner(name).weights(torch.full((3, 5), torch.nan)).eq(1).all()
    many = [Combiner(name).weights(wishes(3)) for _ in range(2)]
    torch.testing.assert_close(*many)  # whatever is drawn is drawn alike by all learners


def learner_and_rollout(**changes):
    config = toy_config("toy/three", **{"env_runners__slots": 9, "model__experts": 2, **changes})
    suite = make_suite("toy/three")
    learner, collector = Learner(config, suite), build_collector(config, suite, 0)
    collector.set_weights(0, learner.actor_weights())
    rollout = collector.collect().rollout
    collector.close()
    return learner, rollout


@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_the_trunk_gets_each_tasks_gradient_with_its_weight(trunks, monkeypatch):
    """Against one backward pass for each task; the heads, which are each task's own, get what they would have got."""
    given = torch.tensor([0.5, 2.0, 1.5])
    monkeypatch.setitem(COMBINERS, "pcgrad", lambda: lambda gram: given.double())
    plain, rollout = learner_and_rollout(model__trunks=trunks)
    weighted, _ = learner_and_rollout(model__trunks=trunks, learner__combiner="pcgrad")

    def gradients(learner, only=None):
        batch = learner.make_batch(rollout)
        if only is not None:
            batch = batch._replace(weights=batch.weights * (batch.observations.task_ids == only))
        (minibatch,) = learner.minibatches(batch, None)
        learner.policy.zero_grad()
        learner.backward(minibatch, learner.losses(minibatch))
        return {name: p.grad.clone() for name, p in learner.policy.named_parameters() if p.grad is not None}

    # Advantages are normalised over each task alone, so the parts' sum is the whole.
    whole, parts = gradients(weighted), [gradients(plain, task) for task in range(3)]
    for name, gradient in whole.items():
        scales = given if ".trunk." in name else torch.ones(3)
        expected = sum(float(scale) * part[name] for scale, part in zip(scales, parts, strict=True))
        torch.testing.assert_close(gradient, expected, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_the_gradients_of_the_trunks_parameters_are_those_that_are_compared(trunks, monkeypatch):
    """The rule is handed the Gram matrix of one backward pass for each task, over the trunk's experts."""
    seen = []

    def rule(gram):
        seen.append(gram)
        return torch.ones(3, dtype=torch.float64)

    monkeypatch.setitem(COMBINERS, "pcgrad", lambda: rule)
    learner, rollout = learner_and_rollout(model__trunks=trunks, learner__combiner="pcgrad", learner__combiner_space="trunk")
    plain, _ = learner_and_rollout(model__trunks=trunks)
    (minibatch,) = learner.minibatches(learner.make_batch(rollout), None)
    learner.backward(minibatch, learner.losses(minibatch))
    rows: dict[str, list[torch.Tensor]] = {"actor": [], "critic": []}
    for task in range(3):
        batch = plain.make_batch(rollout)
        (minibatch,) = plain.minibatches(batch._replace(weights=batch.weights * (batch.observations.task_ids == task)), None)
        plain.policy.zero_grad()
        plain.backward(minibatch, plain.losses(minibatch))
        for part, of_tasks in rows.items():
            own = [p.grad.flatten() for name, p in plain.policy.named_parameters() if name.startswith(f"{part}.trunk.encoder")]
            of_tasks.extend([torch.cat(own)] if own else [])
    matrices = [torch.stack(of_tasks) for of_tasks in rows.values() if of_tasks]
    assert len(seen) == len(matrices) == (2 if trunks == "separate" else 1)
    for matrix in matrices:
        unit = matrix / matrix.norm(dim=1).max()
        assert any(torch.allclose((unit @ unit.T).double(), gram, atol=1e-4) for gram in seen)


@pytest.mark.parametrize(("field", "name"), [("balancing", name) for name in BALANCERS] + [("combiner", name) for name in COMBINERS])
def test_a_learner_goes_on_from_its_state_with_each_rule(field, name):
    changes = {f"learner__{field}": name, "model__popart": True}
    learner, rollout = learner_and_rollout(**changes)
    for _ in range(3):
        assert all(np.isfinite(value) for value in learner.update(rollout, 0.0).means.values())
    again, _ = learner_and_rollout(**changes)
    again.load_state_dict(copy.deepcopy(learner.state_dict()))
    ours, theirs = learner.update(rollout, 0.0), again.update(rollout, 0.0)
    assert ours.means["value_loss"] == theirs.means["value_loss"]
    for (key, a), b in zip(learner.policy.state_dict().items(), again.policy.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, msg=key)


def test_names_that_do_not_exist_are_sentences(monkeypatch):
    with pytest.raises(ConfigError, match="no balancer 'gradnrom'; known are equal, uncertainty, gradnorm, igb"):
        learner_and_rollout(learner__balancing="gradnrom")
    with pytest.raises(ConfigError, match="no rule 'nash'; known are sum, pcgrad"):
        learner_and_rollout(learner__combiner="nash")

    def missing():
        raise ImportError("it requires cvxpy")

    monkeypatch.setitem(COMBINERS, "cagrad", missing)
    with pytest.raises(ConfigError, match=r"needs more than torchjd itself \(it requires cvxpy"):
        learner_and_rollout(learner__combiner="cagrad")


@pytest.mark.parametrize("name", ["uncertainty", "gradnorm", "igb"])
def test_a_loss_that_is_not_finite_leaves_no_trace(name):
    """As everything else that is skipped with its update."""
    learner, rollout = learner_and_rollout(learner__balancing=name)
    learner.update(rollout, 0.0)
    rewards = rollout.rewards.copy()
    rewards[0, 0] = 1e25
    learner.update(rollout._replace(rewards=rewards), 0.0)
    for _ in range(3):
        learner.update(rollout, 0.0)
    state = learner.state_dict()["balancer"]
    assert state and all(torch.isfinite(value).all() for value in state.values())
    assert learner.skipped_steps <= 2


def test_gradnorm_goes_on_where_nothing_before_the_feature_is_trained():
    learner, rollout = learner_and_rollout(learner__balancing="gradnorm", model__freeze_experts=True, model__gate="uniform")
    learner.update(rollout, 0.0)
    assert learner.skipped_steps == 0


def test_the_gates_loss_of_the_critic_is_kept():
    """Its gradient with a balancer that weighs all tasks alike is that without one."""
    gradients = []
    for changes in ({}, {"learner__balancing": "uncertainty"}):
        learner, rollout = learner_and_rollout(model__gate="dselect_k", model__experts=4, learner__gate_cost=1.0, **changes)
        batch = learner.make_batch(rollout)
        minibatch = Minibatch(batch, None, None, None, updates_actor=False, updates_critic=True)
        learner.backward(minibatch, learner.losses(minibatch, learner._coefficients(0.0)))
        gradients.append(torch.cat([p.grad.flatten() for p in learner.policy.critic.trunk.gate.parameters() if p.grad is not None]))
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-5)
