"""The benchmarks measure what they say; how fast this machine is, they say when they are run."""

from __future__ import annotations

import re
import time

import pytest
from helpers import toy_config

from envs import make_suite
from mtrl.benchmark import speed
from mtrl.benchmark.initial_rollout import initial_rollout


def test_a_row_is_median_and_spread(capsys):
    speed._row("a part", [3.0, 1.0, 10.0], "frames/s")
    assert re.fullmatch(r"a part +3\.00 frames/s  \(1\.00 to 10\.00, n=3\)\n", capsys.readouterr().out)


def test_calls_are_timed_one_by_one():
    waits = iter([0.0, 0.0, 0.01, 0.02, 0.03])
    times = speed._time(lambda: time.sleep(next(waits)), seconds=0.0)
    assert times == pytest.approx([0.01, 0.02, 0.03], abs=0.008)  # the first two calls do not count


def test_the_systems_rate_is_its_trained_frames_over_time():
    config = toy_config(env_runners__slots=12, env_runners__unroll_length=16, total_frames=10**9)
    before = time.perf_counter()
    rate = speed.measure_system(config, seconds=1.0, warm_up=0.3)
    elapsed = time.perf_counter() - before
    assert elapsed >= 1.3
    assert 200 < rate < 10**6


def timed_as(seconds: float):
    """Stands in for the clock: calls the function once and says that it took so long."""

    def measure(function, **kwargs):
        function()
        return [seconds] * 3

    return measure


def test_parts_are_measured_for_the_ceiling(monkeypatch):
    monkeypatch.setattr(speed, "_time", timed_as(0.5))
    parts = speed._parts(toy_config("minigrid/mt3", env_runners__slots=6), make_suite("minigrid/mt3"))
    assert set(parts) == {"environments", "inference", "learner"}
    assert parts["learner"] == pytest.approx(6 * 8 / 0.5, rel=0.1)  # nearly every step is valid
    assert all(rate > 0 for rate in parts.values())


def test_the_learner_is_measured_with_and_without_sharing(capsys, monkeypatch):
    monkeypatch.setattr(speed, "_time", timed_as(0.001))
    speed.learner(toy_config("minigrid/mt3", env_runners__slots=6))
    lines = capsys.readouterr().out.splitlines()
    assert "each distinct observation once" in lines[1]
    assert "every observation" in lines[2]
    assert "GFLOP/s" in lines[-1]


def test_a_memorys_cost_is_measured_against_the_learner_without_one(capsys, monkeypatch):
    durations = iter([3.0, 1.5] * 5)  # in turns
    had_memory = []

    def measure(function, seconds):
        had_memory.append(any("memory." in name for name in function.__defaults__[0].policy_weights()))
        function()
        return [next(durations)] * 3

    monkeypatch.setattr(speed, "_time", measure)
    config = toy_config("minigrid/mt3", env_runners__slots=6, model__memory=True)
    suite = make_suite("minigrid/mt3")
    speed._compare_without_memory(config, suite, initial_rollout(config, suite))
    assert had_memory == [True, False] * 5
    assert re.search(r"ratio of the two +2\.00 ", capsys.readouterr().out)
