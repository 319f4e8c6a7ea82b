"""Several learners with a part of each batch make the update of one that has all of it."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from helpers import STEADY, assert_equal_states, collect, toy_config
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.learning.interface import NonFiniteError, UpdateResult
from mtrl.learning.learner import Learner
from mtrl.rollouts.rollout import Rollout, concatenate, take_slots
from mtrl.rollouts.stored import StoredBatch, StoredRollout, join

UPDATES = 20

EXPERIMENTS = {
    "vtrace": toy_config(**STEADY),
    "frames count, not tasks": toy_config(learner__task_weighting="frames", **STEADY),
    "popart": toy_config(model__popart=True, learner__popart_rate=0.1, **STEADY),
    "passes of the clipped surrogate": toy_config(
        learner__surrogate="clipped", learner__epochs=3, learner__critic_updates=2, learner__popart_rate=0.1, model__popart=True, **STEADY
    ),
    "memory": toy_config(model__memory=True, model__memory_size=8, **STEADY),
    "task vectors": toy_config(model__conditioning="sentence", model__heads="single", **STEADY),
    "observations are normalised": toy_config("context/pendulum", env_runners__slots=20, model__normalize_observations=True, **STEADY),
    "views of a grid": toy_config("minigrid/Empty-5x5,DoorKey-5x5", **STEADY),  # whose convolutions have weights of another layout
    "tasks are balanced": toy_config(learner__balancing="gradnorm", learner__combiner="aligned_mtl", model__trunks="shared", **STEADY),
    "tasks are compared": toy_config(curriculum__scheduler="camrl", **STEADY),
}


class Meeting:
    """Adds up over threads, as torch's process group does over processes."""

    def __init__(self, size: int):
        self._barrier = threading.Barrier(size, timeout=60)
        self._given: list[torch.Tensor | None] = [None] * size

    def total(self, rank: int):
        def total(tensor: torch.Tensor) -> torch.Tensor:
            self._given[rank] = tensor.detach().clone()
            self._barrier.wait()
            summed = torch.stack([given for given in self._given if given is not None]).sum(0)
            self._barrier.wait()
            return summed

        return total


class Together:
    """Learners in threads, each with every n-th slot."""

    def __init__(self, config: ExperimentConfig, size: int):
        meeting, suite = Meeting(size), make_suite(config.suite.name)
        self.learners = [Learner(config, suite, rank=rank, total=meeting.total(rank)) for rank in range(size)]
        self._threads = ThreadPoolExecutor(size)

    def update(self, rollout: Rollout, progress: float) -> list[UpdateResult]:
        size = len(self.learners)
        parts = [take_slots(rollout, np.arange(rank, rollout.num_slots, size)) for rank in range(size)]
        futures = [self._threads.submit(learner.update, part, progress) for learner, part in zip(self.learners, parts, strict=True)]
        return [future.result() for future in futures]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_two_learners_with_half_a_batch_each_are_one_with_all_of_it(name):
    config = EXPERIMENTS[name]
    alone, together = Learner(config, make_suite(config.suite.name)), Together(config, 2)
    for step, rollout in enumerate(collect(config, UPDATES)):
        expected = alone.update(rollout, step / UPDATES)
        # Both may evaluate the same row, and each reports its experts on rows of its own: these figures are left out.
        for result in together.update(rollout, step / UPDATES):
            assert result.means.keys() == expected.means.keys()
            for key, value in result.means.items():
                assert value == pytest.approx(expected.means[key], rel=1e-3, abs=1e-4), key
            for ours, theirs in zip(result.task_values, expected.task_values, strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
            if expected.similarity is not None:
                np.testing.assert_allclose(result.similarity, expected.similarity, atol=1e-3)
    for learner in together.learners:
        assert_equal_states(alone.state_dict(), learner.state_dict())
    moved = Learner(config, make_suite(config.suite.name)).state_dict()["policy"]
    assert any((tensor - moved[key]).abs().max() > 1e-3 for key, tensor in alone.state_dict()["policy"].items())


@pytest.mark.parametrize("of", ["observations", "steps", "traces"])
def test_learners_with_minibatches_of_their_own_stay_equal(of):
    config = toy_config(learner__surrogate="clipped", learner__epochs=2, learner__minibatches=4, learner__minibatch_of=of)
    together = Together(config, 3)
    for rollout in collect(config, 5):
        together.update(rollout, 0.0)
    first, *others = (learner.state_dict()["policy"] for learner in together.learners)
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_a_step_that_one_of_them_cannot_make_is_made_by_none():
    config = toy_config()
    together = Together(config, 2)
    before = copy.deepcopy(together.learners[0].state_dict()["policy"])
    (rollout,) = collect(config, 1)
    rewards = rollout.rewards.copy()
    rewards[:, 0] = np.nan  # the first task's first slot, which goes to the first learner
    broken = rollout._replace(rewards=rewards)
    for _ in range(19):
        together.update(broken, 0.0)
    assert [learner.skipped_steps for learner in together.learners] == [19, 19]
    assert all(torch.equal(tensor, before[name]) for name, tensor in together.learners[1].state_dict()["policy"].items())
    with pytest.raises(NonFiniteError, match=f"the task at fault is {make_suite(config.suite.name).names[0]}"):
        together.update(broken, 0.0)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(1, 4), seed=st.integers(0, 99))
def test_parts_are_whole_slots_and_lose_none(size, seed):
    (rollout,) = collect(toy_config(seed=seed), 1)
    parts = [take_slots(rollout, np.arange(rank, rollout.num_slots, size)) for rank in range(size)]
    again = concatenate(parts)
    assert again.num_frames == rollout.num_frames
    assert sorted(map(bytes, again.rewards.T.copy())) == sorted(map(bytes, rollout.rewards.T.copy()))
    assert all((np.diff(part.task_ids) >= 0).all() for part in parts)


@settings(max_examples=50, deadline=None)
@given(count=st.integers(1, 6), learners=st.integers(1, 4), seed=st.integers(0, 99))
def test_parts_of_stored_rollouts_are_a_batch_divided(count, learners, seed):
    """Each slot of the batch goes to one learner, which finds it where the batch's order says."""
    rollouts = [collect(toy_config(seed=seed + each), 1)[0] for each in range(count)]
    batch = join([StoredRollout([each], rollout.outline) for each, rollout in enumerate(rollouts)])
    assert isinstance(batch, StoredBatch)
    whole = join(rollouts)
    assert isinstance(whole, Rollout)
    for ours, expected in zip(batch.outline[:5], whole.outline[:5], strict=True):
        np.testing.assert_array_equal(ours, expected)
    parts = [batch.part(rank, learners) for rank in range(learners)]
    assert sorted(np.concatenate([part.slots for part in parts])) == list(range(whole.num_slots))
    assert len({len(part.positions) for part in parts}) == 1
    for part in parts:
        taken = concatenate([rollouts[position] for position in part.positions])
        own = taken if part.whole else take_slots(taken, part.slots)
        np.testing.assert_array_equal(own.rewards, whole.rewards[:, part.slots])
        np.testing.assert_array_equal(own.actions, whole.actions[:, part.slots])


def test_learners_without_ray_are_refused():
    with pytest.raises(ConfigError, match=r"learners.num_learners is 2, but env_runners.num_env_runners 0"):
        toy_config(learners__num_learners=2)
