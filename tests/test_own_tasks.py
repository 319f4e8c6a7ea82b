"""A user's own environments: the documented example as it stands, and what is said of those that do not fit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from envs import SuiteError, make_suite, make_vector

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "guides" / "own-environments.md").read_text()
EXAMPLE = (ROOT / "docs" / "examples" / "my_tasks.py").read_text()
COMMAND = re.search(r"```bash\npython (launch\.py train .*?)\n```", PAGE, re.S).group(1)


def launch(folder: Path, *arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, str(ROOT / "launch.py"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_example_learns_on_both_sources_and_is_evaluated(tmp_path):
    (tmp_path / "my_tasks.py").write_text(EXAMPLE)
    launch(tmp_path, *shlex.split(COMMAND)[1:], "--run-dir", "run")
    said = launch(tmp_path, "evaluate", "run", "--workers", "1")
    score = float(re.search(r"mean score ([\d.]+) \(", said, re.S).group(1))
    assert score > 0.9, said
    on_ray = [option for option in shlex.split(COMMAND)[1:] if option not in ("--num-env-runners", "0")]
    assert "Mirrored-v0" in launch(tmp_path, *on_ray, "--num-env-runners", "1", "--total-frames", "3000")


def test_a_policy_that_the_tasks_have_outgrown_is_refused_in_a_sentence(tmp_path):
    """By evaluation and by resuming, after an environment got one more number to look at."""
    (tmp_path / "my_tasks.py").write_text(EXAMPLE)
    launch(tmp_path, *shlex.split(COMMAND)[1:], "--run-dir", "run", "--total-frames", "400")
    grown = EXAMPLE.replace("(2,)", "(3,)").replace("self.place, self.goal]", "self.place, self.goal, 0.0]")
    assert grown != EXAMPLE
    (tmp_path / "my_tasks.py").write_text(grown)
    for arguments in (["evaluate", "run", "--workers", "1"], ["train", "--resume", "run", "--total-frames", "800"]):
        command = [sys.executable, str(ROOT / "launch.py"), *arguments]
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path)
        assert done.returncode == 2, done.stdout + done.stderr
        assert "the weights do not fit these tasks" in done.stderr
        assert "Traceback" not in done.stderr


def test_what_success_is():
    cartpole = make_suite("gym/CartPole-v1")
    assert cartpole.scored_by == "success" and cartpole.tasks[0].succeeded(475.0) and not cartpole.tasks[0].succeeded(474.9)
    ranged = make_suite("gym/CartPole-v1?low=0&high=500")
    assert ranged.score(0, 250.0) == 0.5


def test_views_of_grids_are_grids_and_everything_else_is_a_vector():
    grid = make_suite("gym/minigrid:MiniGrid-Empty-5x5-v0,minigrid:MiniGrid-LavaGapS5-v0")
    assert grid.observation_space == make_suite("minigrid/mt3").observation_space
    assert grid.names == ("MiniGrid-Empty-5x5-v0", "MiniGrid-LavaGapS5-v0")
    numbers = make_suite("gym/Taxi-v3")  # one of 500 states
    tasks = make_vector(numbers, 2, seed=0)
    observed = tasks.reset()["vector"]
    assert observed.shape == (2, 500) and observed.dtype == np.float32 and (observed.sum(axis=1) == 1).all()
    tasks.close()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gym/NoSuch-v0", "gym: NoSuch-v0 cannot be made: NameNotFound"),
        ("gym/no_such_module:X-v0", "gym: no_such_module:X-v0 cannot be made: ModuleNotFoundError"),
        ("gym/CartPole-v1,Acrobot-v1", "Acrobot-v1 observes .*, but CartPole-v1 observes"),
        ("gym/CartPole-v1?high=many", "low and high are returns"),
        ("gym/CartPole-v1?low=1&high=0", "high has to be above low, got 1 and 0"),
        ("gym/CartPole-v1?hihg=1", "there is no option 'hihg'; there are low and high"),
    ],
)
def test_what_does_not_fit_is_a_sentence(name, said):
    with pytest.raises(SuiteError, match=said):
        make_suite(name)
