"""Tasks that differ in a number, and the schedulers that use it: against Gymnasium, physics written down again, and slow twins."""

from __future__ import annotations

import json
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from helpers import toy_config
from scipy.stats import multivariate_normal

from envs import Episode, SuiteError, UnknownTaskError, make_suite, make_vector
from mtrl.benchmark import transfer as bench_transfer
from mtrl.config import ConfigError, CurriculumConfig, override
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.schedulers.mbtl_model import LENGTHS, TransferModel
from mtrl.errors import UserError
from mtrl.training.task_statistics import TaskStatistics
from mtrl.training.trainer import build_trainer


def one_step_of_a_cartpole(state, force, length, masspole=0.1, masscart=1.0, gravity=9.8, tau=0.02):
    """Barto, Sutton and Anderson (1983), by hand; `length` is half of the pole's."""
    x, speed, angle, turning = state
    total = masspole + masscart
    push = (force + masspole * length * turning**2 * np.sin(angle)) / total
    torque = gravity * np.sin(angle) - np.cos(angle) * push
    turned = torque / (length * (4 / 3 - masspole * np.cos(angle) ** 2 / total))
    moved = push - masspole * length * turned * np.cos(angle) / total
    return np.array([x + tau * speed, speed + tau * moved, angle + tau * turning, turning + tau * turned])


class TestContexts:
    def test_the_usual_value_is_gymnasiums_environment(self):
        for name, env_id in (("cartpole:length=0.5", "CartPole-v1"), ("pendulum:mass=1", "Pendulum-v1")):
            ours, theirs = make_suite(f"context/{name}").tasks[0].make_env(), gymnasium.make(env_id)
            theirs.action_space.seed(0)
            np.testing.assert_array_equal(ours.reset(seed=3)[0]["vector"], theirs.reset(seed=3)[0])
            for _ in range(200):
                action = theirs.action_space.sample()
                (observed, *rest), (expected, *others) = ours.step(action), theirs.step(action)
                np.testing.assert_array_equal(observed["vector"], expected)
                assert rest[:3] == [pytest.approx(others[0]), *others[1:3]]
                if rest[1] or rest[2]:
                    break

    @pytest.mark.parametrize(("parameter", "value"), [("length", 2.0), ("masspole", 0.7), ("masscart", 5.0), ("gravity", 30.0)])
    def test_another_value_is_other_physics(self, parameter, value):
        env = make_suite(f"context/cartpole:{parameter}={value}").tasks[0].make_env()
        state = env.reset(seed=0)[0]["vector"]
        for action in (0, 1, 1, 0, 1):
            expected = one_step_of_a_cartpole(state, 10.0 if action else -10.0, **{"length": 0.5, parameter: value})
            state = env.step(action)[0]["vector"]
            np.testing.assert_allclose(state, expected, atol=1e-5)

    def test_an_episode_that_lasts_is_a_success(self):
        suite = make_suite("context/cartpole:length=5")
        tasks = make_vector(suite, 1, seed=0)
        obs = tasks.reset()
        feedback = np.array([0.02, 0.1, 1.0, 1.0])  # of place and speed as well, or the cart leaves the track
        while not (step := tasks.step((obs["vector"] @ feedback > 0).astype(int))).episodes:
            obs = step.obs
        (episode,) = step.episodes
        assert (episode.length, episode.success, episode.truncated) == (500, True, True)
        assert suite.score(0, episode.episode_return) == 1.0

    def test_episodes_begin_where_the_context_before_has_been(self):
        suite = make_suite("context/cartpole:length=0.5,1,2+rollin")
        first, second = (suite.tasks[place].make_env() for place in (0, 1))
        visited = first._visited
        assert visited is second._visited
        for _ in range(50):
            first.reset()
            over = False
            while not over:
                _, _, terminated, truncated, _ = first.step(first.action_space.sample())
                over = terminated or truncated
        left = {tuple(state) for state in visited._states[0]}
        assert left and not visited._states[1]
        starts = [tuple(second.reset()[0]["vector"]) for _ in range(600)]
        elsewhere = [start for start in starts if np.abs(start).max() > 0.05]  # Gymnasium begins within 0.05 of the middle
        assert 20 < len(elsewhere) < 120
        for start in elsewhere:
            assert min(np.abs(np.array(start) - np.array(state)).max() for state in left) < 1e-6
        untouched = suite.for_evaluation().tasks[1].make_env()
        assert all(np.abs(untouched.reset()[0]["vector"]).max() <= 0.05 for _ in range(200))

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("cartpol", "no world 'cartpol'; did you mean cartpole"),
            ("cartpole:lenght", "no parameter of cartpole 'lenght'; did you mean length"),
            ("cartpole=0,1", "positive numbers"),
            ("cartpole=a", "positive numbers"),
            ("cartpole+rolin", "did you mean \\+rollin"),
        ],
    )
    def test_a_wrong_name_is_one_sentence(self, name, said):
        with pytest.raises((UnknownTaskError, SuiteError), match=said):
            make_suite(f"context/{name}")


def slow_posterior(x, sources, performance, noise=0.1):
    """The process's conditional at x from the joint normal, with the length under which the observations are likeliest."""
    y, scale = performance - performance.mean(), max(performance.var(), 0.01)

    def kernel(a, b, length):
        return np.array([[scale * np.exp(-((p - q) ** 2) / (2 * length**2)) for q in b] for p in a])

    def likelihood(length):
        return multivariate_normal(np.zeros(len(y)), kernel(x[sources], x[sources], length) + noise**2 * np.eye(len(y))).logpdf(y)

    length = max(LENGTHS, key=likelihood)
    inverse = np.linalg.inv(kernel(x[sources], x[sources], length) + noise**2 * np.eye(len(y)))
    cross = kernel(x, x[sources], length)
    return performance.mean() + cross @ inverse @ y, np.sqrt(np.diag(kernel(x, x, length) - cross @ inverse @ cross.T))


class TestMBTL:
    def test_the_process_is_the_joint_normals_conditional(self):
        rng = np.random.default_rng(0)
        model = TransferModel(np.linspace(3, 9, 12), slope=0.5)
        sources, performance = np.array([6, 1, 10, 3]), rng.random(4)
        mean, deviation = slow_posterior(np.linspace(0, 1, 12), sources, performance)
        found = model.posterior(sources, performance)
        np.testing.assert_allclose(found.mean, mean, atol=1e-8)
        np.testing.assert_allclose(found.deviation, deviation, atol=1e-6)

    def test_the_next_source_promises_most(self):
        rng = np.random.default_rng(1)
        x = np.linspace(0, 1, 9)
        model = TransferModel(10 * x, slope=0.7)
        assert model.next(np.array([], int), np.array([])) == 4
        for sources in ([4], [4, 0], [4, 8, 2]):
            performance = rng.random(len(sources))
            mean, deviation = slow_posterior(x, np.array(sources), performance)
            promised = {}
            for candidate in set(range(9)) - set(sources):
                hope = mean[candidate] + np.sqrt(np.log(len(sources) + 1)) * deviation[candidate]
                best = [max(p - 0.7 * abs(x[s] - t) for s, p in zip(sources, performance, strict=True)) for t in x]
                promised[candidate] = np.mean([max(0.0, hope - 0.7 * abs(x[candidate] - t) - b) for t, b in zip(x, best, strict=True)])
            assert model.next(np.array(sources), performance) == max(promised, key=promised.get)

    def test_beats_random_choice_where_policies_transfer_to_their_neighbours(self):
        x = np.linspace(0, 1, 20)
        matrix = np.clip(1 - 3 * np.abs(x[:, None] - x[None, :]), 0, 1)
        found = bench_transfer.strategies(matrix, x, slope=3.0)
        for name in ("random", "mbtl", "equidistant"):
            assert (found[name] <= found["oracle"] + 0.06).all()  # which is greedy
        assert (found["mbtl"][1:6] - found["random"][1:6]).min() > 0.05
        assert all(np.diff(found["mbtl"]) >= 0) and found["mbtl"][-1] == 1

    def test_the_scheduler_trains_one_source_more_whenever_the_newest_has_had_its_frames(self):
        suite = make_suite("context/cartpole=1,2,3,4,5")
        stats = TaskStatistics(suite)
        subject = make_scheduler(CurriculumConfig(scheduler="mbtl", options={"frames": 1000, "sources": 3}), suite.names)
        for task in range(5):
            shares = look(stats, subject, task, 0.5)
        assert shares.tolist() == [0, 0, 1, 0, 0]  # the middle
        for _ in range(9):
            assert look(stats, subject, 2, 0.9).tolist() == [0, 0, 1, 0, 0]
        two = look(stats, subject, 2, 0.9)
        assert sorted(two) == [0, 0, 0, 0.5, 0.5] and two[2] == 0.5
        newest = int(np.flatnonzero(two * [1, 1, 0, 1, 1])[0])
        for _ in range(10):
            three = look(stats, subject, newest, 0.9)
        assert sorted(three) == [0, 0] + [pytest.approx(1 / 3)] * 3
        for _ in range(50):
            np.testing.assert_allclose(look(stats, subject, int(three.argmax()), 0.9), three)

    def test_the_benchmark_trains_plays_and_goes_on(self, tmp_path: Path, capsys):
        config = toy_config("context/cartpole=0.5,5", total_frames=1000, env_runners__slots=4, model__experts=1, model__heads="single")
        bench_transfer.compare(config, 1, tmp_path)
        said = capsys.readouterr().out
        rows = json.loads((tmp_path / "seed-0.json").read_text())["rows"]
        assert {len(row) for row in rows.values()} == {2} and all(0 < score <= 1 for row in rows.values() for score in row)
        assert "mbtl" in said and "oracle" in said
        bench_transfer.compare(config, 1, tmp_path)
        assert "trained on" not in capsys.readouterr().out
        with pytest.raises(UserError, match="policies of another experiment"):
            bench_transfer.compare(override(config, {"learner.discount": 0.5}), 1, tmp_path)
        with pytest.raises(ConfigError, match="do not differ in a number"):
            bench_transfer.compare(override(config, {"suite.name": "toy/three"}), 1, tmp_path)


def look(stats: TaskStatistics, subject, task: int, rate: float) -> np.ndarray:
    """The shares after ten more episodes and 100 frames of a task."""
    successes = round(10 * rate)
    stats.add_episodes([Episode(task, 0, 500.0 * rate, 10, i < successes, True, False) for i in range(10)])
    stats.add_frames(100 * np.eye(len(stats.frames), dtype=np.int64)[task])
    return subject.probabilities(stats.evidence())


class TestSPaCE:
    def test_the_set_grows_when_values_have_settled_and_takes_what_has_improved(self):
        suite = make_suite("context/cartpole=1,2,3,4")
        stats = TaskStatistics(suite)
        subject = make_scheduler(CurriculumConfig(scheduler="space"), suite.names)

        def round_with(values, tasks):
            stats.initial_values = np.array(values, float)
            for task in tasks:
                shares = look(stats, subject, task, 0.5)
            return np.flatnonzero(shares).tolist()

        assert round_with([1, 1, 1, 1], range(4)) == [0]  # nothing is known of improvement yet
        assert round_with([1.0, 1.5, 3.0, 2.0], [1, 2, 3]) == [0]  # not before task 0 was looked at again
        # V of the set {0} went from 1 to 1.05, less than a tenth: two tasks, those that rose most.
        assert round_with([1.05, 1.5, 3.0, 2.0], [0]) == [2, 3]
        # Their mean went from 2.5 to 5: still two tasks, and now others have risen more.
        assert round_with([4.0, 9.0, 5.0, 5.0], [2, 3]) == [1, 3]


class TestROLLIN:
    def test_goes_from_context_to_context_and_rehearses(self):
        suite = make_suite("context/cartpole=3,1,2")
        stats = TaskStatistics(suite)
        subject = make_scheduler(CurriculumConfig(scheduler="rollin", options={"rehearsal": 0.2}), suite.names)
        for task in range(3):
            shares = look(stats, subject, task, 0.0)
        assert shares.tolist() == [0, 1, 0]  # the smallest number first
        assert look(stats, subject, 1, 0.8).tolist() == [0, 1, 0]
        for _ in range(10):
            shares = look(stats, subject, 1, 1.0)
        np.testing.assert_allclose(shares, [0, 0.2, 0.8])
        for _ in range(10):
            shares = look(stats, subject, 2, 1.0)
        np.testing.assert_allclose(shares, [0.8, 0.1, 0.1])
        for _ in range(10):
            shares = look(stats, subject, 0, 1.0)
        np.testing.assert_allclose(shares, [1 / 3, 1 / 3, 1 / 3])
        for _ in range(5):
            shares = look(stats, subject, 1, 0.0)
        assert shares.tolist() == [0, 1, 0], "half of the window fails: the first context is lost"


@pytest.mark.parametrize("scheduler", ["space", "mbtl", "rollin"])
def test_a_run_follows_them(scheduler):
    suite = "context/cartpole:length=0.5,1,2" + ("+rollin" if scheduler == "rollin" else "")
    options = {"stage": 0.9} if scheduler == "mbtl" else {}
    config = toy_config(
        suite,
        total_frames=6000,
        curriculum__scheduler=scheduler,
        curriculum__options=options,
        curriculum__floor=0.1,
        env_runners__slots=12,
    )
    trainer = build_trainer(config)
    while trainer.frames < config.total_frames:
        trainer.step()
    metrics = trainer.metrics()
    shares = [metrics[f"tasks/{name}/share_wanted"] for name in trainer.suite.names]
    assert min(shares) == pytest.approx(0.1 / 3) and max(shares) > 0.45  # somebody has only the floor
    assert all(np.isfinite(metrics[f"tasks/{name}/initial_value"]) for name in trainer.suite.names)
    trainer.close()
