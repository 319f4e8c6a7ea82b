"""Families of EnvPool's simulators: their names, their sets and the scores that are published for them."""

from __future__ import annotations

import ctypes.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs import SuiteError, UnknownTaskError, make_suite, make_vector
from envs.suites import dmc, mujoco, procgen


@pytest.mark.parametrize(
    ("name", "episode_return", "score"),
    [
        # Cobbe et al. 2020: half of the way from Rmin to Rmax, and the ends.
        ("procgen/CoinRun", 7.5, 0.5),
        ("procgen/BigFish", 20.5, 0.5),
        ("procgen/StarPilot?mode=hard", 18.25, 0.5),
        ("procgen/FruitBot", -1.5, 0.0),
        ("procgen/FruitBot?mode=hard", 27.2, 1.0),
        ("procgen/Plunder", 64.5, 1.0),
        ("dmc/walker-walk", 250.0, 0.25),
        # D4RL's normalised score, a hundredth of it.
        ("mujoco/Hopper-v4", (-20.272305 + 3234.3) / 2, 0.5),
        ("mujoco/HalfCheetah", 12135.0, 1.0),
        ("mujoco/InvertedPendulum", 400.0, 0.4),
        ("kitchen/FrankaKitchen", 3.0, 3 / 7),
        ("football/academy_empty_goal", 1.0, 1.0),
        ("classic/MountainCar", -155.0, 0.5),
        ("highway/Highway", 30.0, 0.75),
        ("mujoco/Humanoid?low=100&high=5100", 1100.0, 0.2),
    ],
)
def test_a_return_has_its_published_score(name, episode_return, score):
    try:
        suite = make_suite(name)
    except SuiteError as error:
        if "Qt" in str(error):
            pytest.skip(str(error))
        raise
    assert suite.score(0, episode_return, 0.0) == pytest.approx(score)


@pytest.mark.parametrize(
    "name", ["fetch/FetchPush", "adroit/AdroitHandPen", "maze/PointMaze_Large", "myosuite/myoHandPoseRandom", "mujoco/Ant-v5"]
)
def test_where_nothing_is_published_success_is_the_score(name):
    suite = make_suite(name)
    assert [suite.score(0, 1e6, success) for success in (0.0, 1.0)] == [0.0, 1.0]


def test_the_sets_are_the_published_ones():
    assert len(dmc.MT30) + len(dmc.MISSING_IN_MT30) == 30
    assert make_suite("dmc/mt30").names == dmc.MT30
    assert len(procgen.SETS["16"]) == len(procgen.PUBLISHED) == 16
    assert make_suite("mujoco/v5").num_tasks == len(mujoco.TASKS) == 11
    assert make_suite("myosuite/10").num_tasks == 10


def test_names_are_those_that_users_know():
    assert make_suite("mujoco/Ant").names == ("Ant-v5",)
    assert make_suite("fetch/FetchReach,FetchReach-v1").names == ("FetchReach-v4", "FetchReach-v1")
    assert make_suite("dmc/ball_in_cup-catch").names == ("cup-catch",)
    assert make_suite("highway/highway-fast").names == ("highway-fast-v0",)
    with pytest.raises(UnknownTaskError, match="mujoco has no task 'Ants'; did you mean Ant"):
        make_suite("mujoco/Ants")
    with pytest.raises(UnknownTaskError, match="fetch has no task 'AdroitHandPen'"):
        make_suite("fetch/AdroitHandPen")


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("procgen/4?mode=medium", "there is no mode 'medium'; there are easy and hard"),
        ("procgen/4?levels=some", "levels is a number of levels"),
        ("procgen/4?level=3", "there is no option 'level'; there are mode and levels"),
        ("mujoco/Ant?low=3", "low needs high beside it"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(name, why):
    with pytest.raises(SuiteError, match=why):
        make_suite(name)


@pytest.mark.slow
def test_the_evaluation_plays_levels_that_training_does_not_have():
    suite = make_suite("procgen/CoinRun?levels=1")
    first = []
    for each in (suite, suite.for_evaluation()):
        tasks = make_vector(each, 6, backend="envpool", seed=1)
        first.append(tasks.reset()["frames"])
        tasks.close()
    assert len(np.unique(first[0], axis=0)) == 1
    assert len(np.unique(first[1], axis=0)) > 3


@pytest.mark.skipif(ctypes.util.find_library("Qt5Core") is not None, reason="the system has Qt 5")
def test_procgen_without_qt_says_what_to_install():
    code = "import sys; sys.modules['PyQt5'] = None; import envs; envs.make_suite('procgen/4')"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    assert "MissingPackageError: Procgen's games need the libraries of Qt 5; install mtrl-trainer[procgen]" in run.stderr.splitlines()[-1]
