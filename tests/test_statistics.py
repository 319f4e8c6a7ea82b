"""Figures over several runs, against hand values and against plain loops over rliable's published definitions (Agarwal et al. 2021)."""

import itertools

import numpy as np
import pytest
from scipy.stats import norm, t, trim_mean

from mtrl.evaluation.statistics import (
    aggregate,
    interquartile_mean,
    mean,
    mean_band,
    mean_interval,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    separation_interval,
)

rng = np.random.default_rng(7)
SCORES = rng.random((5, 4))  # five runs of four tasks
OTHERS = np.round(rng.random((3, 4)), 1)


def test_hand_values() -> None:
    assert interquartile_mean(np.array([0.0, 0.2, 0.4, 1.0])) == pytest.approx(0.3)
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 3.0, -9.0])) == pytest.approx(2.0)  # a quarter of five, rounded down: one
    values = np.random.default_rng(0).random((3, 30))
    assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25, axis=-1))
    assert optimality_gap(np.array([0.5, 1.0, 3.0])) == pytest.approx(1 / 6)  # what is above 1 makes up for nothing
    assert performance_profile(np.array([[0.1, 0.5], [0.5, 0.9]]), np.array([0.0, 0.5, 0.9])).tolist() == [1.0, 0.25, 0.0]
    improvement = probability_of_improvement(np.array([[1.0], [2.0]]), np.array([[1.0], [0.0], [3.0]]), np.random.default_rng(0))
    assert improvement.value == pytest.approx((0.5 + 1 + 0 + 1 + 1 + 0) / 6)  # a tie counts half


def test_improvement_is_the_mean_over_tasks_of_all_pairs() -> None:
    pairs = itertools.product(range(4), SCORES[:, 0], OTHERS[:, 0])
    total = 0.0
    for task in range(4):
        for ours, theirs in itertools.product(SCORES[:, task], OTHERS[:, task]):
            total += 1.0 if ours > theirs else 0.5 if ours == theirs else 0.0
    expected = total / len(list(pairs))
    assert probability_of_improvement(SCORES, OTHERS, np.random.default_rng(0)).value == pytest.approx(expected)
    reverse = probability_of_improvement(OTHERS, SCORES, np.random.default_rng(0)).value
    assert expected + reverse == pytest.approx(1.0)


def test_intervals_hold_tasks_fixed() -> None:
    # Runs agree, tasks do not: nothing is left to chance. A bootstrap over all cells would have an interval here.
    agreeing = np.tile([0.0, 0.3, 1.0], (4, 1))
    for statistic in (mean, interquartile_mean, optimality_gap):
        found = aggregate(agreeing, statistic, np.random.default_rng(0))
        assert not found.bounded or found.high - found.low < 1e-9


def test_interval_agrees_with_a_slow_bootstrap() -> None:
    slow = []
    generator = np.random.default_rng(1)
    for _ in range(4000):
        columns = [generator.choice(SCORES[:, task], 5) for task in range(4)]
        slow.append(np.sort(np.concatenate(columns))[5:-5].mean())  # the middle half of twenty cells
    found = aggregate(SCORES, interquartile_mean, np.random.default_rng(0))
    assert found.value == pytest.approx(np.sort(SCORES.ravel())[5:-5].mean())
    # Hesterberg's expanded percentile interval: five runs of four tasks, 16 degrees of freedom.
    tail = norm.cdf(-np.sqrt(5 / 4) * t.ppf(0.975, 16))
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(slow, [tail, 1 - tail])), abs=0.02)


@pytest.mark.parametrize("runs", [3, 5, 10])
def test_interval_covers_the_truth(runs: int) -> None:
    # The plain percentile interval covers 0.86 with three runs.
    generator = np.random.default_rng(3)
    for statistic in (mean, interquartile_mean):
        found = [aggregate(generator.normal(0.5, 0.2, (runs, 7)), statistic, generator, resamples=400) for _ in range(1500)]
        covered = np.mean([interval.low <= 0.5 <= interval.high for interval in found])
        assert 0.925 <= covered <= 0.975


@pytest.mark.parametrize("runs", [2, 3, 4, 5, 10])
def test_interval_of_one_figure_covers_the_truth(runs: int) -> None:
    """As of a task's score, or of a difference. A bootstrap of two runs covers half of the time."""
    generator = np.random.default_rng(4)
    drawn = generator.normal(0.5, 0.2, (runs, 2000))
    low, high = mean_band(drawn)
    assert np.mean((low <= 0.5) & (high >= 0.5)) == pytest.approx(0.95, abs=0.015)
    found = mean_interval(drawn[:, 0])
    assert (found.low, found.high) == pytest.approx((low[0], high[0]))
    if runs < 4:
        aggregates = [aggregate(drawn[:, :1], statistic, generator) for statistic in (mean, interquartile_mean)]
        assert all((each.low, each.high) == pytest.approx((low[0], high[0])) for each in aggregates)


def test_one_run_has_no_interval() -> None:
    assert not aggregate(SCORES[:1], mean, np.random.default_rng(0)).bounded
    assert not probability_of_improvement(SCORES[:1], OTHERS, np.random.default_rng(0)).bounded


def test_interval_narrows_with_more_runs() -> None:
    generator = np.random.default_rng(3)
    found = [aggregate(generator.normal(0.5, 0.2, (10, 5)), mean, generator, resamples=500) for _ in range(50)]
    many = aggregate(generator.normal(0.5, 0.2, (160, 5)), mean, generator)
    assert many.high - many.low < 0.5 * np.mean([interval.high - interval.low for interval in found])


def test_runs_that_agree_have_no_interval() -> None:
    assert not aggregate(np.ones((5, 3)), mean, np.random.default_rng(0)).bounded


def test_separated_runs_are_no_certainty() -> None:
    better, worse = np.array([[0.9], [0.8], [0.95]]), np.array([[0.5], [0.6], [0.4]])
    found = probability_of_improvement(better, worse, np.random.default_rng(0))
    assert found.value == found.high == 1.0 and 0.3 < found.low < 0.7
    # Three of three are less certain than ten of ten.
    many = probability_of_improvement(np.repeat(better, 4, 0), np.repeat(worse, 4, 0), np.random.default_rng(0))
    assert found.low < many.low < 1.0


def test_a_bound_of_separation_solves_newcombes_equation() -> None:
    value, ours, theirs = 0.8, 5, 7
    found = separation_interval(value, ours, theirs)
    for bound in found[1:]:
        spread = (ours + theirs) / 2 - 1
        variance = bound * (1 - bound) / (ours * theirs) * (1 + spread * (1 - bound) / (2 - bound) + spread * bound / (1 + bound))
        assert abs(value - bound) == pytest.approx(1.96 * np.sqrt(variance), rel=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1.0, 4.0])
def test_interval_of_improvement_covers_the_truth(shift: float) -> None:
    generator = np.random.default_rng(5)
    truth = norm.cdf(shift / np.sqrt(2))
    found = [
        probability_of_improvement(generator.normal(shift, 1, (5, 3)), generator.normal(0, 1, (5, 3)), generator, resamples=300)
        for _ in range(400)
    ]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= 0.92
