"""Other trainers are given the same tasks, and their steps and episodes are counted by the environments themselves."""

from __future__ import annotations

import json
import sys
import time

import gymnasium
import numpy as np
import pytest

from envs import make_suite
from mtrl.benchmark.peers import PEERS, PeerProgram, mean_score, minigrid_ids, program
from mtrl.benchmark.peers.comparison import measure_peer
from mtrl.benchmark.peers.program import Line, Peer, steps_per_second
from mtrl.benchmark.peers.programs.tasks import STEPS_OF_A_LINE, make_task
from mtrl.cli.dispatch import main
from mtrl.errors import UserError

ENV_IDS = ["MiniGrid-Empty-5x5-v0", "MiniGrid-LavaGapS7-v0", "MiniGrid-DoorKey-5x5-v0"]

# A trainer that plays at random, in the same process structure as the others.
RANDOM_PLAYER = """
import sys
sys.path.insert(0, {programs!r})
from tasks import make_task
envs = [make_task(sys.argv[1], number) for number in range(4)]
for number, env in enumerate(envs):
    env.reset(seed=int(sys.argv[3]) + number)
while True:
    for env in envs:
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()
"""


@pytest.fixture
def random_player(tmp_path, monkeypatch):
    """A peer of this project's own packages."""
    script = tmp_path / "player.py"
    script.write_text(RANDOM_PLAYER.format(programs=str(program.PROGRAMS)))
    monkeypatch.setitem(PEERS, "random", Peer("random player", str(script), ()))
    monkeypatch.setattr(program, "installed", lambda name: sys.executable)
    return "random"


def test_steps_and_returns_are_those_of_the_environments(tmp_path):
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"env_ids": ENV_IDS, "log": str(tmp_path / "log")}))
    steps, ended = 0, []
    for number in (1, 5):
        env, plain = make_task(str(plan), number), gymnasium.make(ENV_IDS[number % 3])
        observation, _ = env.reset(seed=number)
        seen, _ = plain.reset(seed=number)
        total = 0.0
        rng = np.random.default_rng(number)
        for _ in range(700):
            np.testing.assert_allclose(observation[:-3], seen["image"].reshape(-1) / 10.0, rtol=1e-6)
            assert observation[-3:].tolist() == np.eye(3)[number % 3].tolist() and env.observation_space.contains(observation)
            action = int(rng.integers(7))
            observation, reward, terminated, truncated, _ = env.step(action)
            seen, *_ = plain.step(action)
            steps, total = steps + 1, total + float(reward)
            if terminated or truncated:
                ended.append((number % 3, total))
                total = 0.0
                observation, seen = env.reset(seed=steps)[0], plain.reset(seed=steps)[0]
    lines = [Line(*json.loads(line)) for line in (tmp_path / "log").read_text().splitlines()]
    assert 0 <= steps - sum(line.steps for line in lines) < 2 * STEPS_OF_A_LINE
    assert [(line.task, line.episode_return) for line in lines if line.episode_return is not None] == ended and len(ended) > 3
    assert all(line.steps <= STEPS_OF_A_LINE for line in lines)


def test_speed_and_score_are_computed_from_lines():
    lines = [Line(1.0, 0, 64, None), Line(2.0, 0, 10, 0.5), Line(2.5, 1, 64, None), Line(4.0, 1, 20, 0.0)]
    assert steps_per_second(lines, 1.0, 3.0) == (10 + 64) / 2
    suite = make_suite("minigrid/LavaGapS7,DistShift1")  # of 0.9633 and 0.9607
    assert np.isnan(mean_score(lines[:3], suite))
    assert mean_score(lines, suite) == pytest.approx(0.5 * 0.5 / 0.9633)
    better = [*lines, *[Line(5.0, 1, 9, 0.9607)] * 1000]  # of which the last alone count
    assert mean_score(better, suite) == pytest.approx(0.5 * 0.5 / 0.9633 + 0.5)


def test_a_running_peer_is_measured_and_ended(random_player):
    with PeerProgram.running(random_player, ENV_IDS) as running:
        running.wait_for_steps()
        process = running._process
        time.sleep(1.0)
        assert {line.task for line in running.lines()} == {0, 1, 2}
    assert process.returncode is not None
    assert measure_peer(random_player, ENV_IDS, seconds=1.0, warm_up=0.2) > 100


def test_a_peer_that_fails_says_why(random_player):
    with (
        pytest.raises(RuntimeError, match=r"(?s)random player has ended:.*NoSuch"),
        PeerProgram.running(random_player, ["NoSuch-v0"]) as running,
    ):
        running.wait_for_steps()


def test_packages_that_cannot_be_installed_are_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setitem(PEERS, "missing", Peer("a trainer", "train.py", (str(tmp_path / "nowhere"),)))
    with pytest.raises(UserError, match=r"^a trainer cannot be installed: [^\n]*nowhere[^\n]*$"):
        program.installed("missing")


def test_other_tasks_and_other_trainers_are_a_sentence(capsys):
    with pytest.raises(UserError, match="measured on minigrid/… alone"):
        minigrid_ids(make_suite("toy/three"))
    assert main(["bench", "peers", "--against", "rlib"]) == 2
    assert "--against: must be one of rllib, sample_factory, pufferlib, got 'rlib'; did you mean rllib" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sample_factory", "pufferlib"])
def test_the_real_trainers_train(name):
    """Installs them, which takes minutes."""
    with PeerProgram.running(name, minigrid_ids(make_suite("minigrid/mt3"))) as running:
        running.wait_for_steps()
        end = time.monotonic() + 120
        while len({line.task for line in running.lines() if line.episode_return is not None}) < 3:
            assert time.monotonic() < end
            time.sleep(1)
