"""A user's own environments: the documented example as it stands, and what is said of those that do not fit."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import warnings
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest

from envs import EvaluationProtocol, PlayRecipe, SuiteError, TaskSuite, make_suite, make_vector
from envs.registry import FAMILIES, Family
from mtrl.cli.dispatch import main
from mtrl.config import ModelConfig
from mtrl.evaluation.export import play_script
from mtrl.evaluation.protocols import protocol_of
from mtrl.models.policy import build_policy
from mtrl.storage.checkpoint import load_policy, save_policy

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


def test_a_policy_on_another_scale_is_refused_or_warned_of(tmp_path, capsys):
    """By evaluation and by resuming: its actions would mean something else than when it was trained. The card of an export names them."""
    run, rule = tmp_path / "run", "from -1 … 1 to the bounds of Box(-2.0, 2.0, (1,), float32)"
    options = ["--num-env-runners", "0", "--suite.name", "gym/Pendulum-v1?low=-1600&high=0", "--total-frames", "500"]
    assert main(["train", "toy", *options, "--run-dir", str(run)]) == 0
    assert main(["export", str(run), "--format", "pt2", "-o", str(tmp_path / "out")]) == 0
    assert f"mapped {rule}" in (tmp_path / "out" / "README.md").read_text()
    (policy,) = (run / "policy").iterdir()
    weights, description = load_policy(policy)
    assert description["rules"] == {"actions": rule}
    for rules, code, text in (
        ({}, 2, "it would act wrongly"),
        ({"actions": rule.replace("2.0", "3.0")}, 2, "Box(-3.0, 3.0"),
        (None, 0, "does not say how its actions are scaled"),
    ):
        changed = {name: value for name, value in description.items() if name != "rules"} | ({} if rules is None else {"rules": rules})
        evaluate = ["evaluate", str(run), "--workers", "1", "--episodes", "1"]
        for command in (evaluate, ["train", "--resume", str(run), "--total-frames", "600"]):
            save_policy(run / "policy", int(policy.name), weights, changed, keep=[])
            capsys.readouterr()
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                assert main(command) == code
            assert text in capsys.readouterr().err + "".join(str(warning.message) for warning in warned)


def test_what_success_is():
    cartpole = make_suite("gym/CartPole-v1")
    assert cartpole.scored_by == "success" and cartpole.tasks[0].succeeded(475.0) and not cartpole.tasks[0].succeeded(474.9)
    ranged = make_suite("gym/CartPole-v1?low=0&high=500")
    assert ranged.score(0, 250.0) == 0.5


def test_views_of_grids_are_grids_and_numbers_are_a_vector():
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
        ("gym/CartPol-v1", "CartPol-v1 cannot be made: .*; the most similar ids are CartPole-v1"),
        ("gym/CartPole-v1,Acrobot-v1,CartPole-v1", "names a task twice: CartPole-v1, Acrobot-v1, CartPole-v1"),
        ("gym/CartPole-v1?stack=4", "stack puts images side by side, and none of these tasks observes one"),
        ("gym/CartPole-v1?stack=0", "stack is a number of images from 1 to 64, got '0'"),
        ("gym/CartPole-v1?high=many", "low and high are returns"),
        ("gym/CartPole-v1?low=1&high=0", "high has to be above low, got 1 and 0"),
        ("gym/CartPole-v1?hihg=1", "there is no option 'hihg'; there are low, high and stack"),
    ],
)
def test_what_does_not_fit_is_a_sentence(name, said):
    with pytest.raises(SuiteError, match=said):
        make_suite(name)


def test_a_family_is_one_line_in_the_registry_and_its_suites_say_how_they_are_evaluated_and_played(monkeypatch):
    protocol = EvaluationProtocol("mine-v1", episodes=7, actions="greedy")
    recipe = PlayRecipe("my_package", 'gymnasium.make("Mine/{task}-v0")', 'observation["vector"]')

    def make(name: str) -> TaskSuite:
        return replace(make_suite("toy/three"), name=f"mine/{name}", protocol=protocol, recipe=recipe)

    monkeypatch.setitem(FAMILIES, "mine", Family(make, lambda: ["all"]))
    suite = make_suite("mine/all")
    assert protocol_of(suite) == protocol
    lines = play_script(suite, build_policy(ModelConfig(), suite, seed=0).actor, suite.index("cue")).splitlines()
    assert "import my_package" in lines and 'env = gymnasium.make("Mine/cue-v0")' in lines
    assert any('policy(torch.from_numpy(observation["vector"])[None])' in line for line in lines)


@pytest.mark.parametrize(
    ("suite", "rules"),
    [
        ("minigrid/DistShift1", ("minigrid-v1", 25, "sampled", "gymnasium")),
        ("minigrid/DistShift1+minigrid/LavaGapS7", ("minigrid-v1", 25, "sampled", "gymnasium")),
        ("chaos/minigrid/mt3?raise=0.1", ("minigrid-v1", 25, "sampled", "gymnasium")),
        ("metaworld/reach?reward=v1", ("metaworld-50-v1", 50, "greedy", "gymnasium")),
        ("atari/Pong", ("atari-v1", 10, "sampled", "envpool")),
        ("babyai/GoToObj", ("babyai-512-v1", 512, "greedy", "gymnasium")),
        ("minigrid/DistShift1+toy/cue", ("generic-v1", 25, "sampled", "gymnasium")),
        ("minigrid/DistShift1+context/cartpole", ("generic-v1", 25, "sampled", "gymnasium")),
        ("context/cartpole+gym/CartPole-v1", ("generic-v1", 25, "sampled", "gymnasium")),
    ],
)
def test_published_protocols(suite, rules):
    assert astuple(protocol_of(make_suite(suite))) == rules
