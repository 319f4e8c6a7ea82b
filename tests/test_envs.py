"""The contract of VectorTasks, over suites and backends, with the real simulators."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import contract
import numpy as np
import pytest
from scipy import stats

import envs
from envs.registry import FAMILIES

CASES = contract.cases()


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a)


def play(tasks: envs.VectorTasks, actions: np.ndarray) -> list[envs.Step]:
    return [tasks.step(action) for action in actions]


def stream(suite: envs.TaskSuite, backend: str, steps: int, **seeds: int) -> Iterator[dict[str, np.ndarray]]:
    """The observations of one slot of each task under random actions that are always the same."""
    tasks, obs = contract.start(suite, suite.num_tasks, backend, **seeds)
    yield obs
    for action in contract.random_actions(suite, steps, tasks.num_slots):
        yield tasks.step(action).obs
    tasks.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_under_contract(family):
    names = contract.suite_names(family)
    assert names, f"the family {family} names no suites: add one of two tasks or more to EXAMPLES in tests/contract.py"


@pytest.mark.parametrize(("name", "backend"), [*CASES, ("minigrid/mt7", "auto")])
def test_the_step_after_an_end_is_the_reset(name, backend):
    suite = envs.make_suite(name) if name == "minigrid/mt7" else contract.first_tasks(name)
    tasks, obs = contract.start(suite, suite.num_tasks * 2, backend, seed=1)
    for key, space in suite.observation_space.items():
        assert obs[key].shape == (tasks.num_slots, *space.shape)
        assert obs[key].dtype == space.dtype
        assert all(space.contains(row) for row in obs[key])
    ended = np.zeros(tasks.num_slots, bool)
    total, length, finished = np.zeros(tasks.num_slots), np.zeros(tasks.num_slots, int), 0
    for t, action in enumerate(contract.random_actions(suite, 1500, tasks.num_slots)):
        step = tasks.step(action)
        np.testing.assert_array_equal(step.valid, ~ended)
        assert not (step.terminated & step.truncated).any()
        assert (step.rewards[ended] == 0).all()
        assert not step.terminated[ended].any()
        total, length = (total + step.rewards) * 1.0, length + step.valid
        ended = step.terminated | step.truncated
        assert sorted(episode.slot for episode in step.episodes) == np.flatnonzero(ended).tolist()
        for episode in step.episodes:
            assert episode.task_id == tasks.task_ids[episode.slot]
            assert episode.episode_return == pytest.approx(total[episode.slot], abs=1e-5)
            assert episode.length == length[episode.slot]
            assert episode.terminated == step.terminated[episode.slot]
            total[episode.slot] = length[episode.slot] = 0
            finished += 1
        assert equal(tasks.observe(), step.obs)
        if t > 150 and finished > 2 and not ended.any():  # enough, and long episodes are slow
            break
    tasks.close()
    assert finished > 0


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_seeds_decide_the_stream_and_runners_do_not_share_one(name, backend):
    suite = contract.first_tasks(name)
    first = list(stream(suite, backend, 100))
    same = [
        all(equal(a, b) for a, b in zip(first, stream(suite, backend, 100, **seeds), strict=True))
        for seeds in ({}, {"seed": 1}, {"runner_index": 1}, {"restart_count": 1})
    ]
    assert same == [True] + [name.startswith(contract.DETERMINISTIC)] * 3


@pytest.mark.parametrize(("name", "backend"), [*CASES, ("minigrid/mt7", "auto")])
def test_a_paused_slot_resumes_where_it_was(name, backend):
    suite = envs.make_suite(name) if name == "minigrid/mt7" else contract.first_tasks(name)
    n = suite.num_tasks
    (plain, _), (moved, _) = (contract.start(suite, [2] * n, backend, seed=5) for _ in range(2))
    for actions in contract.random_actions(suite, 37, 2 * n):
        plain.step(actions)
        moved.step(actions)
    away = [1] + [2] * (n - 2) + [3]
    moved.set_allocation(away)
    assert moved.task_ids.tolist() == np.repeat(np.arange(n), away).tolist()
    # Only the environment that was paused is compared: those that went on elsewhere are steps ahead.
    for actions in contract.random_actions(suite, 20, 2 * n, seed=1):
        moved.step(actions)
    moved.set_allocation([2] * n)
    paused = 1
    assert all(np.array_equal(moved.observe()[key][paused], plain.observe()[key][paused]) for key in suite.observation_space)
    for actions in contract.random_actions(suite, 100, 2 * n, seed=2):
        a, b = plain.step(actions), moved.step(actions)
        assert all(np.array_equal(a.obs[key][paused], b.obs[key][paused]) for key in suite.observation_space)
        for field in ("rewards", "terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(a, field)[paused], getattr(b, field)[paused])
        assert [e for e in a.episodes if e.slot == paused] == [e for e in b.episodes if e.slot == paused]
    plain.close()
    moved.close()


def test_an_allocation_that_does_not_fit_is_refused():
    suite = envs.make_suite("toy/three")
    tasks = envs.make_vector(suite, 6)
    tasks.reset()
    for counts in ([2, 2, 1], [7, -1, 0], [3, 3]):
        with pytest.raises(envs.SuiteError):
            tasks.set_allocation(counts)


@pytest.mark.parametrize("name", ["minigrid/DistShift1", "minigrid/Empty-8x8"])
def test_backends_agree_to_the_bit_where_the_layout_is_fixed(name):
    suite = envs.make_suite(name)
    both = [envs.make_vector(suite, 2, backend=backend) for backend in ("envpool", "gymnasium")]
    assert equal(*(tasks.reset() for tasks in both))
    rng, episodes = np.random.default_rng(0), 0
    for _ in range(2500):
        action = rng.choice(7, size=2, p=[0.15, 0.15, 0.5, 0.05, 0.05, 0.05, 0.05])
        a, b = (tasks.step(action) for tasks in both)
        assert equal(a.obs, b.obs)
        for field in ("terminated", "truncated", "valid"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))
        np.testing.assert_allclose(a.rewards, b.rewards, atol=1e-6)
        assert [(e.length, e.success, e.terminated) for e in a.episodes] == [(e.length, e.success, e.terminated) for e in b.episodes]
        episodes += len(a.episodes)
    assert episodes > 10


@pytest.mark.parametrize("task", [task.name for task in envs.make_suite("minigrid/mt7").tasks if task.envpool_id])
def test_backends_give_a_random_agent_the_same_episodes(task):
    """Two-sample tests of returns and lengths of the first episode of each of many environments, so that short ones are not favoured."""
    suite = envs.make_suite(f"minigrid/{task}")
    samples = []
    for backend, count in (("envpool", 300), ("gymnasium", 60)):
        tasks = envs.make_vector(suite, count, backend=backend, seed=11)
        tasks.reset()
        first: dict[int, envs.Episode] = {}
        rng = np.random.default_rng(3)
        for _ in range(160):
            # Mostly forward, so that goals, lava and doors are met; what has not ended after 160 steps counts as 160.
            for episode in tasks.step(rng.choice(7, size=count, p=[0.15, 0.15, 0.4, 0.1, 0.0, 0.2, 0.0])).episodes:
                first.setdefault(episode.slot, episode)
        samples.append([first.get(slot) for slot in range(count)])
    lengths = [[e.length if e else 160 for e in sample] for sample in samples]
    returns = [[e.episode_return if e else 0.0 for e in sample] for sample in samples]
    assert stats.ks_2samp(*lengths).pvalue > 1e-3
    assert stats.ks_2samp(*returns).pvalue > 1e-3


def test_a_time_limit_truncates():
    for backend in ("envpool", "gymnasium"):
        tasks = envs.make_vector(envs.make_suite("minigrid/DoorKey-5x5"), 2, backend=backend)
        tasks.reset()
        steps = play(tasks, np.zeros((250, 2), int))  # turning on the spot for the 250 steps that this world allows
        assert steps[-1].truncated.all()
        assert not any(step.truncated.any() or step.terminated.any() for step in steps[:-1])


@pytest.mark.parametrize(("task", "actions"), [("corridor", [2] * 5), ("constant", [1] * 10), ("cue", [0, 2, 1, 0])])
def test_toy_values_are_those_of_the_best_actions(task, actions):
    gamma = 0.9
    suite = envs.make_suite(f"toy/{task}")
    tasks = envs.make_vector(suite, 1)
    tasks.reset()
    steps = play(tasks, np.array(actions)[:, None])
    rewards = [float(step.rewards[0]) for step in steps]
    value = sum(gamma**t * reward for t, reward in enumerate(rewards))
    if steps[-1].truncated[0]:
        value += gamma ** len(rewards) * contract.optimal_value(task, gamma)
    assert value == pytest.approx(contract.optimal_value(task, gamma))
    assert steps[-1].episodes[0].success
    assert suite.score(0, sum(rewards)) == 1.0


def test_scores_follow_the_published_range():
    suite = envs.make_suite("minigrid/mt7")
    assert suite.names == (
        "LavaGapS7",
        "RedBlueDoors-6x6",
        "MemoryS11",
        "DoorKey-6x6",
        "DistShift1",
        "SimpleCrossingS9N2",
        "MultiRoom-N2-S4",
    )
    # 1 - 0.9 · steps / max_steps of the optimal solutions.
    for task, (steps, limit) in enumerate([(8, 196), (8, 720), (15, 605), (11, 360), (11, 252), (15, 324), (5, 40)]):
        assert suite.score(task, 1 - 0.9 * steps / limit) == pytest.approx(1.0, abs=1e-4)
        assert suite.score(task, 0.0) == 0.0


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("minigrid/mt8", "mt"),
        ("minigird/mt7", "minigrid/mt7"),
        ("minigrid/DoorKey-6x7", "DoorKey-6x6"),
        ("toy/corider", "corridor"),
        ("", "suites are"),
    ],
)
def test_unknown_names_get_the_nearest(name, hint):
    with pytest.raises(envs.SuiteError, match=hint) as error:
        envs.make_suite(name)
    assert "\n" not in str(error.value)


def test_a_backend_without_the_tasks_is_refused():
    with pytest.raises(envs.SuiteError, match="cannot run on envpool"):
        envs.make_vector(envs.make_suite("toy/three"), 3, backend="envpool")


def test_the_package_is_ours_and_light():
    assert Path(envs.__file__).parent.parent == Path(__file__).parent.parent
    heavy = "import sys, envs; print([m for m in ('torch', 'ray', 'mtrl', 'minigrid', 'envpool') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=Path(__file__).parent.parent, check=True)
    assert output.stdout.strip() == "[]"
