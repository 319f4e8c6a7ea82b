"""Bonuses for novelty: first visits, the papers' formulas by hand, errors that fall with visits, and a corridor that needs them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import collect, fingerprint, toy_config

from envs import make_suite
from mtrl.config import NoveltyConfig, override
from mtrl.learning.batch import make_batch
from mtrl.learning.learner import Learner
from mtrl.learning.novelty import Novelty
from mtrl.models.rows import Rows
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import concatenate, take_slots
from mtrl.rollouts.visits import EpisodeVisits

CPU = torch.device("cpu")
ON = {"learner__novelty": {"weight": 0.1}}


def batch_of(config, rollout):
    suite = make_suite(config.suite.name)
    return make_batch(rollout, suite.num_tasks, discount=0.99, share_power=0.0, share_repeats=True, device=CPU)


def novelty_of(config, **changes):
    suite = make_suite(config.suite.name)
    return Novelty(NoveltyConfig(weight=1.0, **changes), config.model, suite, CPU, seed=0)


class TestFirstVisits:
    def test_by_hand(self):
        """Two environments of one task. An episode's first observation counts as seen; another begins with the step after its end."""
        visits = EpisodeVisits()

        def obs(*numbers):
            return {"x": np.array(numbers, np.int64)[:, None]}

        visits.start(np.zeros(2, np.int64), obs(0, 0))
        assert visits.step(obs(1, 0), np.array([True, True])).tolist() == [True, False]
        assert visits.step(obs(0, 5), np.array([True, True])).tolist() == [False, True]
        assert visits.step(obs(1, 5), np.array([False, True])).tolist() == [False, False]  # the first one begins an episode with 1
        visits.start(np.zeros(2, np.int64), obs(1, 5))  # another unroll, the same episodes
        assert visits.step(obs(0, 0), np.array([True, True])).tolist() == [True, False]

    def test_slots_that_pause_keep_their_episodes(self):
        visits = EpisodeVisits()
        both, one = np.array([0, 1]), np.array([0])
        visits.start(both, {"x": np.array([[1], [2]])})
        visits.step({"x": np.array([[1], [3]])}, np.ones(2, bool))
        visits.start(one, {"x": np.array([[1]])})
        visits.start(both, {"x": np.array([[1], [3]])})
        assert visits.step({"x": np.array([[7], [2]])}, np.ones(2, bool)).tolist() == [True, False]

    def test_each_kind_of_a_mixed_suite_by_itself(self):
        """Numbers of one kind do not hide that a view of the other kind has come again, and an action mask is no part of a view."""
        visits = EpisodeVisits()

        def obs(number, view, mask):
            arrays = {"0.vector": [[number], [0]], "1.image": [[0], [view]], "1.action_mask": [[0], [mask]], "kind": [0, 1]}
            types = {"0.vector": np.float32, "1.image": np.uint8, "1.action_mask": np.int8, "kind": np.uint8}
            return {name: np.array(values, types[name]) for name, values in arrays.items()}

        visits.start(np.array([0, 1]), obs(0.5, 3, 0))
        assert visits.step(obs(0.5, 3, 1), np.ones(2, bool)).tolist() == [True, False]
        assert visits.step(obs(0.5, 4, 1), np.ones(2, bool)).tolist() == [True, True]

    def test_what_is_kept_of_a_screen_is_small(self):
        visits = EpisodeVisits()
        visits.start(np.array([0]), {"frames": np.zeros((1, 4, 84, 84), np.uint8)})
        visits.step({"frames": np.ones((1, 4, 84, 84), np.uint8)}, np.ones(1, bool))
        assert [len(key) for seen in visits._slots for key in seen] == [16, 16]

    def test_a_collectors_are_those_of_its_rollouts(self):
        """Counted again from the observations, over several unrolls, with every episode of every slot."""
        config = toy_config("minigrid/Empty-5x5,DoorKey-5x5", env_runners__slots=6, env_runners__unroll_length=40, **ON)
        collector = build_collector(config, make_suite(config.suite.name), runner=0)
        rollouts = [collector.collect().rollout for _ in range(6)]
        for slot in range(6):
            seen: set[bytes] = set()
            for number, rollout in enumerate(rollouts):
                keys = [b"".join(rollout.obs[name][t, slot].tobytes() for name in sorted(rollout.obs)) for t in range(41)]
                if number == 0:
                    seen = {keys[0]}
                for t in range(40):
                    if not rollout.valid[t, slot]:
                        seen = set()
                    assert rollout.first_visits[t, slot] == (rollout.valid[t, slot] and keys[t + 1] not in seen)
                    seen.add(keys[t + 1])

    def test_they_follow_their_slots(self):
        rollouts = collect(toy_config(**ON), 2)
        joined = concatenate(rollouts)
        one = take_slots(joined, np.array([0, 3]))
        np.testing.assert_array_equal(one.first_visits, joined.first_visits[:, [0, 3]])
        assert joined.first_visits.sum() == sum(rollout.first_visits.sum() for rollout in rollouts) > 0
        assert collect(toy_config(), 1)[0].first_visits is None


class TestBonuses:
    @pytest.mark.parametrize("rule", ["rnd", "noveld"])
    def test_are_the_papers(self, rule):
        """max(n(x') - α n(x), 0) or n(x') at first visits, over the root of each task's mean square, recomputed step by step."""
        config = toy_config(env_runners__slots=9, env_runners__unroll_length=12, **ON)
        (rollout,) = collect(config, 1)
        novelty, batch = novelty_of(config, rule=rule), batch_of(config, rollout)
        found = novelty.bonuses(batch, rollout.first_visits)
        errors = novelty._errors(batch.observations.rows).detach().numpy()
        raw = np.zeros((12, 9))
        for t in range(12):
            for slot in range(9):
                before, after = (errors[int(batch.observations.inverse[step, slot])] for step in (t, t + 1))
                bonus = max(after - 0.5 * before, 0) if rule == "noveld" else after
                raw[t, slot] = bonus if rollout.valid[t, slot] and rollout.first_visits[t, slot] else 0.0
        for task in range(3):
            own = rollout.task_ids == task
            scale = np.sqrt((raw[:, own] ** 2).sum() / rollout.valid[:, own].sum())
            np.testing.assert_allclose(found[:, torch.from_numpy(own)], raw[:, own] / scale, rtol=1e-4)

    def test_the_error_falls_with_visits_and_not_elsewhere(self):
        """Trained on one task's observations alone, the prediction of another's stays worse."""
        config = toy_config("minigrid/Empty-5x5,DoorKey-5x5", env_runners__slots=6, env_runners__unroll_length=64, **ON)
        (rollout,) = collect(config, 1)
        novelty = novelty_of(config, learning_rate=1e-3, updates=20)
        batch = batch_of(config, rollout)
        own = batch_of(config, take_slots(rollout, np.flatnonzero(rollout.task_ids == 0)))

        def errors():
            rows: Rows = batch.observations.rows
            means = novelty._errors(rows).detach()
            return [float(means[rows.task_ids == task].mean()) for task in range(2)]

        before = errors()
        first = novelty.learn(own)
        for _ in range(9):
            last = novelty.learn(own)
        after = errors()
        assert last < 0.1 * first
        assert after[0] < 0.2 * before[0] and after[1] > 2 * after[0]

    def test_learners_with_parts_are_one_with_all(self):
        """The totals of two parts, each added to what the other had."""
        config = toy_config(env_runners__slots=6, **ON)
        (rollout,) = collect(config, 1)
        parts = [take_slots(rollout, np.arange(rank, 6, 2)) for rank in range(2)]
        whole, half = novelty_of(config), novelty_of(config)
        expected = whole.bonuses(batch_of(config, rollout), rollout.first_visits)
        given: list[torch.Tensor] = []
        copy.deepcopy(half).bonuses(batch_of(config, parts[1]), parts[1].first_visits, total=lambda tensor: given.append(tensor) or tensor)
        found = half.bonuses(batch_of(config, parts[0]), parts[0].first_visits, total=lambda tensor: tensor + given[0])
        np.testing.assert_allclose(found, expected[:, 0::2], rtol=1e-4)


def test_bonuses_are_learned_from_and_shown():
    config = toy_config(**ON)
    (rollout,) = collect(config, 1)
    learner = Learner(config, make_suite(config.suite.name))
    batch = learner.make_batch(rollout)
    with_bonuses, figures = learner._with_bonuses(batch, rollout, progress=0.5)
    assert float((with_bonuses.rewards - batch.rewards).min()) >= 0 and figures["novelty_bonus"] > 0
    fresh = Learner(config, make_suite(config.suite.name))
    early, _ = fresh._with_bonuses(batch, rollout, progress=0.0)
    np.testing.assert_allclose(early.rewards - batch.rewards, 2 * (with_bonuses.rewards - batch.rewards), rtol=1e-4, atol=1e-7)
    assert {"novelty_bonus", "novelty_error"} <= learner.update(rollout, 0.0).means.keys()
    assert Learner(toy_config(), make_suite("toy/three"))._novelty is None


def test_a_resumed_learner_goes_on_exactly():
    config = toy_config(**ON)
    suite, rollouts = make_suite(config.suite.name), collect(config, 4)
    first, second = Learner(config, suite), Learner(config, suite)
    for rollout in rollouts[:2]:
        first.update(rollout, 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for rollout in rollouts[2:]:
        first.update(rollout, 0.0)
        second.update(rollout, 0.0)
    assert fingerprint(first.state_dict()) == fingerprint(second.state_dict())
    plain = Learner(override(config, {"learner.novelty.weight": 0.0}), suite)
    plain.load_state_dict(first.state_dict())  # without bonuses from here on, and with them again
    first.load_state_dict(plain.state_dict())


def test_learners_exchange_the_same_numbers_whatever_they_have_seen():
    """One of several learners may have no slot of a kind of observations, and waits for as many numbers as the others send."""
    config = toy_config("toy/corridor+minigrid/Empty-5x5", env_runners__slots=4)
    (rollout,) = collect(config, 1)
    sent = []
    for slots in (np.arange(4), np.flatnonzero(rollout.task_ids == 0)):
        sizes = []

        def total(numbers, sizes=sizes):
            sizes.append(numbers.numel())
            return numbers

        novelty_of(config).learn(batch_of(config, take_slots(rollout, slots)), total)
        sent.append(sizes)
    assert sent[0] == sent[1]


def test_observations_are_normalised_for_it_too():
    config = override(toy_config("context/pendulum", env_runners__slots=20, **ON), {"model.normalize_observations": True})
    suite = make_suite(config.suite.name)
    learner = Learner(config, suite)
    for rollout in collect(config, 3):
        learner.update(rollout, 0.0)
    own = learner.policy.actor.trunk.encoder.scale
    for network in (learner._novelty._predictor, learner._novelty._target):
        assert network.encoder.scale.count.sum() > 0.9 * own.count.sum() > 0
        torch.testing.assert_close(network.encoder.scale.mean, own.mean, rtol=0.2, atol=0.2)


def test_nothing_is_learned_of_levels_that_are_only_rated():
    config = toy_config(suite__env_workers=0, curriculum__levels__sampler="plr_robust", **ON)
    (rollout,) = collect(config, 1)
    assert rollout.levels.only_rated.all()
    novelty, batch = novelty_of(config), batch_of(config, rollout._replace(initial_memory=None))
    novelty.bonuses(batch, rollout.first_visits)
    assert float(novelty._steps.sum()) == 0
    seen = float(novelty._visits(batch).sum())
    assert seen == float((~batch.valid).sum()) < float(batch.valid.sum()), "the first observations of episodes alone"


def test_a_resumed_run_has_its_own_learning_rate():
    config = toy_config(**ON)
    first = Learner(config, make_suite(config.suite.name))
    first.update(collect(config, 1)[0], 0.0)
    second = Learner(override(config, {"learner.novelty.learning_rate": 0.03}), make_suite(config.suite.name))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert second._novelty._optimizer.param_groups[0]["lr"] == 0.03
