"""Gates: what their papers say of the weights, and every gate in a network."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import toy_config

from envs import make_suite
from mtrl.config import ConfigError, ModelConfig
from mtrl.learning.learner import Learner
from mtrl.models.gates import GATES, DSelectKGate, LinearGate, SkillsGate, TopKGate, make_gate, smooth_step
from mtrl.models.policy import build_policy
from mtrl.rollouts.collector import build_collector


@pytest.mark.parametrize("name", list(GATES))
def test_a_row_depends_on_its_task_alone(name):
    gate = make_gate(ModelConfig(gate=name, experts=5), 5).eval()
    rows = gate(torch.tensor([0, 3, 3, 4]))
    assert rows.shape == (4, 5)
    torch.testing.assert_close(rows, gate.task_weights()[[0, 3, 3, 4]])


@pytest.mark.parametrize("name", ["softmax", "topk", "dselect_k", "skills", "own", "equal"])
@pytest.mark.parametrize("experts", [4, 5])
def test_weights_are_shares(name, experts):
    table = make_gate(ModelConfig(gate=name, experts=experts), experts).eval().task_weights()
    assert (table >= 0).all()
    torch.testing.assert_close(table.sum(-1), torch.ones(experts))


def test_topk_leaves_the_others_out_of_value_and_gradient():
    gate = TopKGate(1, 4, k=2)
    gate.weight.data = torch.tensor([[0.1, 3.0, -1.0, 2.0]])
    table = gate.task_weights()
    torch.testing.assert_close(table[0, [1, 3]], torch.tensor([3.0, 2.0]).softmax(-1))
    assert table[0, [0, 2]].tolist() == [0, 0]
    (table * torch.arange(4.0)).sum().backward()
    assert gate.weight.grad[0, [0, 2]].tolist() == [0, 0]
    assert (gate.weight.grad[0, [1, 3]] != 0).all()


def test_the_smooth_step_is_flat_at_both_ends():
    x = torch.tensor([-2.0, -0.5, 0.0, 0.5, 3.0], requires_grad=True)
    y = smooth_step(x, 1.0)
    assert y.tolist() == pytest.approx([0, 0, 0.5, 1, 1])
    inside = torch.tensor(0.25, requires_grad=True)
    smooth_step(inside, 1.0).backward()
    assert inside.grad.item() == pytest.approx(-6 * 0.25**2 + 1.5)


def test_saturated_digits_choose_exactly_one_expert_each():
    gate = DSelectKGate(1, 4, k=2)
    gate.digits.data = torch.tensor([[[9.0, -9.0], [-9.0, 9.0]]])  # codes 01 and 10: experts 1 and 2
    gate.mixture.data = torch.tensor([[0.0, 0.0]])
    assert gate.task_weights().tolist() == [[0, 0.5, 0.5, 0]]


def test_two_learners_of_one_seed_draw_the_same_skills():
    """Whatever else draws from PyTorch's global generator, and also after a resume."""
    config = toy_config(model__gate="skills", model__experts=3, learner__epochs=2, learner__surrogate="clipped")
    suite = make_suite(config.suite.name)
    first, second = Learner(config, suite), Learner(config, suite)
    rollout = build_collector(config, suite, runner=0).collect().rollout
    first.update(rollout, 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.rand(7)
    first.update(rollout, 0.1)
    torch.rand(7)
    second.update(rollout, 0.1)
    for name, array in first.policy_weights().items():
        np.testing.assert_array_equal(array, second.policy_weights()[name], err_msg=name)


@pytest.mark.parametrize("experts", [4, 5])
def test_the_regularizer_of_dselect_k_makes_it_choose_experts_that_exist(experts):
    torch.manual_seed(0)
    gate = DSelectKGate(3, experts, k=2)
    gate.digits.data.uniform_(-0.4, 0.4)
    optimizer = torch.optim.Adam([gate.digits], lr=0.01)
    for _ in range(500):
        optimizer.zero_grad()
        gate.regularizer().backward()
        optimizer.step()
    assert float(gate.regularizer().detach()) < 1e-3
    weights = gate.task_weights()
    assert ((weights > 0.49).sum(-1) <= 2).all() and ((weights < 0.01) | (weights > 0.49)).all()


def test_skills_are_drawn_while_learning_and_averaged_while_acting():
    torch.manual_seed(0)
    gate = SkillsGate(1, 3)
    gate.weight.data = torch.tensor([[2.0, 0.0, -2.0]])
    assert not torch.equal(gate.task_weights(), gate.task_weights())
    members = gate.weight.sigmoid()
    torch.testing.assert_close(gate.eval().task_weights(), members / members.sum())


@pytest.mark.parametrize("name", list(GATES))
def test_every_gate_trains(name):
    config = toy_config(model__gate=name, model__experts=3, model__orthogonal=name not in ("own", "equal"))
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    collector.set_weights(0, learner.actor_weights())
    before = learner.policy_weights()
    learner.update(collector.collect().rollout, 0.0)
    collector.set_weights(1, learner.actor_weights())
    assert collector.collect().rollout.version.tolist() == [1] * 6
    moved = {key for key, value in learner.policy_weights().items() if (value != before[key]).any()}
    gate = {key for key in before if ".gate." in key}
    assert gate <= moved
    assert any("experts" in key for key in moved)


def test_what_does_not_fit_is_said():
    with pytest.raises(ConfigError, match="known are linear"):
        make_gate(ModelConfig(gate="liner"), 3)
    with pytest.raises(ConfigError, match=r"set model.experts to 3"):
        make_gate(ModelConfig(gate="one_per_task", experts=2), 3)
    with pytest.raises(ConfigError, match="gate_experts is 7"):
        make_gate(ModelConfig(gate="topk", gate_experts=7), 3)


def test_one_wide_expert_can_be_as_large_as_four():
    def size(**changes):
        config = toy_config("minigrid/mt7", env_runners__slots=7, **changes)
        encoder = Learner(config, make_suite("minigrid/mt7")).policy.actor.trunk.encoder
        return sum(parameter.numel() for parameter in encoder.parameters())

    four, one_wide = size(model__experts=4), size(model__experts=1, model__width=2.0, model__gate="uniform")
    assert abs(one_wide / four - 1) < 0.05
    assert isinstance(make_gate(ModelConfig(), 2), LinearGate)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_a_policy_declares_its_experts_and_its_memory(memory, trunks):
    """By the modules that hold them: encoders' experts in each trunk, the LSTM, and the weights with which heads read it."""
    model = ModelConfig(experts=3, memory=memory, memory_size=8, trunks=trunks)
    policy = build_policy(model, make_suite("toy/three"), seed=0)
    encoders = [policy.actor.trunk.encoder, *([policy.critic.trunk.encoder] if trunks == "separate" else [])]
    experts = {id(parameter) for encoder in encoders for parameter in encoder.parameters()}
    assert {id(parameter) for parameter in policy.expert_parameters().values()} == experts
    reading = [head.recall_weight for head in (policy.actor.head, policy.critic.head) if head.recall_weight is not None]
    of_memory = {id(parameter) for parameter in [*(policy.actor.memory.parameters() if memory else []), *reading]}
    assert {id(parameter) for parameter in policy.memory_parameters().values()} == of_memory and bool(of_memory) == memory
