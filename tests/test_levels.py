"""Curricula over levels: which level an episode plays, how it is rated, and what is learned from it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from helpers import collect, fingerprint, toy_config

from envs import make_suite, make_vector
from envs.levels import EditSettings, Level, ParameterSpace
from envs.seeds import SeedSequences
from envs.suites.context import WORLDS
from mtrl.config import ConfigError, ExperimentConfig, LevelsConfig, without_effect
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.decisions import Decider, Decision, agrees, from_line, repeat_decisions, to_line
from mtrl.curriculum.levels import LevelEpisode, LevelPlan, make_level_curriculum
from mtrl.curriculum.levels.buffer import LevelBuffer
from mtrl.curriculum.levels.priorities import by_rank, by_staleness, effective_number, replay_probabilities
from mtrl.curriculum.levels.sampler import CANDIDATES, MOST_UNIFORM, LevelSampler
from mtrl.curriculum.levels.scores import score_of
from mtrl.evaluation.jobs import play
from mtrl.learning.learner import Learner
from mtrl.learning.level_signals import LevelSignals, merged
from mtrl.rollouts.levels import LevelDraws
from mtrl.rollouts.rollout import Rollout, RolloutLevels, concatenate, take_slots
from mtrl.storage.checkpoint import load_checkpoint, save_checkpoint
from mtrl.training.level_episodes import LevelEpisodes
from mtrl.training.trainer import Trainer, build_trainer

CORRIDOR = make_suite("toy/corridor").tasks[0]
VARIED = make_suite("context/cartpole:all").tasks[0]


def levels_config(sampler: str, suite: str = "toy/three", **changes: Any) -> ExperimentConfig:
    named = {f"curriculum__levels__{name}": value for name, value in changes.items()}
    return toy_config(suite, suite__env_workers=0, curriculum__levels__sampler=sampler, **named)


def sampler_of(name: str, task: Any = CORRIDOR, **settings: Any) -> LevelSampler:
    return LevelSampler(LevelsConfig(sampler=name, **settings), task, seed=3, place=0)  # type: ignore[arg-type]


def episode(level: int, score: float, *, only_rated: bool = False, task: int = 0) -> LevelEpisode:
    """An episode of ten steps that every rule gives this score, MaxMC aside."""
    return LevelEpisode(task, level, only_rated, 10, 1.0, 0.5, score, score, score)


class Draws:
    """Levels 0, 1, 2, …, again and again."""

    def __init__(self, count: int, parameters: Sequence[Sequence[float]] = ()):
        self._count, self._parameters, self._drawn = count, parameters, 0

    def draw(self, task: int) -> Level:
        number = self._drawn % self._count
        self._drawn += 1
        return Level(number, tuple(self._parameters[number]) if self._parameters else (), only_rated=number % 2 == 1)


class TestReplay:
    """The replay distribution."""

    def test_by_hand(self):
        # β = ½: 1/rank² is 1/9, 1 and 1/4 for the ranks 3, 1 and 2. Waited: 5 - (1, 4, 3) = 4, 1 and 2 episodes.
        scores, last_played = np.array([0.2, 0.8, 0.5]), np.array([1, 4, 3])
        ranked, stale = np.array([4, 36, 9]) / 49, np.array([4, 1, 2]) / 7
        np.testing.assert_allclose(by_rank(scores, 0.5), ranked)
        np.testing.assert_allclose(by_staleness(last_played, 5), stale)
        mixed = replay_probabilities(scores, last_played, 5, temperature=0.5, staleness=0.1)
        np.testing.assert_allclose(mixed, 0.9 * ranked + 0.1 * stale)

    def test_nobody_has_waited(self):
        np.testing.assert_allclose(by_staleness(np.array([7, 7]), 7), [0.5, 0.5])

    def test_the_effective_number_counts_what_is_drawn(self):
        assert effective_number(np.array([0.25, 0.25, 0.5, 0.0])) == pytest.approx(2**1.5)


class TestBuffer:
    """Rated levels."""

    def test_a_full_one_keeps_the_highest_scores(self):
        buffer = LevelBuffer(2, 0)
        for clock, (number, score) in enumerate([(5, 0.3), (6, 0.1), (7, 0.2), (8, 0.2)], 1):
            buffer.offer(number, np.zeros(0), score, 0.0, clock)
        assert buffer.numbers.tolist() == [5, 7]  # 7 takes the place of 6, and 8 has no more than 7
        assert 6 not in buffer and 7 in buffer and buffer.last_played.tolist() == [1, 3]

    def test_a_smaller_one_goes_on_with_the_best_of_a_state(self):
        large, small = LevelBuffer(100, 1), LevelBuffer(3, 1)
        for number in range(80):
            large.offer(number, np.array([number / 2]), float(number % 10), 1.0, number)
        small.load_state_dict(large.state_dict())
        assert small.numbers.tolist() == [9, 19, 29]
        assert small.parameters_of(19).tolist() == [9.5]


def test_scores_by_hand():
    rated = LevelEpisode(0, 0, False, 4, 0.5, value=0.3, positive_advantage=0.1, absolute_advantage=0.25, td_error=0.2)
    assert score_of("positive_value_loss", rated, 0.9) == 0.1
    assert score_of("max_monte_carlo", rated, 0.9) == pytest.approx(0.6)
    assert score_of("one_step_td_error", rated, 0.9) == 0.2
    assert score_of("value_l1", rated, 0.9) == 0.25


class TestSampler:
    """Plans of one task."""

    def test_uniform_plays_all_training_levels_alike(self):
        plan = sampler_of("uniform", training_levels=5).plan()
        assert plan.numbers.tolist() == [0, 1, 2, 3, 4] and not plan.only_rated.any()
        np.testing.assert_allclose(plan.probabilities, 0.2)

    def test_uniform_draws_from_more_levels_than_a_plan_has_room_for(self):
        sampler = sampler_of("uniform", training_levels=10 * MOST_UNIFORM)
        first = sampler.plan().numbers
        sampler.add(episode(0, 1.0))
        assert len(first) == MOST_UNIFORM and first.max() > 5 * MOST_UNIFORM
        assert not np.array_equal(sampler.plan().numbers, first)

    @pytest.mark.parametrize(("name", "only_rated"), [("plr", False), ("plr_robust", True)])
    def test_half_of_the_episodes_replay_and_the_others_play_what_is_not_rated(self, name, only_rated):
        sampler = sampler_of(name, training_levels=10, temperature=0.5, staleness=0.1)
        assert sorted(sampler.plan().numbers) == list(range(10))
        for level, score in ((4, 0.2), (2, 0.8), (9, 0.5)):
            sampler.add(episode(level, score))
        plan = sampler.plan()
        assert plan.numbers[:3].tolist() == [4, 2, 9] and sorted(plan.numbers[3:]) == [0, 1, 3, 5, 6, 7, 8]
        # Clock 3, and the levels were played at 1, 2 and 3: waited 2, 1 and 0.
        replayed = 0.9 * np.array([4, 36, 9]) / 49 + 0.1 * np.array([2, 1, 0]) / 3
        np.testing.assert_allclose(plan.probabilities, [*0.5 * replayed, *[0.5 / 7] * 7])
        assert plan.only_rated.tolist() == [False] * 3 + [only_rated] * 7

    def test_replays_always_when_all_are_rated(self):
        sampler = sampler_of("plr_robust", training_levels=3)
        for level in range(3):
            sampler.add(episode(level, 0.1 * level))
        assert sampler.plan().numbers.tolist() == [0, 1, 2] and not sampler.plan().only_rated.any()
        assert sampler.plan().probabilities.sum() == pytest.approx(1.0)

    def test_max_monte_carlo_remembers_the_best_return(self):
        sampler = sampler_of("plr", score="max_monte_carlo")
        for won in (1.0, 0.0):  # the mean value is 0.25
            sampler.add(LevelEpisode(0, 7, False, 4, won, 0.25, 0.0, 0.0, 0.0))
        assert sampler.buffer.scores.tolist() == [0.75]

    def test_accel_edits_what_was_replayed_and_only_rates_the_edit(self):
        sampler = sampler_of("accel", VARIED, training_levels=1000, replay_probability=0.8, edit_size=0.05)
        sampler.add(episode(11, 1.0, only_rated=True))
        assert not (sampler.plan().numbers >= 1000).any()  # nothing was replayed
        sampler.add(episode(11, 1.0))
        plan = sampler.plan()
        assert plan.numbers[-1] == 1000 and plan.only_rated[-1]
        # Replayed, new and edited levels as 0.8 to 0.2 to 0.8.
        np.testing.assert_allclose([plan.probabilities[0], plan.probabilities[1:-1].sum(), plan.probabilities[-1]], np.array([4, 1, 4]) / 9)
        space = VARIED.level_parameters
        assert space is not None
        ranges = np.subtract(space.high, space.low)
        moved = np.abs(plan.parameters[-1] - space.of_training_levels(1000)[11]) / ranges
        assert 0 < moved.max() < 0.05 * 5
        sampler.add(episode(1000, 2.0, only_rated=True))
        assert sampler.plan().numbers[:2].tolist() == [11, 1000] and sampler.plan().numbers.max() == 1000

    def test_edits_stay_within_the_bounds(self):
        space, rng = ParameterSpace(("a", "b"), (0.0, 5.0), (1.0, 15.0)), np.random.default_rng(0)
        changes = np.array([space.edited(np.array([0.5, 10.0]), EditSettings(0.2, "uniform", 1), rng) for _ in range(300)])
        assert 0.19 < np.abs(changes[:, 0] - 0.5).max() <= 0.2 and 1.9 < np.abs(changes[:, 1] - 10.0).max() <= 2.0
        wide = np.array([space.edited(np.array([0.0, 15.0]), EditSettings(1.0, "gaussian", 1), rng) for _ in range(300)])
        assert wide[:, 0].min() == 0.0 and wide[:, 1].max() == 15.0

    def test_a_training_level_has_the_same_parameters_whatever_their_number(self):
        space = VARIED.level_parameters
        assert space is not None
        np.testing.assert_array_equal(space.of_training_levels(50)[:7], space.of_training_levels(7))

    @pytest.mark.parametrize("name", ["plr", "plr_robust", "accel"])
    def test_goes_on_from_its_state(self, name, tmp_path):
        one, other = (sampler_of(name, VARIED, training_levels=300, buffer_size=40) for _ in range(2))
        rng = np.random.default_rng(1)
        for _ in range(60):
            plan = one.plan()
            place = rng.choice(len(plan.numbers), p=plan.probabilities)
            one.add(episode(int(plan.numbers[place]), rng.random(), only_rated=bool(plan.only_rated[place])))
        save_checkpoint(tmp_path, 1, {"levels": one.state_dict()}, tasks=("t",), keep=1)
        other.load_state_dict(load_checkpoint(tmp_path / "1").components["levels"])
        for _ in range(3):
            assert fingerprint(other.plan()._asdict()) == fingerprint(one.plan()._asdict())
            for sampler in (one, other):
                sampler.add(episode(int(one.buffer.numbers[0]), 0.7))

    def test_a_decision_about_ten_thousand_levels_takes_less_than_five_milliseconds(self):
        sampler = sampler_of("plr", training_levels=20_000, buffer_size=10_000)
        rng = np.random.default_rng(0)
        for level in rng.permutation(20_000)[:10_000].tolist():
            sampler.add(episode(level, float(rng.random())))
        seconds = []
        for _ in range(20):
            begin = time.perf_counter()
            sampler.add(episode(int(sampler.buffer.numbers[0]), 0.5))
            plan = sampler.plan()
            seconds.append(time.perf_counter() - begin)
        assert len(plan.numbers) == 10_000 + CANDIDATES
        print(f"a decision about 10,000 levels took {min(seconds) * 1e3:.2f} ms")
        assert min(seconds) < 5e-3


class TestEnvironments:
    """Levels on their way into environments."""

    @pytest.mark.parametrize(
        ("suite", "options"),
        [
            ("minigrid/MultiRoom-N2-S4", {}),
            ("minigrid/MultiRoom-N2-S4", {"env_workers": 2, "cores": 2}),
            ("babyai/GoToObj", {}),
            ("gym/CartPole-v1+toy/corridor", {}),
        ],
    )
    def test_all_episodes_of_a_level_begin_alike(self, suite, options):
        tasks = make_vector(make_suite(suite), 4, levels=Draws(3), **options)
        first: dict[tuple[int, int], bytes] = {}
        obs, begins = tasks.reset(), np.ones(4, bool)
        episodes = 0
        for _ in range(250):
            playing = tasks.levels
            assert playing is not None
            for slot in np.flatnonzero(begins):
                shown = b"".join(array[slot].tobytes() for array in obs.values())
                assert first.setdefault((int(tasks.task_ids[slot]), int(playing.numbers[slot])), shown) == shown
                assert playing.only_rated[slot] == (playing.numbers[slot] == 1)
                episodes += 1
            step = tasks.step(np.stack([tasks.suite.action_space.sample() for _ in range(4)]))
            obs, begins = step.obs, ~step.valid
        tasks.close()
        assert episodes > 8 and len(set(first.values())) > 1

    def test_procgens_levels_are_those_of_procgen(self):
        pytest.importorskip("envpool")
        try:
            suite = make_suite("procgen/CoinRun")
        except Exception as error:
            pytest.skip(str(error))
        tasks = make_vector(suite, 2, levels=Draws(2))
        ours = next(iter(tasks.reset().values()))
        tasks.close()
        from envs.backends.envpool import make_pool

        pool = make_pool("CoinrunEasy-v0", [5], num_threads=1, num_levels=1, start_level=1)
        theirs, _ = pool.reset()
        np.testing.assert_array_equal(ours[1], next(iter(suite.adapt(theirs).values()))[0])
        assert (ours[0] != ours[1]).any()

    @pytest.mark.parametrize("workers", [0, 2])
    def test_parameters_reach_the_simulator(self, workers):
        # A pole of length 0.05 with a tenth of the gravity, and a long one: the same pushes move the first one further.
        parameters = [[0.05, 0.1, 0.01, 9.8], [5.0, 10.0, 1.0, 9.8]]
        tasks = make_vector(make_suite("context/cartpole:all"), 2, levels=Draws(2, parameters), env_workers=workers, cores=2)
        begin = tasks.reset()["vector"]
        end = tasks.step(np.array([1, 1])).obs["vector"]
        tasks.close()
        env: Any = gymnasium.make("CartPole-v1").unwrapped
        for slot, values in enumerate(parameters):
            env.reset(seed=slot)
            for name, value in zip(WORLDS["cartpole"].parameters, values, strict=True):
                WORLDS["cartpole"].apply(env, name, value)
            np.testing.assert_allclose(begin[slot], env.state, rtol=1e-6)
            np.testing.assert_allclose(end[slot], env.step(1)[0], rtol=1e-5)

    def test_paused_environments_keep_their_level(self):
        tasks = make_vector(make_suite("toy/three"), [2, 1, 0], levels=Draws(100))
        tasks.reset()
        assert tasks.levels is not None and tasks.levels.numbers.tolist() == [0, 1, 2]
        tasks.set_allocation([1, 0, 2])
        assert tasks.levels.numbers.tolist() == [0, 3, 4]
        tasks.set_allocation([2, 1, 0])
        assert tasks.levels.numbers.tolist() == [0, 1, 2] and tasks.levels.environments.tolist() == [0, 1, 0]

    def test_envpool_is_refused(self):
        with pytest.raises(ConfigError, match=r"curriculum.levels.sampler is 'plr', but EnvPool .* set suite.backend"):
            toy_config(curriculum__levels__sampler="plr", suite__backend="envpool")


class TestEpisodes:
    """Episodes summed up over unrolls."""

    def test_by_hand(self):
        # One slot, γ = 1: an episode of four steps over two unrolls, a reset, and the first step of the next one.
        sums = LevelEpisodes()
        assert sums.add(*unroll([1, 1, 1], [0, 0, 0], [0.0, 0.0, 0.0], values=[0.1, 0.2, 0.3], advantages=[1.0, -1.0, 0.5])) == []
        (found,) = sums.add(*unroll([1, 0, 1], [1, 0, 0], [2.0, 0.0, 9.0], values=[0.4, 9.0, 9.0], advantages=[-0.5, 9.0, 9.0]))
        assert found[:4] == (0, 7, False, 4)
        np.testing.assert_allclose(found[4:], [2.0, 0.25, 1.5 / 4, 3.0 / 4, 3.0 / 4], rtol=1e-6)
        # The step after the reset is the first of two.
        (found,) = sums.add(*unroll([1, 0, 0], [1, 0, 0], [1.0, 0.0, 0.0], values=[1.0, 9.0, 9.0], advantages=[1.0, 9.0, 9.0]))
        assert found[3] == 2 and found.episode_return == 10.0

    def test_an_environment_that_failed_begins_anew(self):
        sums = LevelEpisodes()
        sums.add(*unroll([1, 1, 1], [0, 0, 0], [5.0] * 3, values=[1.0] * 3, advantages=[1.0] * 3))
        (found,) = sums.add(*unroll([0, 1, 1], [0, 0, 1], [0.0, 1.0, 1.0], values=[9.0, 1.0, 1.0], advantages=[9.0, 1.0, 1.0]))
        assert found[3:5] == (2, 2.0)

    def test_episodes_that_go_on_after_a_lost_learner_are_left_out(self):
        """Their beginnings were in batches of the lost learner."""
        sums = LevelEpisodes()
        sums.add(*unroll([1, 1, 1], [0, 0, 0], [5.0] * 3, values=[1.0] * 3, advantages=[1.0] * 3))
        sums.forget(episodes_go_on=True)
        assert sums.add(*unroll([1, 1, 1], [0, 0, 0], [5.0] * 3, values=[1.0] * 3, advantages=[1.0] * 3)) == []
        assert sums.add(*unroll([1, 0, 1], [1, 0, 0], [5.0, 0.0, 1.0], values=[1.0] * 3, advantages=[1.0] * 3)) == []
        (found,) = sums.add(*unroll([1, 1, 0], [0, 1, 0], [1.0, 1.0, 0.0], values=[1.0] * 3, advantages=[1.0] * 3))
        assert found[3:5] == (3, 3.0)

    def test_returns_are_those_that_environments_report(self):
        config = levels_config("uniform", training_levels=3)
        suite = make_suite(config.suite.name)
        trainer = build_trainer(config)
        sums, found, reported = LevelEpisodes(), [], []
        learner = Learner(config, suite)
        for _ in range(6):
            (collected,) = trainer._source.collect(0.0)
            reported += [(each.task_id, each.length, each.episode_return) for each in collected.episodes]
            signals = learner.update(collected.rollout, 0.0).levels
            assert signals is not None
            found += [(each.task, each.steps, each.episode_return) for each in sums.add(collected.rollout, signals)]
        trainer.close()
        assert len(found) > 10 and sorted(found) == sorted(reported)

    def test_two_rollouts_of_an_environment_in_a_batch_are_one_episode(self):
        first, of_first = unroll([1, 1, 1], [0, 0, 0], [1.0] * 3, values=[0.0] * 3, advantages=[1.0] * 3)
        last, of_last = unroll([1, 1, 1], [0, 0, 1], [1.0] * 3, values=[0.0] * 3, advantages=[1.0] * 3)
        signals = LevelSignals(*(np.concatenate(pair, axis=1) for pair in zip(of_first, of_last, strict=True)))
        (found,) = LevelEpisodes().add(concatenate([first, last]), signals)
        assert found.steps == 6

    def test_learners_figures_are_put_together_as_slots_were_divided(self):
        whole = LevelSignals(*(np.random.default_rng(0).random((4, 2, 7)).astype(np.float32)))
        parts = [LevelSignals(*(array[:, rank::3] for array in whole)) for rank in range(3)]
        for array, expected in zip(merged(parts, [np.arange(rank, 7, 3) for rank in range(3)]), whole, strict=True):
            np.testing.assert_array_equal(array, expected)


def unroll(valid, ended, rewards, *, values, advantages) -> tuple[Rollout, LevelSignals]:
    """Three steps of one slot on level 7."""

    def column(row: Any, kind: Any) -> np.ndarray:
        return np.array(row, kind)[:, None]

    levels = RolloutLevels(np.full((3, 1), 7), np.zeros((3, 1), bool), np.array([5]))
    rollout = Rollout(
        obs={"vector": np.zeros((4, 1, 8), np.float32)},
        actions=np.zeros((3, 1), np.int64),
        behaviour_log_probs=np.zeros((3, 1), np.float32),
        rewards=column(rewards, np.float32),
        terminated=column(ended, bool),
        truncated=np.zeros((3, 1), bool),
        valid=column(valid, bool),
        task_ids=np.zeros(1, np.int64),
        initial_memory=None,
        version=np.zeros(1, np.int64),
        levels=levels,
    )
    signals = (values, advantages, advantages, rewards)
    return rollout, LevelSignals(*(column(row, np.float32) for row in signals))


class TestLearning:
    """What is learned from trials: nothing."""

    @pytest.mark.parametrize("changes", [{}, {"model__popart": True}, {"learner__minibatches": 2, "learner__surrogate": "clipped"}])
    def test_a_batch_that_is_only_rated_changes_no_weight(self, changes):
        config = toy_config(suite__env_workers=0, curriculum__levels__sampler="plr_robust", **changes)
        (rollout,) = collect(config)
        assert rollout.levels is not None and rollout.levels.only_rated.all()
        learner = Learner(config, make_suite(config.suite.name))
        learner.update(rollout._replace(levels=None), 0.0)  # an ordinary one, after which optimisers have momentum
        before = {name: tensor.clone() for name, tensor in learner.policy.state_dict().items()}
        result = learner.update(rollout, 0.0)
        assert all(np.isfinite(value) for value in result.means.values())
        after = learner.policy.state_dict()
        for name, tensor in before.items():
            assert torch.equal(after[name], tensor), name

    @pytest.mark.parametrize("changes", [{}, {"learner__task_weighting": "frames", "learner__normalize_advantages": False}])
    def test_trials_beside_other_episodes_change_nothing(self, changes):
        config = toy_config(suite__env_workers=0, curriculum__levels__sampler="uniform", **changes)
        (rollout,) = collect(config)
        assert rollout.levels is not None
        only_rated = np.zeros((rollout.unroll_length, rollout.num_slots), bool)
        only_rated[:, [0, 3]] = True
        mixed = rollout._replace(levels=rollout.levels._replace(only_rated=only_rated))
        alone = take_slots(rollout, np.array([1, 2, 4, 5]))
        learners = [Learner(config, make_suite(config.suite.name)) for _ in range(2)]
        for learner, data in zip(learners, (mixed, alone), strict=True):
            learner.update(data, 0.0)
        for one, other in zip(*(learner.policy.parameters() for learner in learners), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class OneOfMany(gymnasium.Env):
    """Four steps that show the level's number. On level 7 the last action pays a quarter, on all others nothing pays."""

    observation_space = gymnasium.spaces.Box(0.0, 1.0, (16,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._level, self._steps = (0 if seed is None else seed) % 16, 0
        return self._shown(), {}

    def step(self, action):
        self._steps += 1
        return self._shown(), 0.25 * (self._level == 7 and action == 2), self._steps == 4, False, {}

    def _shown(self):
        return np.eye(16, dtype=np.float32)[self._level]


def trained(sampler: str, updates: int) -> tuple[float, Trainer]:
    """The part of the episodes that was played on level 7."""
    if "OneOfMany-v0" not in gymnasium.registry:
        gymnasium.register("OneOfMany-v0", OneOfMany)
    config = toy_config(
        "gym/OneOfMany-v0",
        suite__env_workers=0,
        env_runners__slots=16,
        env_runners__unroll_length=10,
        curriculum__levels__sampler=sampler,
        curriculum__levels__training_levels=16,
        curriculum__levels__staleness=0.1,
    )
    trainer = build_trainer(config)
    for _ in range(updates):
        trainer.step()
    episodes = [each for decision in trainer.decisions() if decision.levels for each in decision.levels.episodes]
    trainer.close()
    return float(np.mean([each.level == 7 for each in episodes])), trainer


def test_the_one_level_that_can_be_learned_is_replayed():
    uniform, _ = trained("uniform", 25)
    replayed, _ = trained("plr", 25)
    assert uniform < 0.12 < 0.3 < replayed


WRITTEN = [("accel", "context/cartpole:all"), ("accel", "gridmaze/blocks"), ("clutr", "context/cartpole:all")]
"""Samplers that write levels, and what they write them for."""
UPDATES = {"toy/three": 8, "context/cartpole:all": 24, "gridmaze/blocks": 150}
"""Until some dozens of episodes have ended."""


@pytest.mark.parametrize(("sampler", "suite"), WRITTEN)
def test_a_resumed_run_goes_on_with_the_same_levels(sampler, suite, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = written_config(sampler, suite)
    first = build_trainer(config)
    for _ in range(UPDATES[suite]):
        first.step()
    state = first.state_dict()
    plans, rated = fingerprint([plan._asdict() for plan in first._levels.plans()]), len(first._levels.samplers[0].buffer)
    save_checkpoint(tmp_path, first.frames, state, tasks=first.suite.names, keep=1)
    ends = []
    for _ in range(2):
        again = build_trainer(config)
        again.load_state_dict(load_checkpoint(tmp_path / str(first.frames)).components)
        assert rated > 5 and fingerprint([plan._asdict() for plan in again._levels.plans()]) == plans
        assert fingerprint(again.state_dict()["levels"]) == fingerprint(state["levels"])
        for _ in range(4):
            again.step()
        ends.append(fingerprint(again.state_dict()))
        again.close()
    first.close()
    assert ends[0] == ends[1]


def test_the_first_episodes_of_a_resumed_run_are_on_its_levels():
    """All levels have been rated, so that none of them is played to be rated alone."""
    config = toy_config(
        suite__env_workers=0, env_runners__slots=12, curriculum__levels__sampler="plr_robust", curriculum__levels__training_levels=4
    )
    first, again = build_trainer(config), build_trainer(config)
    while min(len(sampler.buffer) for sampler in first._levels.samplers) < 4:
        first.step()
    again.load_state_dict(first.state_dict())
    for _ in range(3):
        (collected,) = again._source.collect(1.0)
        assert not collected.rollout.levels.only_rated.any()
    first.close(), again.close()


def test_a_checkpoint_from_before_there_were_levels_is_gone_on_with():
    old = build_trainer(toy_config(suite__env_workers=0))
    old.step()
    new = build_trainer(levels_config("plr"))
    new.load_state_dict(old.state_dict())
    new.step()
    assert new.updates == 2 and new._levels is not None
    assert sum(sampler.clock for sampler in new._levels.samplers) > 0
    old.load_state_dict(new.state_dict())
    old.step()
    assert old.updates == 3
    old.close()
    new.close()


def test_other_training_levels_begin_anew_and_tasks_are_known_by_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def curriculum(suite: str, **changes: Any) -> Any:
        config = levels_config("plr", suite, **changes)
        return make_level_curriculum(config, make_suite(suite))

    def written(sampler: str, **changes: Any) -> Any:
        return make_level_curriculum(levels_config(sampler, "context/cartpole:all", **changes), make_suite("context/cartpole:all"))

    small = {"latent_size": 4, "autoencoder_updates": 5}
    clutr, plr = written("clutr", **small), written("plr")
    assert written("clutr", **small).load_state_dict(clutr.state_dict()) and written("accel").load_state_dict(plr.state_dict())
    assert not plr.load_state_dict(clutr.state_dict()) and not clutr.load_state_dict(plr.state_dict())
    assert not written("clutr", **small | {"latent_size": 5}).load_state_dict(clutr.state_dict())
    two = curriculum("toy/corridor,cue")
    two.decide([episode(3, 0.5, task=1)])
    other, fewer = curriculum("toy/cue,constant"), curriculum("toy/corridor,cue", training_levels=10)
    other.load_state_dict(two.state_dict())
    fewer.load_state_dict(two.state_dict())
    assert [len(sampler.buffer) for sampler in other.samplers] == [1, 0]
    assert [len(sampler.buffer) for sampler in fewer.samplers] == [0, 0]


def test_uniform_goes_on_from_a_run_with_rated_and_edited_levels():
    suite = make_suite("context/pendulum:all")

    def made(sampler: str) -> Any:
        return make_level_curriculum(levels_config(sampler, suite.name, training_levels=20), suite)

    before, uniform = made("accel"), made("uniform")
    rng = np.random.default_rng(0)
    for _ in range(100):
        (plan,) = before.plans()
        place = rng.choice(len(plan.numbers), p=plan.probabilities)
        before.decide([episode(int(plan.numbers[place]), float(rng.random()), only_rated=bool(plan.only_rated[place]))])
    assert uniform.load_state_dict(before.state_dict())
    (plan,) = uniform.plans()
    np.testing.assert_array_equal(plan.numbers, np.arange(20))
    np.testing.assert_array_equal(plan.parameters, suite.tasks[0].level_parameters.of_training_levels(20))
    assert len(uniform.summaries()) == 1


def written_config(sampler: str, suite: str) -> ExperimentConfig:
    clutr = {"autoencoder_updates": 20, "latent_size": 4, "teacher_batch": 8} if sampler == "clutr" else {}
    config = levels_config(sampler, suite, training_levels=40, buffer_size=30, **clutr)
    return config.model_copy(update={"model": config.model.model_copy(update={"width": 0.25})})


@pytest.mark.parametrize(("sampler", "suite"), [("plr", "toy/three"), *WRITTEN])
def test_decisions_are_made_again_from_the_log(sampler, suite, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    config = levels_config("plr", training_levels=12) if sampler == "plr" else written_config(sampler, suite)
    trainer = build_trainer(config)
    for _ in range(UPDATES[suite]):
        trainer.step()
    logged = [from_line(to_line(decision)) for decision in trainer.decisions()]
    trainer.close()
    assert sum(len(decision.levels.episodes) for decision in logged if decision.levels) > 20

    def all_agree(decisions: list[Decision]) -> bool:
        suite = make_suite(config.suite.name)
        decider = Decider(config.curriculum, make_scheduler(config.curriculum, suite.names), suite.names)
        return all(agrees(step) for step in repeat_decisions(decider, decisions, make_level_curriculum(config, suite)))

    assert all_agree(logged)
    place, record = next((place, each.levels) for place, each in enumerate(logged) if place > 3 and each.levels and each.levels.episodes)
    forged = record._replace(episodes=tuple(each._replace(positive_advantage=9.0 + place) for place, each in enumerate(record.episodes)))
    assert not all_agree([*logged[:place], logged[place]._replace(levels=forged), *logged[place + 1 :]])
    (known,) = {each.mean_parameter != 0 for each in record.tasks}
    assert known == (sampler != "plr")
    others = record._replace(tasks=tuple(each._replace(mean_parameter=each.mean_parameter + 0.1) for each in record.tasks))
    older = record._replace(tasks=tuple(each._replace(mean_parameter=float("nan")) for each in record.tasks))
    assert not all_agree([*logged[:place], logged[place]._replace(levels=others)])
    assert all_agree([*logged[:place], logged[place]._replace(levels=older)])


def test_draws_follow_the_plan_and_their_state():
    plan = LevelPlan(np.array([4, 9, 2]), np.array([[0.5], [1.5], [2.5]]), np.array([0.2, 0.7, 0.1]), np.array([False, True, False]))
    draws = LevelDraws([plan], np.random.default_rng(0))
    drawn = [draws.draw(0) for _ in range(4000)]
    assert set(drawn) == {Level(4, (0.5,)), Level(9, (1.5,), only_rated=True), Level(2, (2.5,))}
    assert np.mean([level.number == 9 for level in drawn]) == pytest.approx(0.7, abs=0.03)
    again = LevelDraws([plan], np.random.default_rng(5))
    again.load_state_dict(draws.state_dict())
    assert [again.draw(0) for _ in range(20)] == [draws.draw(0) for _ in range(20)]


class TestHeldOut:
    """Evaluations play levels that were not trained on."""

    def test_no_seed_of_an_evaluation_is_a_training_level(self):
        # A quarter of all seeds are training levels, which about a quarter of the environments had.
        least = 2**29
        usual, held_out = SeedSequences(0, 9, 0), SeedSequences(0, 9, 0, least=least)
        before, after = ([seeds.of("t", place) for place in range(200)] for seeds in (usual, held_out))
        assert 20 < sum(seed < least for seed in before) < 80 and min(after) >= least
        assert all(one == other for one, other in zip(before, after, strict=True) if one >= least)

    def test_an_evaluation_gives_no_training_level_to_an_environment(self, monkeypatch):
        seen = []
        monkeypatch.setattr("mtrl.evaluation.jobs.make_vector", lambda *args, **kwargs: seen.append(kwargs["least_seed"]) or 1 / 0)
        config = levels_config("plr", training_levels=77)
        suite = make_suite(config.suite.name)
        actor, levels = Learner(config, suite).policy.actor, config.curriculum.levels.count
        with pytest.raises(ZeroDivisionError):
            play(actor, suite, 0, 1, backend="gymnasium", seed=0, sampled=True, training_levels=levels)
        assert seen == [77]


def test_accel_needs_parameters():
    with pytest.raises(ConfigError, match=r"curriculum.levels.sampler is accel, .* but corridor has none: take plr_robust"):
        build_trainer(levels_config("accel"))


def test_settings_of_other_samplers_have_no_effect():
    (sentence,) = without_effect(levels_config("uniform", temperature=0.2))
    assert sentence == "curriculum.levels.temperature is 0.2, but has no effect without curriculum.levels.sampler plr, plr_robust or accel"
    (sentence,) = without_effect(toy_config(curriculum__levels__staleness=0.2))
    assert sentence == "curriculum.levels.staleness is 0.2, but has no effect without curriculum.levels.sampler"
    (sentence,) = without_effect(levels_config("plr", edit_size=0.2))
    assert "curriculum.levels.sampler accel" in sentence
