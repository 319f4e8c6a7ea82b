"""The tasks themselves: time limits and deaths on both backends, seeds, toy optima, names, missing simulators."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import contract
import numpy as np
import pytest

import envs
from envs.seeds import SeedSequences
from envs.suites import minigrid, toy

BACKENDS = ["envpool", "gymnasium"]
LEFT, RIGHT, FORWARD = 0, 1, 2
IN_BOTH = f"minigrid/{','.join(minigrid.MT7[:-1])}"  # all of MT7 that EnvPool steps
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("backend", ["envpool", "gymnasium", "auto"])
def test_each_time_limit_is_that_of_farama_and_truncates(backend):
    suite = envs.make_suite(IN_BOTH if backend == "envpool" else "minigrid/mt7")
    limits = [task.make_env().unwrapped.max_steps for task in suite.tasks]
    tasks = envs.make_vector(suite, [1] * suite.num_tasks, backend=backend)
    tasks.reset()
    ends = {}
    for _ in range(max(limits)):  # turning on the spot ends no episode before its time
        for episode in tasks.step(np.full(suite.num_tasks, LEFT)).episodes:
            ends.setdefault(episode.task_id, episode)
    for task, limit in enumerate(limits):
        assert ends[task][2:] == (0.0, limit, False, False, True), suite.names[task]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("actions", "reward", "success"),
    [
        ([FORWARD, FORWARD], 0.0, False),  # into the lava
        ([RIGHT] + [FORWARD] * 3 + [LEFT] + [FORWARD] * 6 + [LEFT] + [FORWARD] * 3, 1 - 0.9 * 15 / 252, True),  # around it
    ],
)
def test_lava_and_goal_terminate(backend, actions, reward, success):
    """DistShift1 is always laid out alike: start at the top left, goal at the top right, lava between them on rows 1 and 2."""
    tasks = envs.make_vector(envs.make_suite("minigrid/DistShift1"), 1, backend=backend)
    tasks.reset()
    steps = [tasks.step(np.array([action])) for action in actions]
    ended = next(step for step in steps if step.episodes)
    (episode,) = ended.episodes
    assert (episode.terminated, episode.truncated, episode.success) == (True, False, success)
    assert episode.episode_return == pytest.approx(reward, abs=1e-6)


def test_no_two_environments_of_any_runner_share_a_seed():
    who = itertools.product(range(2), range(8), range(2), minigrid.MT7, range(64))
    seeds = [SeedSequences(seed, runner, restart).of(task, number) for seed, runner, restart, task, number in who]
    assert len(set(seeds)) == len(seeds) == 14336
    assert 0 <= min(seeds) <= max(seeds) < 2**31  # EnvPool's are int32


def test_environments_that_come_later_have_the_seeds_they_would_have_had_from_the_start():
    """Compares the observations of four environments of a task that started together with those of 1 + 3 that did not."""
    for backend in BACKENDS:
        suite = envs.make_suite("minigrid/SimpleCrossingS9N2,DistShift1")
        together, later = envs.make_vector(suite, [4, 0], backend=backend, seed=3), envs.make_vector(suite, [1, 3], backend=backend, seed=3)
        first = together.reset()["image"]
        later.reset()
        later.set_allocation([4, 0])
        np.testing.assert_array_equal(later.observe()["image"], first)
        assert len({row.tobytes() for row in first}) > 1


@pytest.mark.parametrize("name", ["corridor", "constant", "cue"])
def test_no_actions_do_better_than_the_optimal_value(name):
    gamma = 0.9
    best = max(discounted_return(name, actions, gamma) for actions in itertools.product(range(3), repeat=6))
    assert best == pytest.approx(contract.optimal_value(name, gamma))


def discounted_return(name: str, actions: tuple[int, ...], gamma: float) -> float:
    """Of one episode; what has not terminated goes on with the optimal value, which of the tasks only `constant` can reach."""
    env = toy.TASKS[name].make_env()
    env.reset(seed=0)
    total = 0.0
    for t, action in enumerate(actions):
        _, reward, terminated, _, _ = env.step(action)
        total += gamma**t * reward
        if terminated:
            return total
    return total + gamma ** len(actions) * contract.optimal_value(name, gamma) * (name == "constant")


@pytest.mark.parametrize("name", contract.listed_suites())
def test_every_listed_suite_serves_its_first_backend(name):
    suite = contract.suite_or_skip(name)
    assert [suite.index(task) for task in suite.names] == list(range(suite.num_tasks))
    tasks, obs = contract.start(suite, suite.num_tasks, "auto")
    assert all(suite.observation_space[key].contains(row) for key in obs for row in obs[key])
    tasks.close()


def test_every_counted_minigrid_task_can_be_played():
    """minigrid 3.2's wheel registers six mazes made from patterns, and comes without the patterns."""
    for name in minigrid.tasks():
        env = minigrid.make(name).tasks[0].make_env()
        env.reset(seed=0)
        env.close()
    if not any(name.startswith("WFC") for name in minigrid.tasks()):
        with pytest.raises(envs.SuiteError, match="its patterns are not in this version of the minigrid package"):
            envs.make_suite("minigrid/WFC-MazeSimple")


def test_the_three_ways_to_name_a_minigrid_task():
    short, full, several = (
        envs.make_suite(f"minigrid/{name}") for name in ("DoorKey-6x6", "MiniGrid-DoorKey-6x6-v0", "Empty-8x8, DoorKey-6x6")
    )
    assert short.names == full.names == ("DoorKey-6x6",)
    assert several.names == ("Empty-8x8", "DoorKey-6x6")
    assert several.score(0, np.array([-1.0, 0.5, 2.0])).tolist() == [0.0, 0.5, 1.0]  # outside the published table: the raw return


@pytest.mark.parametrize(("package", "call"), [("minigrid", "s"), ("envpool", "envs.make_vector(s, 1, backend='envpool')")])
def test_a_missing_simulator_is_one_sentence(package, call):
    code = f"import sys; sys.modules[{package!r}] = None; import envs; s = envs.make_suite('minigrid/DistShift1'); {call}"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent.parent)
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(("envs.errors.MissingPackageError: ", "envs.errors.SuiteError: "))
    assert package in last


@pytest.mark.slow
def test_grid_worlds_of_both_libraries_are_the_same():
    """By a walker, over all tasks of MT7 that EnvPool steps for us."""
    script = ROOT / "docs" / "experiments" / "measure_levels.py"
    done = subprocess.run([sys.executable, str(script), "500", IN_BOTH], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_levels_that_cannot_be_solved_are_not_trained_on():
    """EnvPool's MultiRoom: behind a third of its doors there is a wall."""
    assert envs.make_suite("minigrid/mt7").tasks[-1].envpool_id is None
    assert envs.make_suite("minigrid/MultiRoom-N2-S4").backends == ("gymnasium",)
