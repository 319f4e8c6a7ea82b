"""The check of tasks before a run: environments that are broken in a known way, and some that are not."""

from __future__ import annotations

import collections
import math
import re
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest

from envs import make_suite
from envs.inspection import Inspection, PlayedEpisode, Rewards, inspect_task
from mtrl.checking.advice import advise, needed_bytes
from mtrl.checking.workers import worker_speed
from mtrl.cli.dispatch import main
from mtrl.config import ExperimentConfig, load_config, override
from mtrl.config.advice import follow
from mtrl.machine import whole_cores

ROOT = Path(__file__).parents[1]
STEPS = 30  # of an episode
MEBI = 2**20


class Walk(gymnasium.Env):
    """A number that the agent moves; nothing is wrong with it."""

    observation_space = gymnasium.spaces.Box(-100, 100, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1), 0
        return self.look(), {}

    def step(self, action):
        self.place, self.steps = self.place + (1 if action else -1) * self.np_random.random(), self.steps + 1
        return self.look(), 1.0, False, self.steps >= STEPS, {"success": self.steps >= STEPS}

    def look(self):
        return np.array([self.place, 0.5], np.float32)


class Nan(Walk):
    def look(self):
        return np.array([self.place, np.nan if self.steps == 17 else 0.5], np.float32)


class Outside(Walk):
    def look(self):
        return np.array([self.place, 123 if self.steps == 5 else 0.5], np.float32)


class Unseeded(Walk):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=None)


class Shaped(Walk):
    def look(self):
        return np.zeros(2 if self.steps < 3 else 3, np.float32)


class Endless(Walk):
    def step(self, action):
        observation, reward, *_ = super().step(action)
        return observation, reward, False, False, {}


class Unmakeable(Walk):
    def __init__(self):
        raise FileNotFoundError("no level file")


class Raising(Walk):
    def step(self, action):
        if self.steps == 7:
            raise IndexError("list index out of range")
        return super().step(action)


class Unpaid(Walk):
    def step(self, action):
        observation, _, *rest = super().step(action)
        return observation, math.inf if self.steps == 4 else 0.0, *rest


class Limited(Walk):
    """Reports its time limit as a terminal state."""

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, truncated, False, info


class Hoarding(Walk):
    def __init__(self):
        self.hoard = np.ones(8 * MEBI, np.uint8)


class Single(Walk):
    """Holds something that there is only one of."""

    opened = 0

    def __init__(self):
        if Single.opened:
            raise OSError("the port is in use")

    def reset(self, *, seed=None, options=None):
        Single.opened = 1
        return super().reset(seed=seed)

    def close(self):
        Single.opened = 0


class Huge(Walk):
    """Numbers and rewards far from 1, and slow ends."""

    observation_space = gymnasium.spaces.Box(-1e6, 1e6, (2,), np.float32)

    def look(self):
        return np.array([300 * self.place, 1000], np.float32)

    def step(self, action):
        observation, reward, *rest = super().step(action)
        return observation, 500 * reward, *rest


BROKEN = (Nan, Outside, Unseeded, Shaped, Endless, Unmakeable, Raising, Unpaid, Limited, Hoarding, Single, Huge)
for kind in (Walk, *BROKEN):
    gymnasium.register(f"Check{kind.__name__}-v0", kind)


def inspected(name, **options):
    suite = make_suite(f"gym/Check{name}-v0")
    return inspect_task(suite, 0, **{"seconds": 30.0, "episodes": 6} | options)  # enough for the one that never ends


def test_nothing_is_found_where_nothing_is_wrong():
    found = inspected("Walk")
    assert found.defects == [] and found.repeats is True and not found.fatal
    assert [(episode.length, episode.episode_return, episode.terminated) for episode in found.episodes] == [(STEPS, STEPS, False)] * 6
    assert found.rewards == Rewards(1.0, 1.0, 1.0, 1.0) and found.steps == 6 * STEPS and found.steps_per_second > 0
    assert found.sizes["vector"][1] == 0.5
    assert found.observation_space == "Box(-100 to 100, (2,), float32)" and found.action_space == "Discrete(2)"


@pytest.mark.parametrize(
    ("name", "fatal", "said"),
    [
        ("Nan", True, "step 17 of episode 1: the observation 'vector'[1] is nan"),
        ("Outside", False, "step 5 of episode 1: the observation 'vector'[1] is 123, outside of -100 to 100"),
        ("Unseeded", False, "the same seed does not give the same episode: the first observations differ: the observation 'vector'[0] is"),
        ("Shaped", True, "step 3 of episode 1: the observation has shape (3,) instead of (2,)"),
        ("Endless", True, "no episode has ended within 30,000 steps, and there is no time limit"),
        ("Raising", True, "step 8 of episode 1: IndexError: list index out of range"),
        ("Unpaid", True, "step 4 of episode 1: the reward is inf"),
        ("Limited", False, "all 6 episodes terminated in step 30: if that is a time limit, report it as truncated"),
        ("Single", True, "another environment cannot be made beside it: OSError: the port is in use"),
    ],
)
def test_a_fault_has_its_step_and_its_value(name, fatal, said):
    found = inspected(name)
    (defect,) = [defect for defect in found.defects if "succeeded" not in defect.text]
    assert said in defect.text and defect.fatal == fatal == found.fatal
    assert found.repeats is (False if name == "Unseeded" else None if fatal and name != "Single" else True)


def test_an_environment_that_resets_itself_is_told_by_its_ends():
    """Gymnasium's wrapper resets in the step after an end; one that does so in the same step loses the final observation."""

    class InTheSameStep(Walk):
        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            self.place = 0.0
            return self.look(), {}

        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return (self.reset()[0] if truncated else observation), reward, terminated, truncated, info

    class WithKeys(InTheSameStep):
        def step(self, action):
            observation, reward, terminated, truncated, info = super().step(action)
            return observation, reward, terminated, truncated, info | ({"final_obs": 1} if truncated else {})

    for kind, said in ((InTheSameStep, "final observations are lost"), (WithKeys, "step 30 of episode 1: the environment resets itself")):
        gymnasium.register(f"Check{kind.__name__}-v0", kind)
        found = inspect_task(make_suite(f"gym/Check{kind.__name__}-v0"), 0, seconds=3.0, episodes=6)
        assert any(said in defect.text for defect in found.defects) and not found.fatal


class Forbidding(Walk):
    """Takes no action that its mask forbids, and pays for what it was given."""

    observation_space = gymnasium.spaces.Dict(vector=Walk.observation_space, action_mask=gymnasium.spaces.MultiBinary(5))
    action_space = gymnasium.spaces.MultiDiscrete([2, 3])
    taken: list[tuple[int, int]] = []

    def look(self):
        self.mask = np.array([1, 1, 0, 1, 1] if self.steps % 2 else [0, 1, 1, 1, 0], np.int8)
        return {"vector": super().look(), "action_mask": self.mask}

    def step(self, action):
        first, second = (int(value) for value in action)
        assert self.mask[first] and self.mask[2 + second], "a forbidden action"
        Forbidding.taken.append((first, second))
        return super().step(first)


class MaskedInInfo(Walk):
    """The same by `info`."""

    action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        return super().reset(seed=seed)[0], {"action_mask": np.array([0, 1, 1], np.int8)}

    def step(self, action):
        assert action != 0, "a forbidden action"
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, info | {"action_mask": np.array([0, 1, 1], np.int8)}


for kind in (Forbidding, MaskedInInfo):
    gymnasium.register(f"Check{kind.__name__}-v0", kind)


@pytest.mark.parametrize("name", ["Forbidding", "MaskedInInfo"])
def test_only_allowed_actions_are_played(name):
    Forbidding.taken.clear()
    found = inspected(name, episodes=20)
    assert found.defects == [] and found.repeats is True
    if name == "Forbidding":
        counts = collections.Counter(Forbidding.taken)
        # With odd steps (0 or 1) x (1 or 2), with even ones 1 x (0 or 1); all of one step have the same chance.
        assert set(counts) == {(0, 1), (0, 2), (1, 1), (1, 2), (1, 0)}
        assert 0.2 < counts[1, 0] / counts.total() < 0.3 and 0.1 < counts[0, 2] / counts.total() < 0.15


def test_a_task_of_a_mixed_suite_is_played_as_if_it_were_alone():
    """Its own actions, all with the same chance, and its own arrays: others' stand-ins are no observations of its environment."""
    mixed = make_suite("gym/CheckForbidding-v0,CheckWalk-v0,CartPole-v1,Pendulum-v1")
    for task, name in enumerate(mixed.names):
        ours, alone = (inspect_task(suite, index, episodes=6) for suite, index in ((mixed, task), (make_suite(f"gym/{name}"), 0)))
        assert ours.task == alone.task == name and ours.defects == alone.defects
        assert ours.episodes == alone.episodes and ours.rewards == alone.rewards
        assert ours.sizes.keys() == alone.sizes.keys()


WAITING = """
import time
import gymnasium
import numpy as np

class Waiting(gymnasium.Env):
    observation_space, action_space = gymnasium.spaces.Box(0, 1, (2,)), gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        return np.zeros(2, np.float32), {}

    def step(self, action):
        time.sleep(0.01)
        return np.zeros(2, np.float32), 0.0, False, False, {}

gymnasium.register("CheckWaiting-v0", Waiting)
"""


def test_worker_processes_are_compared_with_one(tmp_path, monkeypatch):
    """Where a step waits, two workers are twice as fast as one process."""
    (tmp_path / "check_waiting.py").write_text(WAITING)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        speed = worker_speed(make_suite("gym/check_waiting:CheckWaiting-v0"), 8, 2, 2.0)
    finally:
        gymnasium.registry.pop("CheckWaiting-v0", None)
        sys.modules.pop("check_waiting", None)
    assert (speed.slots, speed.workers) == (8, 2) and speed.in_this_process < 101 and speed.in_workers > 1.5 * speed.in_this_process
    assert worker_speed(make_suite("gym/CheckWalk-v0"), 8, 1, 2.0) is None
    assert worker_speed(make_suite("gym/CheckRaising-v0"), 8, 2, 2.0) is None


def test_the_report_says_who_reads_which_array(capsys):
    assert main(["check", "gym/CheckForbidding-v0,CartPole-v1", "--seconds", "1", "--episodes", "3"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "CheckForbidding-v0: the policy reads vector 2 float32 by VectorEncoder; acts by 5 parameters of MultiCategorical" in said
    assert "CartPole-v1: the policy reads vector 4 float32 by VectorEncoder; acts by 2 parameters of Categorical" in said
    assert "policy: MixedEncoder with 256 features" in said
    assert re.search(r"workers 48 slots: [\d,]+ steps/s in one process, [\d,]+ in \d+ worker processes", said) or whole_cores() == 1


def test_memory_and_time():
    assert 7 * MEBI < inspected("Hoarding").bytes_per_environment < 9 * MEBI
    short = inspected("Walk", episodes=10**6, seconds=0.4)
    assert short.unfinished_steps > 0 or short.steps % STEPS == 0
    assert 5 < len(short.episodes) < 10**6


def checked(capsys, *arguments):
    code = main(["check", *arguments, "--seconds", "2", "--episodes", "6"])
    return code, capsys.readouterr().out


def test_all_faults_of_several_tasks_are_lines_and_exit_code_1(capsys, monkeypatch):
    """Also where one cannot even be made, which keeps the whole suite from being made."""
    monkeypatch.setenv("COLUMNS", "250")
    code, out = checked(capsys, "gym/CheckWalk-v0,CheckNan-v0,CheckUnmakeable-v0")
    assert code == 1 and "cannot be trained on: 2 problems above" in out
    assert "CheckNan-v0" in out and "step 17 of episode 1: the observation 'vector'[1] is nan" in out
    assert "CheckUnmakeable-v0 cannot be made: FileNotFoundError: no level file" in out
    assert "180 steps without a fault, and the same seed gives the same episode" in out
    assert checked(capsys, "gym/CheckWalk-v0,CheckHuge-v0")[0] == 0, "tasks may differ in their spaces"
    assert main(["check", "toy/thre"]) == 2 and main(["check"]) == 2


def test_the_written_experiment_can_be_trained(capsys, tmp_path, monkeypatch):
    """The guide's tasks, which are good: nothing is found, the policy's parts are named, and `train` takes the file."""
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "examples"))
    file = tmp_path / "mine.yaml"
    suite = "gym/my_tasks:Slow-v0,Fast-v0,Mirrored-v0"
    code, out = checked(capsys, suite, "--write", str(file), "--env-runners.slots", "6", "--env-runners.unroll-length", "16")
    assert code == 0 and "can be trained on" in out
    assert "the policy reads vector 2 float32 by VectorEncoder; acts by 3 parameters of Categorical" in out
    config = load_config(file)
    assert (config.suite.name, config.env_runners.slots, config.env_runners.unroll_length) == (suite, 6, 16)
    assert main(["train", str(file), "--num-env-runners", "0", "--total-frames", "200", "--run-dir", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    code, out = checked(capsys, "gym/CheckHuge-v0", "--write", str(file))
    assert code == 0 and load_config(file).model.normalize_observations and load_config(file).model.popart
    assert "--model.normalize-observations true: the numbers of 'vector' have a root mean square of up to 1e+03 in CheckHuge-v0" in out
    code, out = checked(capsys, "gym/CheckNan-v0", "--write", str(tmp_path / "none.yaml"))
    assert code == 1 and not (tmp_path / "none.yaml").exists() and "is not written" in out
    sys.modules.pop("my_tasks", None)


def task(name="a", **changes):
    played = [PlayedEpisode(1.0, 30, False, True)] * 5
    sizes = {"vector": np.array([1.0, 0.0])}
    defaults = {"episodes": played, "rewards": Rewards(0, 1, 0.5, 0.5), "sizes": sizes, "steps": 150, "steps_per_second": 1e5}
    return Inspection(name, **defaults | {"bytes_per_environment": float(MEBI)} | changes)


CONFIG = override(ExperimentConfig(), {"env_runners.slots": 64, "env_runners.unroll_length": 32})
LONG = {"episodes": [PlayedEpisode(1.0, 1000, True, True)] * 3, "rewards": Rewards(0, 1, 0.03, 0.001)}


@pytest.mark.parametrize(
    ("tasks", "free", "expected"),
    [
        ([task()], 2**33, {}),
        ([task(sizes={"vector": np.array([1.0, 40.0])})], 2**33, {"model.normalize_observations": True}),
        ([task(sizes={"vector": np.array([0.0, 0.001])})], 2**33, {"model.normalize_observations": True}),
        ([task(), task("b", rewards=Rewards(0, 60, 30, 1.0))], 2**33, {"model.popart": True}),
        ([task(rewards=Rewards(0, 60, 30, 1.0))], 2**33, {"model.popart": True}),
        ([task(), task("b", rewards=Rewards(0, 0, 0, 0.0))], 2**33, {}),
        # 1000 steps in 8 unrolls are 125, of which the next power of two is 128: a quarter of the slots keep the batch.
        ([task(**LONG)], 2**33, {"env_runners.unroll_length": 128, "env_runners.slots": 16}),
        # 64 MiB of environments in half of 64 MiB.
        ([task()], 64 * MEBI, {"env_runners.slots": 32}),
        # An unroll takes 64 x 32 / 50 = 41 s, twice the 20 that are wanted: half of the slots, and a bit less.
        ([task(steps_per_second=50.0)], 2**33, {"env_runners.slots": 31}),
        ([task(steps_per_second=0.5), task("b", steps_per_second=0.5)], 2**33, {"env_runners.slots": 2}),
        ([task(steps=0)], 2**33, {}),
    ],
)
def test_advice_follows_from_what_was_seen(tasks, free, expected):
    advice = advise(CONFIG, tasks, free)
    assert {each.field: each.value for each in advice} == expected
    follow(CONFIG, advice)


def test_the_memory_of_all_runners():
    config = override(CONFIG, {"env_runners.num_env_runners": 3})
    assert needed_bytes(config, [task(), task("b", bytes_per_environment=3.0 * MEBI)]) == 3 * 64 * 2 * MEBI
    assert math.isnan(needed_bytes(config, []))
