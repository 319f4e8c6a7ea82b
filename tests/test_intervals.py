"""Intervals of one policy's episodes: against closed forms, scipy's binomial distribution, and experiments with a known truth."""

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm, t

from mtrl.evaluation.intervals import Estimate, mean_over_tasks, score_interval, success_interval


@pytest.mark.parametrize("episodes", [2, 5, 25, 512])
def test_no_success_has_a_closed_form(episodes: int) -> None:
    # Half the probability of no success is 2.5 %: (1 - p)^n = 0.05.
    found = success_interval(0, episodes)
    assert found.low == 0.0 and found.high == pytest.approx(1 - 0.05 ** (1 / episodes))
    mirrored = success_interval(episodes, episodes)
    assert mirrored.high == 1.0 and mirrored.low == pytest.approx(1 - found.high)


@pytest.mark.parametrize(("successes", "episodes"), [(1, 5), (7, 25), (49, 50), (500, 512)])
def test_bounds_solve_the_equations_of_mid_p(successes: int, episodes: int) -> None:
    found = success_interval(successes, episodes)

    def upper_tail(p: float) -> float:
        return float(binom.sf(successes, episodes, p) + binom.pmf(successes, episodes, p) / 2)

    assert found.low == pytest.approx(brentq(lambda p: upper_tail(p) - 0.025, 0, 1))
    assert found.high == pytest.approx(brentq(lambda p: upper_tail(p) - 0.975, 0, 1))


@pytest.mark.parametrize("episodes", [5, 25, 50])
def test_success_interval_holds_its_level_for_every_rate(episodes: int) -> None:
    intervals = [success_interval(count, episodes) for count in range(episodes + 1)]
    for rate in np.linspace(0.005, 0.995, 199):
        holds = [found.low <= rate <= found.high for found in intervals]
        assert binom.pmf(np.arange(episodes + 1), episodes, rate) @ holds >= 0.92


@pytest.mark.parametrize("episodes", [5, 25, 50, 512])
@pytest.mark.parametrize("rate", [0.02, 0.5, 0.98, 1.0])
def test_score_interval_holds_its_level_near_the_ends(episodes: int, rate: float) -> None:
    # Scores as MiniGrid's: 0 after a failure, about 0.95 after a success. A percentile bootstrap covers 0.1 to 0.6 at a rate of 0.02.
    rng = np.random.default_rng(0)
    drawn = (rng.random((600, episodes)) < rate) * (0.9 + 0.1 * rng.random((600, episodes)))
    found = [score_interval(scores) for scores in drawn]
    assert np.mean([one.low <= 0.95 * rate <= one.high for one in found]) >= 0.92
    assert all(0 <= one.low <= one.value <= one.high <= 1 for one in found)


def test_scores_of_zeros_and_ones_are_successes() -> None:
    assert score_interval(np.array([1.0] * 7 + [0.0] * 3)) == success_interval(7, 10)


def test_scores_without_a_limit_get_students_interval() -> None:
    scores = np.array([1.2, -0.4, 3.0, 0.9])
    low, high = t.interval(0.95, 3, loc=scores.mean(), scale=scores.std(ddof=1) / 2)
    assert score_interval(scores) == pytest.approx((scores.mean(), low, high))


def test_mean_over_tasks_is_the_normal_one_where_tasks_are_normal() -> None:
    z = norm.ppf(0.975)
    errors = np.array([0.03, 0.05, 0.01])
    tasks = [Estimate(0.5, 0.5 - z * error, 0.5 + z * error) for error in errors]
    expected = z * math.sqrt((errors**2).sum()) / 3
    assert mean_over_tasks(tasks) == pytest.approx((0.5, 0.5 - expected, 0.5 + expected))


def test_mean_over_solved_tasks_leaves_room_for_a_failure() -> None:
    found = mean_over_tasks([success_interval(50, 50)] * 10)
    assert found.value == found.high == 1.0 and 0.97 < found.low < 0.995


def test_mean_over_tasks_holds_its_level() -> None:
    rng = np.random.default_rng(1)
    successes = rng.binomial(25, 0.98, (400, 7))
    intervals = [success_interval(count, 25) for count in range(26)]
    found = [mean_over_tasks([intervals[count] for count in row]) for row in successes]
    assert np.mean([one.low <= 0.98 <= one.high for one in found]) >= 0.9


def test_one_episode_has_no_interval() -> None:
    for found in (success_interval(1, 1), score_interval(np.array([0.7])), mean_over_tasks([success_interval(1, 1)])):
        assert not found.bounded and found.text().endswith("(–)")
        assert found.to_json()["low"] is None


def test_scores_between_the_ends_have_two_more_episodes_at_either_end() -> None:
    padded = np.array([0.9, 1.0, 0.95, 0.0, 0.0, 1.0, 1.0])
    half = t.ppf(0.975, 6) * padded.std() / math.sqrt(7)
    expected = (0.95, max(0.0, padded.mean() - half), min(1.0, padded.mean() + half))
    assert score_interval(np.array([0.9, 1.0, 0.95])) == pytest.approx(expected)
    narrow = np.linspace(0.4, 0.6, 50)
    inside = score_interval(narrow)
    padded = np.concatenate([narrow, [0.0, 0.0, 1.0, 1.0]])
    half = t.ppf(0.975, 53) * padded.std() / math.sqrt(54)
    assert inside == pytest.approx((0.5, 0.5 - half, 0.5 + half))


def test_equal_returns_without_bounds_have_no_interval():
    """Three episodes of 5 points say nothing about how far the fourth would be."""
    assert not score_interval([5.0, 5.0, 5.0]).bounded and score_interval([5.0, 5.0, 6.0]).bounded
    assert score_interval([1.0, 1.0, 1.0]).bounded, "a rate is bounded by 0 and 1"
