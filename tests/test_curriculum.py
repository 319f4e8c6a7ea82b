"""Schedulers: what all of them promise, and each one's rule by hand."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from envs import Episode, make_suite
from envs.suites.toy import ACTION_SPACE, OBSERVATION_SPACE, Corridor
from envs.task import Task, TaskSuite
from mtrl.benchmark.curriculum import Outcome, better_half, compare, curve_of, print_table, rungs, split_schedulers
from mtrl.benchmark.curriculum import _scheduler as described
from mtrl.config import ConfigError, CurriculumConfig, load_config, override
from mtrl.curriculum import SCHEDULERS, RatedScheduler, make_scheduler, with_floor
from mtrl.curriculum.decisions import Decider
from mtrl.curriculum.evidence import Evidence, success_posterior
from mtrl.curriculum.forgetting import ForgettingWatch
from mtrl.curriculum.scheduler import ProgressScheduler, certain_slopes
from mtrl.curriculum.schedulers.camrl import CAMRL
from mtrl.curriculum.schedulers.drats import tilted
from mtrl.curriculum.schedulers.smt import TRAIN
from mtrl.evaluation.results import EvaluationResults, TaskResult, read_results
from mtrl.evaluation.statistics import Estimate
from mtrl.storage.layout import RunLayout
from mtrl.training.task_statistics import TaskStatistics

OPTIONS = {"fixed": {"weights": {"t1": 3.0}}, "mastering_rate": {"graph": {"t1": ["t0"], "t2": ["t1"]}}}


def suite_of(tasks: int) -> TaskSuite:
    return TaskSuite("test", tuple(Task(f"t{i}", Corridor) for i in range(tasks)), OBSERVATION_SPACE, ACTION_SPACE, lambda obs: obs, "test")


def scheduler(name: str, tasks: int = 3, **options) -> RatedScheduler:
    config = CurriculumConfig(scheduler=name, options=options or OPTIONS.get(name, {}))
    return make_scheduler(config, suite_of(tasks).names)  # type: ignore[return-value]


def play(stats: TaskStatistics, task: int, successes: int, episodes: int = 10, frames: int = 100) -> None:
    """`episodes` episodes of a task, the first `successes` of them successful."""
    for i in range(episodes):
        won = i < successes
        stats.add_episodes([Episode(task, 0, float(won), 10, won, True, False)])
    stats.add_frames(frames * np.eye(len(stats.frames), dtype=np.int64)[task])


def random_history(stats: TaskStatistics, rng: np.random.Generator, steps: int):
    n = len(stats.frames)
    for _ in range(steps):
        task = int(rng.integers(n))
        play(stats, task, int(rng.integers(11)), episodes=int(rng.integers(1, 14)), frames=int(rng.integers(1, 10**5)))
        stats.add_values(*np.where(np.arange(n) == task, rng.random((2, n)), np.nan))
        yield


def eventful_history(tasks: int, steps: int):
    """Evidence in which a task is learned, one is lost and one is solved, with all that any scheduler reads."""
    rng = np.random.default_rng(1)
    stats = TaskStatistics(suite_of(tasks))
    for step in range(steps):
        task = int(rng.integers(tasks))
        rate = [step / steps, 0.5, 1 - step / steps, 0.95][task % 4]
        episodes = int(rng.integers(1, 14))
        play(stats, task, int(rng.binomial(episodes, rate)), episodes=episodes, frames=int(rng.integers(1, 10**4)))
        stats.add_values(*np.where(np.arange(tasks) == task, rng.random((2, tasks)), np.nan))
        alike = np.eye(tasks) + np.where(np.eye(tasks), 0.0, 0.1)
        yield stats.evidence()._replace(total_frames=np.array(1e6), similarity=alike, contexts=np.arange(tasks) / tasks)


def busy_history(tasks: int, steps: int):
    """Evidence with ten new episodes of every task each time."""
    rng = np.random.default_rng(0)
    successes = np.zeros(tasks)
    alike = np.eye(tasks) + np.where(np.eye(tasks), 0.0, 0.1)
    for step in range(1, steps + 1):
        successes = successes + rng.binomial(10, np.linspace(0, step / steps, tasks))
        episodes, values = np.full(tasks, 10.0 * step), rng.random(tasks)
        rates = successes / episodes
        total, contexts = np.array(1e9), np.arange(tasks) / tasks
        yield Evidence(episodes, successes.copy(), rates, 1000 * episodes, values, rates, values, alike, contexts, total)


@pytest.mark.parametrize("name", list(SCHEDULERS))
class TestEveryScheduler:
    def test_begins_with_what_needs_no_knowledge(self, name):
        stats = TaskStatistics(suite_of(4))
        expected = np.array([1, 3, 1, 1]) / 6 if name == "fixed" else np.full(4, 0.25)
        np.testing.assert_allclose(scheduler(name, 4).probabilities(stats.evidence()), expected)

    def test_gives_probabilities_whatever_happens(self, name):
        stats, subject = TaskStatistics(suite_of(5)), scheduler(name, 5)
        for _ in random_history(stats, np.random.default_rng(0), 150):
            shares = subject.probabilities(stats.evidence())
            assert shares.shape == (5,)
            assert shares.sum() == pytest.approx(1)
            assert (shares >= 0).all()
            assert (with_floor(shares, 0.2) >= 0.2 / 5 - 1e-12).all()

    def test_does_not_judge_a_task_on_nothing(self, name):
        stats, subject = TaskStatistics(suite_of(3)), scheduler(name)
        for _ in range(3):
            play(stats, 0, 9)
            play(stats, 1, 2)
            shares = subject.probabilities(stats.evidence())
        assert shares[2] == pytest.approx(0.2 if name == "fixed" else 1 / 3)

    def test_follows_any_other(self, name):
        for other in SCHEDULERS:
            stats = TaskStatistics(suite_of(3))
            before, after = (Decider(CurriculumConfig(scheduler=each), scheduler(each), suite_of(3).names) for each in (other, name))
            for _ in range(10):  # a whole window of one task, which masters it
                play(stats, 0, 10)
                before.decide(stats.evidence())
            after.load_state_dict(before.state_dict())
            seen = before.scheduler if other == name else scheduler(name)
            np.testing.assert_equal(after.scheduler.state_dict(), seen.state_dict())
            assert after.watch.best.tolist() == [1.0, 0.0, 0.0]
            assert after.decide(stats.evidence()).shares.sum() == pytest.approx(1)

    def test_goes_on_from_its_state(self, name):
        whole, first = (scheduler(name, 4) for _ in range(2))
        decisions = []
        for subject in (whole, first):
            taken = []
            for step, evidence in enumerate(eventful_history(4, 400)):
                if subject is not whole and step == 200:
                    state = subject.state_dict()
                    subject = scheduler(name, 4)
                    subject.load_state_dict(state)
                    assert not isinstance(subject, ProgressScheduler) or subject.gains.any(), "there is something to go on from"
                    assert not isinstance(subject, CAMRL) or (subject.terms_seen > 0 and subject.one_by_one)
                taken.append(subject.probabilities(evidence))
            decisions.append(np.array(taken))
        np.testing.assert_array_equal(*decisions)

    @pytest.mark.parametrize(("tasks", "most"), [(50, 2e-3), (500, 5e-3)])
    def test_a_decision_costs_little(self, name, tasks, most):
        """With all tasks observed in each of them. CAMRL compares all tasks that wait, with each other."""
        subject, times = scheduler(name, tasks), []
        for evidence in busy_history(tasks, 35):
            before = time.thread_time()
            subject.probabilities(evidence)
            times.append(time.thread_time() - before)
        assert np.median(times[-10:]) < (tasks / 5000 if name == "camrl" else most)

    def test_names_an_unknown_option(self, name):
        with pytest.raises(ConfigError, match=r"curriculum\.options\.temprature"):
            make_scheduler(CurriculumConfig(scheduler=name, options=OPTIONS.get(name, {}) | {"temprature": 1}), suite_of(3).names)


def after(name: str, history: list[tuple[int, int]], tasks: int = 3, **options) -> np.ndarray:
    """The shares after looks at (task, successes of ten), one after another."""
    stats, subject = TaskStatistics(suite_of(tasks)), scheduler(name, tasks, **options)
    for task, successes in history:
        play(stats, task, successes)
        shares = subject.probabilities(stats.evidence())
    return shares


def test_success_gap_by_hand():
    """Beta(11, 1), Beta(6, 6) and Beta(1, 11): means of 1 - p of 1, 6 and 11 twelfths; second moments of b (b + 1) / (12 · 13)."""
    history = [(0, 10), (1, 5), (2, 0)]
    np.testing.assert_allclose(after("success_gap", history), np.array([1, 6, 11]) / 18)
    np.testing.assert_allclose(after("success_gap", history, power=2.0), np.array([1 * 2, 6 * 7, 11 * 12]) / (2 + 42 + 132))


def test_learnability_by_hand():
    """The mean of p (1 - p) under Beta(a, b) is a b / ((a + b) (a + b + 1)); here a + b is 12 for all."""
    history = [(0, 10), (1, 5), (2, 1)]
    np.testing.assert_allclose(after("learnability", history), np.array([11 * 1, 6 * 6, 2 * 10]) / (11 + 36 + 20))
    # p (1 - p)²: a b (b + 1), for tasks that hardly ever succeed.
    hard = np.array([11 * 1 * 2, 6 * 6 * 7, 2 * 10 * 11])
    np.testing.assert_allclose(after("learnability", history, failures=2.0), hard / hard.sum())


def test_drats_by_hand():
    """Scores are successes here. In a wide ball the shares are those of exp(β gap); in a narrow one they are a ball's radius away."""
    history = [(0, 10), (1, 5), (2, 0)]
    tilt = np.exp(2.0 * np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(after("drats", history, beta=2.0, radius=5.0), tilt / tilt.sum())
    weighed = np.array([1.0, 3.0, 1.0]) * tilt
    np.testing.assert_allclose(after("drats", history, beta=2.0, radius=5.0, prior={"t1": 3.0}), weighed / weighed.sum())
    near = after("drats", history, beta=50.0, radius=0.1)
    assert float((near * np.log(near * 3)).sum()) == pytest.approx(0.1) and near[0] < near[1] < near[2]
    np.testing.assert_allclose(np.log(near[2] / near[1]), np.log(near[1] / near[0]))  # exponential in the gap all the same
    solved = after("drats", history, beta=5.0, target=0.4)
    assert solved[0] == pytest.approx(solved[1]), "beyond the target there is no gap"
    with pytest.raises(ConfigError, match="no task 'x'; tasks are t0, t1, t2"):
        scheduler("drats", prior={"x": 1.0})


def test_drats_shares_are_the_worst_case_of_the_ball():
    """No distribution within the radius has a larger mean gap: tried against many random ones."""
    rng = np.random.default_rng(0)
    base, gaps = rng.dirichlet(np.ones(6)), rng.random(6)
    best = tilted(base, gaps, beta=1e3, radius=0.2)
    others = rng.dirichlet(np.ones(6), size=200_000)
    near = others[(others * np.log(others / base)).sum(1) <= 0.2]
    assert len(near) > 1000 and (near @ gaps).max() <= best @ gaps + 1e-9


def test_worst_first_passes_on_when_a_budget_is_spent_or_a_task_is_solved():
    stats, subject = TaskStatistics(suite_of(4)), scheduler("worst_first", 4, group=2, budget=2.0)

    def shares():
        return subject.probabilities(stats.evidence()._replace(total_frames=np.array(4000.0)))

    for task, successes in enumerate((8, 0, 1, 5)):
        play(stats, task, successes, frames=0)
    np.testing.assert_allclose(shares(), [0, 0.5, 0.5, 0])
    play(stats, 1, 0, frames=2000)  # twice its part of 4 000 frames
    np.testing.assert_allclose(shares(), [0, 0, 0.5, 0.5])
    play(stats, 2, 100, episodes=100, frames=10)
    np.testing.assert_allclose(shares(), [0.5, 0, 0, 0.5])
    for task in (0, 3):
        play(stats, task, 0, frames=2000)
    np.testing.assert_allclose(shares(), np.full(4, 0.25))


def test_the_posterior_of_success_is_a_beta_distribution():
    stats = TaskStatistics(suite_of(3))
    play(stats, 0, 150, episodes=150)
    play(stats, 1, 3, episodes=7)
    posterior = success_posterior(stats.evidence())
    grid = np.linspace(0, 1, 200_001)
    for task, (successes, failures) in enumerate(((100, 0), (3, 4), (0, 0))):
        density = grid**successes * (1 - grid) ** failures
        density /= density.sum()
        assert posterior.mean[task] == pytest.approx((density * grid).sum(), abs=1e-5)
        assert posterior.above(0.7)[task] == pytest.approx(density[grid >= 0.7].sum(), abs=1e-4)
        assert posterior.moment(1.5, 2.0)[task] == pytest.approx((density * grid**1.5 * (1 - grid) ** 2).sum(), abs=1e-5)


def test_observations_have_as_many_episodes_as_the_options_say():
    stats, subject = TaskStatistics(suite_of(2)), scheduler("t3s", 2, episodes=50)
    for step in range(1, 11):
        play(stats, 0, 5)
        subject.probabilities(stats.evidence())
        assert subject.num_observations.tolist() == [step // 5, 0]


def test_stages_are_shares_of_the_runs_frames():
    """SMT's first stage ends at half of the run, where its options give no number of frames."""
    stats, subject = TaskStatistics(suite_of(4)), scheduler("smt", 4, group=2)
    for task, successes in enumerate((8, 0, 1, 5)):
        play(stats, task, successes, frames=0)
    subject.probabilities(stats.evidence()._replace(total_frames=np.array(10_000.0)))
    assert subject.budgets[1] == pytest.approx(0.8 * 5000 / 4)


def test_rollin_passes_on_by_the_whole_window_and_comes_back():
    """At a true rate of 0.7 one in seven observations of ten has nine successes: none of them is enough."""
    rng = np.random.default_rng(0)
    passed = 0
    for _ in range(40):
        stats, subject = TaskStatistics(suite_of(3)), scheduler("rollin")
        for _ in range(20):
            play(stats, 0, int(rng.binomial(10, 0.7)))
            shares = subject.probabilities(stats.evidence())
        passed += int(subject.current > 0)
    assert passed <= 4
    stats, subject = TaskStatistics(suite_of(3)), scheduler("rollin")
    play(stats, 0, 10)
    subject.probabilities(stats.evidence())
    assert subject.current == 1
    for _ in range(10):
        play(stats, 0, 2)
        shares = subject.probabilities(stats.evidence())
    assert subject.current == 0 and shares[0] == shares.max(), "the first context is lost again"


def test_t3s_by_hand():
    """Ten of twenty and four of twenty episodes succeed: by Beta(11, 11) and Beta(5, 17). A change of so few episodes may be noise."""
    gap = np.exp(np.array([1 / 2, 17 / 22]) / 0.5)
    shares = after("t3s", [(0, 2), (1, 2), (0, 8), (1, 2)], tasks=2, temperature=0.5)
    np.testing.assert_allclose(shares, 0.5 * gap / gap.sum() + 0.25)
    stats, subject = TaskStatistics(suite_of(2)), scheduler("t3s", 2, temperature=0.5, progress_weight=0.0)
    for task, successes in curves(NOISE, RISING):
        play(stats, task, successes)
        shares = subject.probabilities(stats.evidence())
    still, rising = subject.gains
    assert still == 0 and 0.1 < rising < 0.35  # in 100 of its 360 episodes
    np.testing.assert_allclose(shares, [1 / (1 + np.exp(-rising / 0.5)), 1 / (1 + np.exp(rising / 0.5))])


def curves(*rates: list[int]) -> list[tuple[int, int]]:
    """Looks at the tasks in turn; `rates[task]` are the successes of ten in each look."""
    return [(task, successes) for look in zip(*rates, strict=True) for task, successes in enumerate(look)]


RISING = [min(10, look // 3) for look in range(36)]  # from 0 to 10 of ten in 360 episodes
NOISE = [int(successes) for successes in np.random.default_rng(3).binomial(10, 0.5, 36)]


def test_learning_progress_prefers_what_moves_and_drops_what_stands_still():
    shares = after("learning_progress", curves(NOISE, RISING, [0] * 36))
    assert shares[1] > 0.9
    np.testing.assert_allclose(after("learning_progress", curves(NOISE, NOISE[::-1], [0] * 36)), np.full(3, 1 / 3))


@pytest.mark.parametrize("counts", [np.full(40, 10), np.random.default_rng(1).integers(10, 40, 40)])
def test_the_certain_slope_is_that_of_the_weighted_line(counts):
    """Against NumPy's least squares. Two standard errors are taken off a change, and of noise nothing is left in 19 of 20 cases."""
    rng = np.random.default_rng(0)
    ends = np.cumsum(np.concatenate([[10], counts]))
    rates = np.concatenate([[0.0], rng.binomial(counts, np.linspace(0.1, 0.9, len(counts))) / counts])
    curve = np.stack([ends, rates], axis=1)
    slope = np.polyfit(ends[1:], rates[1:], 1, w=np.sqrt(counts))[0]
    shorter = np.concatenate([np.full((10, 2), np.nan), curve[:-10]])  # ten points have not been observed yet
    parts = [np.polyfit(ends[1:-10], rates[1:-10], 1, w=np.sqrt(counts[:-10]))[0], slope]
    assert certain_slopes(np.stack([shorter, curve]), errors=0.0) == pytest.approx(parts)
    assert 0.5 * slope < certain_slopes(curve[None], errors=2.0)[0] < slope
    still = [np.stack([ends, np.concatenate([[0.0], rng.binomial(counts, 0.3) / counts])], axis=1) for _ in range(1000)]
    assert 0.02 < np.mean(certain_slopes(np.array(still), errors=2.0) != 0) < 0.09


@pytest.mark.parametrize("lengths", [[20, 20, 20, 400], [300, 20, 20, 20]])
@pytest.mark.parametrize("name", ["exp3s", "teacher_student", "learning_progress", "ducb", "t3s"])
def test_long_episodes_are_no_progress(name, lengths):
    """Tasks that stand still have equal shares, however long their episodes are and however seldom they are observed therefore. Before,
    one of them has been learned, so that gains have been seen.
    """
    given = []
    for seed in range(8):
        rng, n, frames = np.random.default_rng(seed), 4, np.zeros(4)
        subject, episodes, successes = scheduler(name, n), np.zeros(n), np.zeros(n)
        shares, left = np.full(n, 1 / n), np.zeros(n)
        for step in range(1000):
            left += 4000 * shares
            frames += 4000 * shares
            counts = (left // lengths).astype(int)
            left -= counts * lengths
            episodes += counts
            successes += rng.binomial(counts, [0.5, min(0.5, step / 300), 0.5, 0.5])
            seen = successes / np.maximum(episodes, 1)
            evidence = Evidence(episodes.copy(), successes.copy(), seen, frames.copy(), np.ones(n), seen, seen)
            shares = with_floor(subject.probabilities(evidence), 0.1)
            given += [shares] if step > 400 else []
    longest = int(np.argmax(lengths))
    assert np.mean(given, axis=0)[longest] < 0.4, np.mean(given, axis=0).round(3)


@pytest.mark.parametrize("name", ["exp3s", "teacher_student", "learning_progress", "ducb"])
def test_rules_of_progress_follow_the_task_that_learns(name):
    """Seven tasks stand still at different rates, and one is learned within 3000 of its own episodes. A rule that takes binomial noise for
    progress gives most to the one at one half.
    """
    still, length, rng = [0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0], 3000, np.random.default_rng(0)
    n = len(still) + 1
    subject, episodes, successes = scheduler(name, n), np.zeros(n), np.zeros(n)
    shares, given = np.full(n, 1 / n), []
    while episodes[-1] < length and len(given) < 2000:
        for task, count in enumerate(rng.multinomial(64, shares)):
            rates = np.full(count, still[task]) if task < n - 1 else np.minimum(1.0, (episodes[-1] + np.arange(count)) / length)
            episodes[task] += count
            successes[task] += (rng.random(count) < rates).sum()
        seen = successes / np.maximum(episodes, 1)
        evidence = Evidence(episodes.copy(), successes.copy(), seen, 50 * episodes, np.full(n, 0.1), seen, seen)
        shares = with_floor(subject.probabilities(evidence), 0.1)
        given.append(shares)
    mean = np.mean(given, axis=0)
    assert mean[-1] >= 0.37 and mean[:-1].max() <= 0.2, mean.round(3)


def test_learning_progress_stretches_small_rates():
    subject = scheduler("learning_progress")
    assert subject.reweigh(np.array([0.0, 0.1, 1.0])).tolist() == pytest.approx([0, 0.5, 1])


def test_teacher_student_trains_what_changes_most():
    """Forgetting counts as learning does; without a change all tasks are the best."""
    np.testing.assert_allclose(after("teacher_student", curves(NOISE, RISING), tasks=2, epsilon=0.2), [0.1, 0.9])
    np.testing.assert_allclose(after("teacher_student", curves(RISING[::-1], NOISE), tasks=2, epsilon=0.2), [0.9, 0.1])
    np.testing.assert_allclose(after("teacher_student", curves(NOISE, [5] * 36), tasks=2, epsilon=0.2), [0.5, 0.5])


def test_mastering_rate_waits_for_prerequisites_and_leaves_what_is_mastered():
    graph = {"t1": ["t0"], "t2": ["t1"]}
    untouched = after("mastering_rate", [(0, 3), (1, 0), (2, 0)], graph=graph)
    assert untouched.argmax() == 0
    assert untouched[2] < 0.01
    mastered = after("mastering_rate", [(0, 10), (1, 3), (2, 0)] * 2, graph=graph)
    assert mastered.argmax() == 1
    with pytest.raises(ConfigError, match="needs itself"):
        scheduler("mastering_rate", graph={"t1": ["t0"], "t0": ["t1"]})
    with pytest.raises(ConfigError, match="no task 't9'"):
        scheduler("mastering_rate", graph={"t9": []})


def test_exp3s_follows_progress():
    assert after("exp3s", curves(NOISE, RISING, [9] * 36), rate=1.0).argmax() == 1


def test_ducb_prefers_gains_and_comes_back_to_what_it_left():
    assert after("ducb", curves(NOISE, RISING), tasks=2)[1] > 0.8
    stats, subject = TaskStatistics(suite_of(2)), scheduler("ducb", 2)
    for _ in range(3):
        play(stats, 0, 5)
        play(stats, 1, 5)
        subject.probabilities(stats.evidence())
    for _ in range(40):
        play(stats, 0, 5)
        shares = subject.probabilities(stats.evidence())
    assert shares[1] > shares[0]


def test_plr_by_hand():
    stats, subject = TaskStatistics(suite_of(3)), scheduler("plr", temperature=1.0, staleness=0.5)
    stats.add_values(np.array([0.1, 0.9, 0.5]), np.full(3, np.nan))
    for task in (0, 1, 2):
        play(stats, task, 5)
        shares = subject.probabilities(stats.evidence())
    by_score = np.array([1 / 3, 1, 1 / 2])
    np.testing.assert_allclose(shares, 0.5 * by_score / by_score.sum() + 0.5 * np.array([2, 1, 0]) / 3)


def test_smt_trains_the_worst_until_solved_or_out_of_budget():
    stats, subject = TaskStatistics(suite_of(4)), scheduler("smt", 4, group=2, frames=10_000)
    for task, successes in enumerate((8, 0, 1, 5)):
        play(stats, task, successes, frames=0)
    np.testing.assert_allclose(subject.probabilities(stats.evidence()), [0, 0.5, 0.5, 0])
    for _ in range(3):
        play(stats, 2, 10, frames=10)
        shares = subject.probabilities(stats.evidence())
    np.testing.assert_allclose(shares, [0, 0.5, 0, 0.5])  # task 2 is solved; the next worst takes its place
    play(stats, 1, 0, frames=5000)  # more than κ · 10 000 / 4
    np.testing.assert_allclose(subject.probabilities(stats.evidence()), [0.5, 0, 0, 0.5])
    play(stats, 3, 5, frames=6000)  # the first stage is over
    np.testing.assert_allclose(subject.probabilities(stats.evidence()), [0, 1, 0, 0])


def test_smt_waits_until_it_knows_all_tasks():
    """Easy tasks have short episodes and are observed first; the group is of the hardest all the same."""
    stats, subject = TaskStatistics(suite_of(4)), scheduler("smt", 4, group=2)
    for task, successes in enumerate((9, 8, 7)):
        play(stats, task, successes)
        shares = subject.probabilities(stats.evidence())
        assert not (subject.pools == TRAIN).any() and (shares > 0).all()
    play(stats, 3, 0)
    subject.probabilities(stats.evidence())
    assert np.flatnonzero(subject.pools == TRAIN).tolist() == [2, 3]


def test_fixed_names_its_tasks():
    with pytest.raises(ConfigError, match="no task 'x'; tasks are t0, t1, t2"):
        scheduler("fixed", weights={"x": 1.0})
    with pytest.raises(ConfigError, match="not all 0"):
        scheduler("fixed", weights={"t0": 0.0, "t1": 0.0, "t2": 0.0})


def test_statistics_keep_what_schedulers_look_at():
    stats = TaskStatistics(make_suite("toy/three"))
    play(stats, 1, 4, frames=50)
    play(stats, 2, 0, episodes=0, frames=70)
    assert stats.success_sums.tolist() == [0, 4, 0]
    assert stats.frames.tolist() == [0, 50, 70]
    stats.add_values(np.array([np.nan, 1.0, np.nan]), np.full(3, np.nan))
    stats.add_values(np.array([2.0, 2.0, np.nan]), np.full(3, np.nan))
    np.testing.assert_allclose(stats.value_errors, [2.0, 1.1, np.nan])


def test_the_page_lists_every_scheduler_and_option():
    page = (Path(__file__).parents[1] / "docs" / "curriculum.md").read_text()
    for name, kind in SCHEDULERS.items():
        assert f"`{name}`" in page
        for option, field in kind.Options.model_fields.items():
            assert f"`{option}`" in page, (name, option)
            if not field.is_required() and not isinstance(field.default, dict):
                default = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:.10g}"
                assert f"`{option}` ({default})" in page, (name, option)


def test_the_ladder_is_what_it_says():
    """The right answers reach the top of each rung, the first wrong one ends, and every rung asks the same questions."""
    suite = make_suite("toy/ladder")
    assert suite.num_tasks == 5
    for rung, task in enumerate(suite.tasks, start=1):
        env = task.make_env()
        env.reset(seed=0)
        for i, answer in enumerate(env.answers[: 4 * rung]):
            _, reward, terminated, truncated, info = env.step(answer)
            assert (reward == 1.0) == terminated == info["success"] == (i == 4 * rung - 1)
            assert not truncated
        env.reset(seed=0)
        _, reward, terminated, _, info = env.step((env.answers[0] + 1) % 3)
        assert (reward, terminated, info["success"]) == (0.0, True, False)


def test_an_outcome_by_hand():
    """Two tasks of 100 episodes; the curve of the mean is 0 at 0, .2 at 100, .8 at 200, and goes beyond the budget of 250 to .9 at 300."""
    rows = [
        {"summary/frames": 100, "tasks/a/frames": 50, "tasks/a/score": 0.4},  # b has no episode yet
        {"throughput/queue_wait_seconds": 1.0},
        {"summary/frames": 200, "tasks/a/frames": 50, "tasks/a/score": 1.0, "tasks/b/score": 0.6, "tasks/a/success_rate": 1.0},
        {"summary/frames": 300, "tasks/a/frames": 99, "tasks/a/score": 1.0, "tasks/b/score": 0.8}
        | {"tasks/a/success_rate": 0.95, "tasks/b/success_rate": 0.9},
    ]
    rows = [row | {"tasks/a/episodes": 100, "tasks/b/episodes": 100} for row in rows]
    found = curve_of(rows, ["a", "b"], 250, 0.5)
    assert found == (pytest.approx((10 + 50 + 0.5 * (0.8 + 0.85) * 50) / 250), 200, 300)
    short = curve_of(rows[:1], ["a", "b"], 250, 0.5)
    assert short == (pytest.approx((10 + 0.2 * 150) / 250), np.inf, np.inf)
    few = [row | {"tasks/b/episodes": 99} for row in rows]
    assert curve_of(few, ["a", "b"], 250, 0.5)[1:] == (np.inf, np.inf), "few episodes reach nothing"


def test_halving_keeps_the_baseline_and_the_better_half():
    assert [rungs(seeds) for seeds in (1, 2, 3, 5, 8)] == [[1], [2], [2, 3], [2, 4, 5], [2, 4, 8]]
    found = {name: [area] for name, area in (("a", 0.1), ("b", 0.2), ("c", 0.5), ("d", 0.4))}
    assert better_half(found, ["a", "b", "c", "d"]) == ["a", "c", "d"]
    assert better_half(found, ["a", "c", "d"]) == ["a", "c"]


def test_differences_are_paired_by_seed(capsys):
    """Seeds differ by .8 and schedulers by .1: the interval of the difference is narrow. The third has one seed and no interval."""
    seeds = np.array([0.0, 0.4, 0.8])
    table = {
        name: [Outcome(area, area, area, 10 if area > 0.05 else np.inf, np.inf) for area in seeds[:count] + shift]
        for name, shift, count in (("uniform", 0.0, 3), ("better", 0.1, 3), ("stopped", 0.05, 1))
    }
    print_table(table, 0.8)
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "0.100 (0.100 – 0.100)" in lines["better"] and "10 (3 of 3)" in lines["better"] and "never (0 of 3)" in lines["better"]
    assert "10 (2 of 3)" in lines["uniform"] and "never (0 of 1)" in lines["stopped"]
    assert lines["stopped"].split()[1:4] == ["1", "0.050", "(–)"]


@pytest.mark.slow
def test_the_benchmark_compares_schedulers_and_goes_on_with_what_is_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mtrl.benchmark.curriculum.REPORT_SECONDS", 0.1)
    config = override(
        load_config(Path(__file__).parents[1] / "configs" / "ladder.yaml"), {"total_frames": 4000, "env_runners.num_env_runners": 0}
    )
    found = compare(config, ["uniform", "camrl:switch=false:pace=2", "t3s"], 3, tmp_path, halving=True, episodes=4)
    assert {name: len(each) for name, each in found.items()}["uniform"] == 3 and sorted(map(len, found.values())) == [2, 3, 3]
    for seed, outcome in enumerate(found["t3s"]):
        (file,) = RunLayout(tmp_path / "t3s" / f"seed-{seed}").all_results()
        results = read_results(file)
        assert {task.n for task in results.tasks.values()} == {4} and outcome.score == results.score_mean.value
    assert "Shares of the tasks, scheduler uniform" in (tmp_path / "report.html").read_text()
    assert capsys.readouterr().out.count("never (0 of 3)") == 4  # five rungs need more than that
    kept = {path: path.read_bytes() for path in (*tmp_path.glob("*/seed-*/metrics.jsonl"), *tmp_path.glob("*/seed-*/evaluation/*/*.json"))}
    assert compare(config, list(found), 3, tmp_path, halving=True, episodes=4) == found
    assert all(path.read_bytes() == content for path, content in kept.items())


def test_schedulers_of_the_benchmark_have_options_of_any_kind():
    text = "uniform,mastering_rate:graph={b: [a], c: [a, b]}:power=2,fixed:weights={a: 2}"
    names = split_schedulers(text)
    assert names[0] == "uniform" and names[2] == "fixed:weights={a: 2}"
    config = override(load_config(Path(__file__).parents[1] / "configs" / "toy.yaml"), {"curriculum.scheduler": "t3s"})
    config = override(config, {"curriculum.options": {"temperature": 0.5}})
    assert described(names[1], config)["curriculum.options"] == {"graph": {"b": ["a"], "c": ["a", "b"]}, "power": 2}
    assert described("t3s:progress_weight=0.1", config)["curriculum.options"] == {"temperature": 0.5, "progress_weight": 0.1}


def test_the_benchmark_says_what_is_wrong_before_it_trains(tmp_path):
    config = load_config(Path(__file__).parents[1] / "configs" / "toy.yaml")
    for wrong, reason in (("nobody", "no scheduler 'nobody'"), ("camrl:pace", "NAME:OPTION=VALUE"), ("camrl:pase=2", "pase")):
        with pytest.raises(ConfigError, match=reason):
            compare(config, ["uniform", wrong], 1, tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_mastered_task_that_is_lost_is_reported_once_and_again_when_it_is_back():
    stats, watch = TaskStatistics(suite_of(2)), ForgettingWatch(("a", "b"))
    play(stats, 0, 100, episodes=100)
    play(stats, 1, 50, episodes=100)
    assert watch.update(stats.evidence()) == []
    play(stats, 0, 0, episodes=9)
    assert watch.update(stats.evidence()) == []  # 0.91: within the loss that is let pass
    play(stats, 0, 0, episodes=6)
    (sentence,) = watch.update(stats.evidence())
    assert "a is being forgotten" in sentence
    assert "1.00 to 0.85" in sentence
    assert watch.update(stats.evidence()) == []
    np.testing.assert_allclose(watch.boosted(np.array([0.5, 0.5]), 3.0), [0.75, 0.25])
    play(stats, 0, 100, episodes=100)
    assert watch.update(stats.evidence()) == ["a is back at a success rate of 1.00"]
    play(stats, 1, 0, episodes=100)  # was never mastered
    assert watch.update(stats.evidence()) == []


@pytest.mark.parametrize("rate", [0.9, 0.92, 0.95])
def test_a_task_that_stays_is_hardly_ever_called_forgotten(rate):
    """The best of many windows is a lucky one: a task that stayed at 0.9 was below it by more than 0.1 for half of the time."""
    stats, watch, rng = TaskStatistics(suite_of(1)), ForgettingWatch(("a",)), np.random.default_rng(0)
    forgotten = []
    for _ in range(2000):
        stats.add_episodes([Episode(0, 0, 1.0, 10, bool(success), True, False) for success in rng.random(10) < rate])
        watch.update(stats.evidence())
        forgotten.append(watch.forgotten[0])
    assert np.mean(forgotten) < 0.04
    for _ in range(12):  # and a real loss of 0.2 is seen within some 100 episodes
        stats.add_episodes([Episode(0, 0, 1.0, 10, bool(success), True, False) for success in rng.random(10) < rate - 0.25])
        watch.update(stats.evidence())
    assert watch.forgotten[0]


def test_the_floor_holds_after_a_boost():
    """Shares 3 : 1, of which the first is forgotten and counts four times: 12 : 1, and only then a fifth of everything is spread evenly."""
    config = CurriculumConfig(scheduler="fixed", options={"weights": {"t0": 3.0}}, boost_forgotten=4.0, floor=0.2)
    names = suite_of(2).names
    stats, decider = TaskStatistics(suite_of(2)), Decider(config, make_scheduler(config, names), names)
    play(stats, 0, 100, episodes=100)
    np.testing.assert_allclose(decider.decide(stats.evidence()).shares, [0.8 * 3 / 4 + 0.1, 0.8 / 4 + 0.1])
    play(stats, 0, 0, episodes=20)
    shares = decider.decide(stats.evidence()).shares
    np.testing.assert_allclose(shares, [0.8 * 12 / 13 + 0.1, 0.8 / 13 + 0.1])
    assert shares.min() >= config.floor / 2


def test_exponential_means_follow_success_and_the_slow_one_lags():
    stats, rng = TaskStatistics(suite_of(2)), np.random.default_rng(0)
    results = rng.random(60) < np.linspace(0.1, 1.0, 60)
    stats.add_episodes([Episode(0, 0, float(won), 10, bool(won), True, False) for won in results])

    def exponential(values):
        weights = 0.05 * 0.95 ** np.arange(len(values))[::-1]
        weights[0] = 0.95 ** (len(values) - 1)  # the first value begins the mean
        return weights @ values

    fast = [exponential(results[:n]) for n in range(1, 61)]
    assert stats.fast_successes[0] == pytest.approx(fast[-1])
    assert stats.slow_successes[0] == pytest.approx(exponential(np.array(fast)))
    assert stats.progress[0] == stats.fast_successes[0] - stats.slow_successes[0] > 0.1
    assert np.isnan(stats.progress[1])  # nothing is known of a task without episodes


def test_without_a_range_of_returns_a_success_is_the_score():
    task = Task("t", Corridor, high=None)
    stats = TaskStatistics(TaskSuite("test", (task,), OBSERVATION_SPACE, ACTION_SPACE, lambda obs: obs, "test"))
    stats.add_episodes([Episode(0, 0, 1e6, 10, won, True, False) for won in (True, False, False, True)])
    assert stats.scores[0] == 0.5


@pytest.mark.parametrize(("name", "option"), [("rollin", "mastered"), ("worst_first", "solved")])
def test_certain_success_is_never_shown(name, option):
    """No number of episodes makes a success rate of 1 more likely than a smaller one."""
    with pytest.raises(ConfigError, match=f"{option}.*less than 1"):
        scheduler(name, 2, **{option: 1.0})


def test_a_comparison_gives_each_scheduler_its_own_options_alone():
    config = load_config("configs/toy.yaml")
    of_mine = {"curriculum.scheduler": "my_rules:Hardest"}
    assert described("my_rules:Hardest:episodes=5", config) == {**of_mine, "curriculum.options": {"episodes": 5}}
    assert described("my_rules:Hardest", config) == {**of_mine, "curriculum.options": {}}
    assert described("plr:temperature=0.1", config) == {"curriculum.scheduler": "plr", "curriculum.options": {"temperature": 0.1}}
    config = override(config, described("plr:temperature=0.1", config))
    assert all(override(config, described(name, config)).curriculum.options == {} for name in ("ducb", "uniform"))


def test_evaluations_can_be_the_evidence():
    suite = suite_of(2)
    stats = TaskStatistics(suite)
    play(stats, 0, 10, episodes=30)
    play(stats, 1, 0, episodes=30)
    nothing = scheduler("success_gap", 2).probabilities(stats.evidence(evaluated=True))
    np.testing.assert_allclose(nothing, 0.5)  # a task is not judged by episodes that do not count
    rows = {"t0": (2, 20), "t1": (15, 20)}
    rates = {name: Estimate(won / n, 0.0, 1.0) for name, (won, n) in rows.items()}
    found = {name: TaskResult(n, won, rates[name], rates[name], won / n, 10.0) for name, (won, n) in rows.items()}
    mean = Estimate(17 / 40, 0.0, 1.0)
    stats.add_evaluation(EvaluationResults("p-v1", {}, 1, "gymnasium", True, found, mean))
    again = TaskStatistics(suite)
    again.load_state_dict(stats.state_dict())
    for known in (stats, again):
        # Beta(3, 19) and Beta(16, 6): 19 and 6 failures of 22.
        np.testing.assert_allclose(scheduler("success_gap", 2).probabilities(known.evidence(evaluated=True)), [19 / 25, 6 / 25])
    for _ in range(4):
        stats.add_evaluation(EvaluationResults("p-v1", {}, 1, "gymnasium", True, found, mean))
    # The rates are the newest evaluation's: they are as uncertain as before.
    np.testing.assert_allclose(scheduler("success_gap", 2).probabilities(stats.evidence(evaluated=True)), [19 / 25, 6 / 25])
    with pytest.raises(ConfigError, match="there would be none"):
        override(load_config("configs/toy.yaml"), {"curriculum.evidence": "evaluation"})


def test_smt_leaves_what_it_solves_in_the_second_stage():
    """One task that could not be solved at first must not keep all frames for the rest of the run."""
    stats, subject = TaskStatistics(suite_of(3)), scheduler("smt", 3, group=1, frames=10_000)
    for task, successes in enumerate((0, 6, 6)):
        play(stats, task, successes, frames=0)
    subject.probabilities(stats.evidence())
    play(stats, 0, 0, frames=20_000)
    np.testing.assert_allclose(subject.probabilities(stats.evidence()), [1, 0, 0])
    for _ in range(3):
        play(stats, 0, 10)
        shares = subject.probabilities(stats.evidence())
    assert shares[0] < 0.5


def test_mbtl_chooses_all_its_sources():
    """Five sources in stages of a tenth of the run, which all sources so far share."""
    subject, n = scheduler("mbtl", 20), 20
    episodes, shares, chosen = np.zeros(n), np.full(n, 1 / n), []
    for frames in range(20_000, 1_000_001, 20_000):
        episodes += np.round(400 * shares)
        rates = np.full(n, 0.5)
        trained = np.where(shares > 0, frames * shares, 0.0) if not chosen else chosen[-1][1] + 20_000 * shares
        evidence = Evidence(episodes.copy(), episodes / 2, rates, trained, rates, rates, rates, None, np.arange(n) / n, np.array(1e6))
        shares = subject.probabilities(evidence)
        chosen.append(((subject.order >= 0).sum(), trained))
    assert [next(i for i, (count, _) in enumerate(chosen) if count >= wanted) // 5 for wanted in range(1, 6)] == [0, 1, 2, 3, 4]


def test_drats_follows_gaps_of_tasks_outside_of_its_prior_nowhere():
    shares = tilted(np.array([1.0, 1.0, 0.0]), np.array([0.1, 0.3, 1.0]), 2000.0, 0.5)
    assert np.isfinite(shares).all() and shares[2] == 0 and shares[1] > shares[0] > 0


@pytest.mark.parametrize("name", ["smt", "success_gap", "learning_progress", "ducb"])
def test_counts_that_begin_anew_are_followed(name):
    """As of evaluations after those of the training: the scheduler goes on to observe."""
    subject = scheduler(name)
    for step in (30_000, 30_010, 100, 200, 300, 400):
        episodes, rates = np.full(3, float(step)), np.array([0.1, 0.5, 0.9])
        evidence = Evidence(episodes, episodes * rates, rates, 1e6 + np.arange(3.0), rates, rates, rates, None, None, np.array(1e7))
        before = subject.num_observations.copy()
        subject.probabilities(evidence)
    assert (subject.num_observations == before + 1).all()
    np.testing.assert_allclose(subject.latest, [0.1, 0.5, 0.9])
