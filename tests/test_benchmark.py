"""The benchmarks measure what they say; how fast this machine is, they say when they are run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from helpers import toy_config

from envs import make_suite
from mtrl.benchmark import chaos as chaos_module
from mtrl.benchmark import speed
from mtrl.benchmark.gate import judge
from mtrl.benchmark.initial_rollout import initial_rollout

ROOT = Path(__file__).parents[1]


def test_a_row_is_median_and_spread(capsys):
    speed.print_row("a part", [3.0, 1.0, 10.0], "frames/s")
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


@pytest.mark.parametrize(
    ("ratios", "slower"),
    [
        ([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0], False),
        ([0.95, 0.94, 0.96, 0.95, 0.93, 0.95, 0.96], True),
        ([0.98, 0.975, 0.985, 0.98, 0.98, 0.975, 0.98], False),  # within the tolerance, however certain
        ([0.8, 1.3, 0.9, 1.2, 0.7, 1.1, 0.95], False),  # nothing that a repetition would confirm
        ([1.2] * 7, False),
    ],
)
def test_a_gate_closes_for_what_is_slower_beyond_doubt(ratios: list[float], slower: bool) -> None:
    verdict = judge("learner", ratios)
    assert verdict.slower is slower and verdict.low <= verdict.ratio <= verdict.high


@pytest.mark.slow
def test_a_gate_tells_a_slow_tree_from_an_equal_one(tmp_path: Path) -> None:
    """A clone against its own commit, and the same clone with an update that first waits."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    shorter = "import sys, mtrl.benchmark.gate as g; g.ROUNDS, g.SECONDS = 4, 1.5; from mtrl.cli.dispatch import main; "
    command = [sys.executable, "-P", "-c", shorter + "sys.exit(main(['bench', 'gate', 'HEAD', '--env-runners.slots', '21']))"]
    environment = os.environ | {"PYTHONPATH": str(clone)}
    equal = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert equal.returncode == 0, equal.stdout + equal.stderr
    path = clone / "mtrl" / "learning" / "learner.py"
    text = path.read_text()
    line = "        coefficients = self._coefficients(progress)\n"
    path.write_text(text.replace(line, "        __import__('time').sleep(0.1)\n" + line, 1))
    assert path.read_text() != text
    slower = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert slower.returncode == 1 and "SLOWER" in slower.stdout, slower.stdout + slower.stderr
    assert subprocess.run(["git", "worktree", "list"], cwd=clone, capture_output=True, text=True).stdout.count("\n") == 1
    command[-1] = command[-1].replace("'HEAD'", "'nowhere'")
    unknown = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)
    assert unknown.returncode == 2 and "git has no commit nowhere" in unknown.stderr


def test_rays_note_of_a_cluster_that_has_ended_is_removed(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    note = tmp_path / "ray" / "ray_current_cluster"
    note.parent.mkdir()
    note.write_text("127.0.0.1:1234\n")
    chaos_module._forget_cluster("127.0.0.1:99")
    assert note.exists(), "that of another cluster"
    chaos_module._forget_cluster("127.0.0.1:1234")
    assert not note.exists()
