"""Masks of actions: what an environment forbids is never done, and has no probability for the learner either."""

from __future__ import annotations

import itertools

import gymnasium
import numpy as np
import pytest
import torch
from foreign import FORBIDDING, Forbids
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple
from helpers import toy_config

from envs import SuiteError, TaskFault, make_suite, make_vector
from envs.actions import canonical_actions, choices_of, read_mask
from envs.errors import MisfitError
from mtrl.learning.learner import Learner
from mtrl.models.distributions import FORBIDDEN, MultiCategorical, make_distribution
from mtrl.models.masks import forbid, make_mask
from mtrl.rollouts.collector import build_collector
from mtrl.training.trainer import build_trainer

SUITES = [f"gym/{FORBIDDING[0]}", f"gym/{FORBIDDING[3]}", f"gym/{','.join(FORBIDDING)},CartPole-v1"]


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("name", SUITES)
def test_what_is_forbidden_is_never_done_and_the_learner_knows(name, memory):
    """The environments fail when it is. Before the first step the learner's probabilities are those with which actions were drawn."""
    config = toy_config(name, model__memory=memory, env_runners__slots=10, learner__entropy_cost=0.1)
    suite = make_suite(name)
    collector, learner = build_collector(config, suite, 0), Learner(config, suite)
    for version in range(4):
        collector.set_weights(version, learner.actor_weights())
        rollout = collector.collect().rollout
        if version == 0:
            looked = learner.evaluate(learner.make_batch(rollout)).log_probs.detach().numpy()
            np.testing.assert_allclose(looked, rollout.behaviour_log_probs, atol=1e-4)
            assert (looked > -20).all()
        assert all(np.isfinite(value) for value in learner.update(rollout, 0.0).means.values())
    collector.close()


@pytest.mark.parametrize("space", [Discrete(6), MultiDiscrete([2, 4])], ids=str)
def test_masked_distributions_are_those_of_torch_over_what_is_left(space):
    counts = space.nvec.tolist() if isinstance(space, MultiDiscrete) else [6]
    distribution, generator = make_distribution(space), torch.Generator().manual_seed(0)
    raw = torch.randn(500, 6, generator=generator, requires_grad=True)
    allowed = torch.rand(500, 6, generator=generator) < 0.5
    for part in allowed.split(counts, 1):
        part[torch.arange(500), torch.randint(part.shape[1], (500,), generator=generator)] = True
    mask = make_mask(Dict({"vector": Box(0, 1, (1,)), "action_mask": MultiBinary(6)}), 6, several_kinds=False)
    parameters = forbid(raw, mask.allowed({"action_mask": allowed.to(torch.int8)}))
    actions = distribution.sample(parameters, generator)
    parts = [
        torch.distributions.Categorical(logits=logits.masked_fill(~own, -torch.inf))
        for logits, own in zip(raw.split(counts, 1), allowed.split(counts, 1), strict=True)
    ]
    columns = actions.reshape(500, -1)
    expected = torch.stack([part.log_prob(columns[:, place]) for place, part in enumerate(parts)]).sum(0)
    assert torch.isfinite(expected).all()  # nothing forbidden was drawn
    torch.testing.assert_close(distribution.log_prob(parameters, actions), expected)
    torch.testing.assert_close(distribution.entropy(parameters), torch.stack([part.entropy() for part in parts]).sum(0))
    assert torch.equal(distribution.mode(parameters).reshape(500, -1), torch.stack([part.mode for part in parts], 1))
    (gradient,) = torch.autograd.grad(distribution.log_prob(parameters, actions).sum() + distribution.entropy(parameters).sum(), raw)
    assert torch.isfinite(gradient).all() and not gradient[~allowed].any()


def test_masks_belong_to_their_own_kinds_of_observations():
    space = Dict(
        {"kind": Box(0, 2, (), np.uint8), "0.vector": Box(0, 1, (1,)), "1.action_mask": MultiBinary(2), "2.action_mask": MultiBinary(3)}
    )
    mask = make_mask(space, 5, several_kinds=True)
    obs = {
        "kind": torch.tensor([0, 1, 2]),
        "1.action_mask": torch.tensor([[0, 0], [0, 1], [0, 0]]),
        "2.action_mask": torch.tensor([[0, 0, 0], [0, 0, 0], [1, 0, 1]]),
    }
    assert mask.allowed(obs).int().tolist() == [[1, 1, 1, 1, 1], [1, 0, 1, 1, 1], [1, 1, 0, 1, 1]]
    assert make_mask(make_suite("toy/three").observation_space, 3, several_kinds=False) is None


def test_masks_that_make_no_sense_are_a_sentence():
    np.testing.assert_array_equal(read_mask(([1, 0], [0, 0, 1]), MultiDiscrete([2, 3])), [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(read_mask(np.array([True, False]), Discrete(2)), [1, 0])
    for mask, space, said in (
        ([0, 0, 0], Discrete(3), "action_mask forbids every action"),
        (([1, 0], [0, 0]), MultiDiscrete([2, 2]), "action_mask forbids every value of choice 1"),
        ([1, 1], Discrete(3), "action_mask has 2 values instead of 3, one for each action"),
        ({"b": [1, 1]}, Dict(a=Discrete(2)), r"action_mask has the parts \['b'\] instead of \['a'\]"),
    ):
        with pytest.raises(MisfitError, match=said):
            read_mask(mask, space)


def test_masks_of_nested_choices_stand_in_the_order_of_the_actions():
    """As `sample` of Gymnasium's spaces takes them: whatever it draws under a mask, the mask that policies read allows."""
    space = Dict(b=Tuple((Discrete(3, start=5), MultiDiscrete([2, 4]))), a=Discrete(2))
    masks = [np.array(mask, np.int8) for mask in ([0, 1], [0, 1, 0], [1, 0], [0, 0, 1, 1])]
    mask = {"b": (masks[1], (masks[2], masks[3])), "a": masks[0]}
    flat, (_, to_environment) = read_mask(mask, space), canonical_actions(space)
    assert flat.tolist() == [0, 1, 0, 1, 0, 0, 0, 1, 1, 0, 1]
    counts = choices_of(space)
    values = [np.flatnonzero(part) for part in np.split(flat, np.cumsum(counts)[:-1])]

    def numbers(action):
        return (int(action["a"]), int(action["b"][0]), *map(int, action["b"][1]))

    ours = {numbers(to_environment(np.array(choice))) for choice in itertools.product(*values)}
    assert counts == (3, 2, 4, 2) and {numbers(space.sample(mask=mask)) for _ in range(50)} == ours == {(1, 6, 0, 2), (1, 6, 0, 3)}


def test_a_mask_that_policies_do_not_read_is_said():
    """Of other actions than choices, and one that comes too late."""

    class Numbers(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {"action_mask": np.ones(1)}

    class Late(gymnasium.Env):
        observation_space, action_space = Box(-1, 1, (2,)), Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.zeros(2, np.float32), 0.0, False, False, {"action_mask": np.ones(2)}

    for kind in (Numbers, Late):
        gymnasium.register(f"Masks{kind.__name__}-v0", kind)
    with pytest.warns(UserWarning, match="policies do not read its action_mask, since its actions are Box"):
        make_suite("gym/MasksNumbers-v0")
    env = make_suite("gym/MasksLate-v0").tasks[0].make_env()
    env.reset(seed=0)
    with pytest.raises(MisfitError, match=r"the first reset had none; give it there as well.*\(after step 1\)"):
        env.step(0)


@pytest.mark.parametrize("tolerant", [False, True])
def test_a_mask_that_forbids_everything_is_a_fault_of_its_task(tolerant, monkeypatch):
    tasks = make_vector(make_suite("gym/CartPole-v1,Forbids1-v0"), 2, seed=0, tolerant=tolerant)
    monkeypatch.setattr(Forbids, "show", lambda self: (np.zeros(3, np.float32), {"action_mask": np.zeros(4)}))
    said = r"action_mask forbids every action \(at the beginning of an episode\)"
    if not tolerant:
        with pytest.raises(TaskFault, match="Forbids1-v0: " + said):
            tasks.reset()
    else:
        tasks.reset()
        vectors = np.zeros((2, *tasks.suite.action_space.shape), np.float32)
        vectors[1, 0] = 1
        assert {fault.task_id for fault in tasks.step(vectors).faults} == {1}


def test_masks_of_other_actions_are_read_as_what_they_are():
    space = Dict({"x": Box(0, 1, (3,)), "action_mask": MultiBinary(2)})
    plain = type("Presses", (gymnasium.Env,), {"observation_space": space, "action_space": MultiBinary(2)})
    gymnasium.register("Presses-v1", lambda: plain())
    assert set(make_suite("gym/Presses-v1").observation_space) == {"vector"}
    wrong = type("Wrong", (gymnasium.Env,), {"observation_space": space, "action_space": Discrete(3)})
    gymnasium.register("Wrong-v0", lambda: wrong())
    with pytest.raises(SuiteError, match="action_mask"):
        make_suite("gym/Wrong-v0")


def test_taxi_is_trained_with_the_mask_of_its_info():
    trainer = build_trainer(toy_config("gym/Taxi-v3"))
    while trainer.frames < 200:
        trainer.step()
    trainer.close()
    assert set(make_suite("gym/Taxi-v3").observation_space) == {"vector", "action_mask"}


def test_values_that_a_choice_does_not_have_are_never_drawn():
    """Not even where all values that it has are forbidden, as of an environment that has none to show."""
    distribution = MultiCategorical([2, 5])
    forbidden = torch.full((500, 7), FORBIDDEN)
    actions = distribution.sample(forbidden, torch.Generator().manual_seed(0))
    assert (actions < torch.tensor([2, 5])).all() and (distribution.mode(forbidden) < torch.tensor([2, 5])).all()
    assert torch.isfinite(distribution.log_prob(forbidden, actions)).all() and torch.isfinite(distribution.entropy(forbidden)).all()
