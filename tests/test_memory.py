"""The LSTM: the same numbers however it is run, and tasks that need it."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
import torch
from helpers import toy_config
from torch import nn

from envs import make_suite
from envs.suites.minigrid import OBSERVATION_SPACE as GRID
from envs.suites.toy import ACTION_SPACE, OBSERVATION_SPACE
from envs.task import Task, TaskSuite
from mtrl.config import ConfigError, override
from mtrl.learning.learner import Learner
from mtrl.models.distributions import Categorical
from mtrl.models.encoders import CELL
from mtrl.models.heads import MultiHead, SingleHead
from mtrl.models.memory import Memory, Recurrence, Unroll, recurrence_of
from mtrl.models.policy import build_policy
from mtrl.models.view import View
from mtrl.parallel import alone
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import concatenate
from mtrl.training.trainer import build_trainer


class Recall(gymnasium.Env):
    """The first observation shows which of two actions will pay in the fourth step; the others show nothing."""

    observation_space, action_space = OBSERVATION_SPACE, ACTION_SPACE

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._cue, self._steps = int(self.np_random.integers(2)), 0
        return self._show(self._cue), {}

    def step(self, action):
        self._steps += 1
        over = self._steps == 4
        return self._show(7), float(over and action == self._cue), over, False, {}

    @staticmethod
    def _show(index):
        vector = np.zeros(8, np.float32)
        vector[index] = 1
        return {"vector": vector}


RECALL = TaskSuite("test/recall", (Task("recall", Recall),), OBSERVATION_SPACE, ACTION_SPACE, lambda obs: obs, "test")
WITH_MEMORY = {"model__memory": True, "model__memory_size": 16}


def memory_and_inputs(steps=9, slots=4, seed=0):
    torch.manual_seed(seed)
    memory = Memory(10, 6, Categorical(3), t_max=10)
    initial = {name: torch.from_numpy(array) for name, array in memory.initial(slots).items()}
    initial |= {"hidden": torch.randn(slots, 6), "cell": torch.randn(slots, 6), "start": torch.zeros(slots, dtype=torch.bool)}
    valid = torch.rand(steps, slots) > 0.3
    recurrence = recurrence_of(initial, torch.randint(0, 3, (steps, slots)), torch.randn(steps, slots), valid)
    return memory, torch.randn(steps + 1, slots, 10), recurrence


def project(memory, features):
    """Without a view a memory reads features alone."""
    rows = features.flatten(0, -2)
    return memory.project(rows, {}, torch.zeros(len(rows), dtype=torch.int64)).unflatten(0, features.shape[:-1])


def test_unrolling_equals_torchs_lstm_cell_with_the_state_cleared_at_starts():
    memory, features, recurrence = memory_and_inputs()
    cell = torch.nn.LSTMCell(10 + 3 + 1, 6)
    with torch.no_grad():
        cell.weight_ih.copy_(torch.cat([memory.feature_weight, memory.event_weight], dim=1))
        cell.weight_hh.copy_(memory.hidden_weight)
        cell.bias_ih.copy_(memory.bias)
        cell.bias_hh.zero_()
    hidden, state = recurrence.hidden, recurrence.cell
    outputs = []
    for t in range(len(features)):
        began = recurrence.starts[t].unsqueeze(-1)
        events = torch.cat([torch.eye(3)[recurrence.last_actions[t]], recurrence.last_rewards[t].clamp(-1, 1).unsqueeze(-1)], dim=-1)
        inputs = torch.cat([features[t], torch.where(began, 0.0, events)], dim=-1)
        hidden, state = cell(inputs, (torch.where(began, 0.0, hidden), torch.where(began, 0.0, state)))
        outputs.append(hidden)
    assert recurrence.starts.any()
    torch.testing.assert_close(memory.unroll(project(memory, features), recurrence), torch.stack(outputs))


def test_gradients_of_an_unroll_are_those_of_its_steps():
    memory, features, recurrence = memory_and_inputs()
    keep = (~recurrence.starts).double().unsqueeze(-1)
    assert 0 < keep.mean() < 1
    inputs = project(memory, features).double().detach()
    state = (recurrence.hidden.double(), recurrence.cell.double(), memory.hidden_weight.detach().double())
    arguments = [tensor.requires_grad_() for tensor in (inputs, *state)]

    def unroll(inputs, hidden, cell, weight):
        return Unroll.apply(inputs, keep, hidden, cell, weight)

    assert torch.autograd.gradcheck(unroll, arguments)


@pytest.mark.parametrize("span", [8, 30])
def test_before_learning_units_keep_what_they_hold_for_up_to_the_span(span):
    config = toy_config(model__memory=True, model__memory_size=500, model__memory_t_max=span)
    memory = build_policy(config.model, make_suite(config.suite.name), seed=0).actor.memory
    initial = {name: torch.from_numpy(array) for name, array in memory.initial(1).items()}
    initial |= {"cell": torch.ones(1, 500), "start": torch.zeros(1, dtype=torch.bool)}
    with torch.no_grad():
        memory.event_weight.zero_()
        _, cell = memory.step(memory.bias.unsqueeze(0), initial)
    steps = 1 / (1 - cell)  # until it would all be gone at this pace
    assert steps.min() < 4 and span - 2 < steps.max() <= span
    assert steps.median().item() == pytest.approx(1 + span / 2, abs=2)


def test_a_grids_view_is_how_much_of_what_is_on_which_side_at_the_scale_of_its_task():
    rng = np.random.default_rng(0)
    images, tasks, counts = rng.integers(0, CELL, (30, 7, 7, 3)), np.repeat([0, 1], 15), rng.integers(1, 4, 30)
    view = View(GRID, 2)
    given = {"image": torch.from_numpy(images.astype(np.uint8))}, torch.from_numpy(tasks)
    view.observe(*given, torch.from_numpy(counts).float(), alone)
    # MiniGrid's views are indexed by column first; the agent stands in the fourth.
    shown = np.array(
        [
            [
                np.mean(image[columns, :, i] == value)
                for columns in (slice(3), slice(3, 4), slice(4, 7))
                for i, n in enumerate(CELL)
                for value in range(n)
            ]
            for image in images
        ]
    )
    for task in range(2):
        own = tasks == task
        mean = np.average(shown[own], axis=0, weights=counts[own])
        deviation = np.sqrt(np.average((shown[own] - mean) ** 2, axis=0, weights=counts[own]))
        expected = (shown[own] - mean) / np.where(deviation > 1e-6, deviation, 1)
        np.testing.assert_allclose(view(*given)[own], np.clip(expected, -10, 10), atol=1e-4)


@pytest.mark.parametrize("name", ["toy/three", "minigrid/mt3", "babyai/8"])
def test_a_memory_reads_the_observation_itself(name):
    memory = build_policy(toy_config(name, **WITH_MEMORY).model, make_suite(name), 0).actor.memory
    space = make_suite(name).observation_space
    space.seed(0)
    obs = {key: torch.from_numpy(np.stack([space.sample()[key] for _ in range(4)])) for key in space.spaces}
    if "image" in obs:
        obs["image"] %= torch.tensor(CELL, dtype=torch.uint8)
    features, tasks = torch.zeros(4, memory.feature_weight.shape[1] - memory.view.size), torch.zeros(4, dtype=torch.int64)
    read = memory.project(features, obs, tasks)
    assert all((read[i] - read[j]).abs().max() > 0.01 for i in range(4) for j in range(i))


def test_nothing_before_an_episodes_start_matters():
    memory, features, recurrence = memory_and_inputs()
    starts = torch.zeros_like(recurrence.starts)
    starts[5] = True
    recurrence = recurrence._replace(starts=starts)
    changed = Recurrence(recurrence.last_actions, recurrence.last_rewards + 1, starts, recurrence.hidden * 3, recurrence.cell - 1)
    other = features.clone()
    other[:5] += 1
    after = [memory.unroll(project(memory, x), r) for x, r in ((features, recurrence), (other, changed))]
    assert not torch.allclose(after[0][4], after[1][4])
    # Rewards after the start do matter, so they are compared at the start alone.
    torch.testing.assert_close(after[0][5], after[1][5])


@pytest.mark.parametrize("suite", ["toy/three", "minigrid/mt3"])
@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_the_learner_recalls_what_the_runner_did(suite, trunks):
    """Behaviour log-probabilities equal the learner's over several unrolls: state, last action, last reward and resets all agree."""
    config = toy_config(suite, env_runners__unroll_length=40, model__trunks=trunks, **WITH_MEMORY)
    learner = Learner(config, make_suite(suite))
    with torch.no_grad():
        learner.policy.actor.head.output_weight.mul_(1000)  # far from uniform, so that a difference shows
        nn.init.normal_(learner.policy.actor.head.recall_weight, std=0.3)  # at 0 it would not matter what the memory holds
    collector = build_collector(config, make_suite(suite), runner=0)
    collector.set_weights(0, learner.actor_weights())
    rollouts = [collector.collect().rollout for _ in range(3)]
    assert not rollouts[0].valid.all() or suite != "toy/three"
    for rollout in (rollouts[2], concatenate(rollouts)):
        log_rhos = learner.evaluate(learner.make_batch(rollout)).log_probs.numpy() - rollout.behaviour_log_probs
        np.testing.assert_allclose(log_rhos, 0, atol=1e-4)
        assert np.std(rollout.behaviour_log_probs) > 0.1


@pytest.mark.parametrize("trunks", ["separate", "shared"])
def test_values_begin_near_zero_and_do_not_depend_on_the_memory(trunks):
    """A separate critic makes one step per batch: what a memory says before it has learned anything would stay in its values for long."""
    config = toy_config("minigrid/mt3", env_runners__unroll_length=40, model__trunks=trunks, **WITH_MEMORY)
    suite = make_suite("minigrid/mt3")
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    collector.set_weights(0, learner.actor_weights())
    rollout = collector.collect().rollout
    batch = learner.make_batch(rollout)
    other = batch.observations._replace(
        recurrence=batch.observations.recurrence._replace(last_rewards=batch.observations.recurrence.last_rewards + 1)
    )

    def values(of):
        with torch.no_grad():
            acted, valued = learner.policy(of)
        return acted.hidden, valued.values

    (hidden, before), (changed, after) = values(batch.observations), values(other)
    assert not torch.allclose(hidden, changed)
    torch.testing.assert_close(before, after)
    assert before.abs().max() < 0.01  # sparse tasks pay less than one
    for _ in range(10):
        learner.update(rollout, 0.0)
    (_, before), (_, after) = values(batch.observations), values(other)
    assert (before - after).abs().max() > 1e-6


@pytest.mark.parametrize("kind", [MultiHead, SingleHead])
def test_a_head_reads_feature_and_memory_as_one_layer(kind):
    torch.manual_seed(0)
    head, counts = kind(2, 5, 7, 3, output_gain=1.0, memory=4), (2, 4)
    nn.init.normal_(head.recall_weight)
    features, held, tasks = torch.randn(6, 5), torch.randn(6, 4), torch.tensor([0, 0, 1, 1, 1, 1])
    if kind is MultiHead:
        first = torch.cat([head.hidden_weight, head.recall_weight], dim=2)[tasks]
        sums = torch.einsum("nwd,nd->nw", first, torch.cat([features, held], dim=1)) + head.hidden_bias[tasks]
        expected = torch.einsum("now,nw->no", head.output_weight[tasks], sums.tanh()) + head.output_bias[tasks]
    else:
        sums = torch.cat([features, held], dim=1) @ torch.cat([head.hidden.weight, head.recall_weight], dim=1).T
        expected = head.output((sums + head.hidden.bias + head.task_bias[tasks]).tanh())
    torch.testing.assert_close(head.outputs(head.project_features(features, counts) + head.project_memory(held, counts), counts), expected)


def test_a_memorys_weights_step_at_a_rate_of_their_own():
    # The first step of Adam is as long as its learning rate, whatever the gradient. What reads the memory moves first.
    config = toy_config(**WITH_MEMORY, learner__memory_rate=0.25, learner__actor={"learning_rate": 1e-3})
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    collector.set_weights(0, learner.actor_weights())
    before = learner.actor_weights()
    learner.update(collector.collect().rollout, 0.0)
    after = learner.actor_weights()
    steps = {name: np.abs(after[name] - before[name]).max() for name in ("head.recall_weight", "head.output_weight", "trunk.gate.weight")}
    assert steps == pytest.approx({"head.recall_weight": 2.5e-4, "head.output_weight": 1e-3, "trunk.gate.weight": 1e-3}, rel=0.01)


def test_a_paused_slot_finds_its_memory_again():
    config = toy_config("toy/corridor,cue", env_runners__slots=4, env_runners__unroll_length=3, **WITH_MEMORY)
    suite = make_suite(config.suite.name)
    collector = build_collector(config, suite, runner=0)
    collector.set_weights(0, Learner(config, suite).actor_weights())
    collector.set_shares(np.array([0.5, 0.5]))
    before = collector.collect()
    kept = {name: array.copy() for name, array in collector._inference.memory.items()}
    assert before.rollout.task_ids.tolist() == [0, 0, 1, 1]
    collector._allocator.owed[:] = 0
    collector.set_shares(np.array([1.0, 0.0]))
    assert collector.collect().rollout.task_ids.tolist() == [0, 0, 0, 0]
    collector._allocator.owed[:] = 0
    collector.set_shares(np.array([0.5, 0.5]))
    back = collector.collect().rollout.initial_memory
    for name, array in kept.items():
        np.testing.assert_array_equal(back[name][2:], array[2:], err_msg=name)


def test_learns_what_only_a_memory_can():
    def success(memory):
        config = override(
            toy_config("toy/three", env_runners__slots=32, env_runners__unroll_length=15, learner__actor={"learning_rate": 5e-3}),
            {"model.memory": memory, "model.memory_size": 16, "model.experts": 1, "learner.lambda_": 0.95},
        )
        learner, collector = Learner(config, RECALL), build_collector(config, RECALL, runner=0)
        returns: list[float] = []
        for _ in range(120):
            collector.set_weights(learner.version, learner.actor_weights())
            collected = collector.collect()
            returns = (returns + [e.episode_return for e in collected.episodes])[-400:]
            learner.update(collected.rollout, 0.0)
        return np.mean(returns)

    assert success(memory=True) > 0.9
    assert success(memory=False) < 0.6


def test_minibatches_of_a_memory_are_traces():
    changes = {"model__memory": True, "learner__minibatches": 2}
    with pytest.raises(ConfigError, match="traces"):
        toy_config(**changes)
    config = toy_config(
        **changes, learner__minibatch_of="traces", learner__epochs=2, learner__surrogate="clipped", env_runners__unroll_length=12
    )
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    collector.set_weights(0, learner.actor_weights())
    before = learner.actor_weights()
    learner.update(collector.collect().rollout, 0.0)
    assert all(not np.array_equal(before[name], after) for name, after in learner.actor_weights().items() if "hidden_weight" in name)


@pytest.mark.parametrize("heads", ["single", "multi"])
def test_a_minibatch_may_lack_the_last_task(heads):
    # Four minibatches of whole traces of six slots: some hold no slot of the third task.
    config = toy_config(
        model__memory=True, model__heads=heads, learner__minibatches=4, learner__minibatch_of="traces", learner__surrogate="clipped"
    )
    trainer = build_trainer(config)
    for _ in range(3):
        assert trainer.step()
    trainer.close()
