"""Pauses, resets and misuse of slots: what tests/test_envs.py leaves open of the contract of VectorTasks."""

from __future__ import annotations

import contract
import numpy as np
import pytest

import envs

RIGHT = 2


def start(name: str, counts: int | list[int], backend: str = "auto", **seeds: int) -> envs.VectorTasks:
    tasks = envs.make_vector(envs.make_suite(name), counts, backend=backend, **seeds)
    tasks.reset()
    return tasks


def cells(obs: dict[str, np.ndarray]) -> list[int]:
    return obs["vector"].argmax(axis=-1).tolist()


def test_the_ending_step_has_the_final_observation_and_the_next_the_first():
    tasks = start("toy/corridor", 1)
    steps = [tasks.step(np.array([RIGHT])) for _ in range(6)]
    assert [cells(step.obs)[0] for step in steps] == [1, 2, 3, 4, 5, 0]
    assert [bool(step.terminated[0]) for step in steps] == [False] * 4 + [True, False]
    assert [bool(step.valid[0]) for step in steps] == [True] * 5 + [False]


@pytest.mark.parametrize(("task", "action", "episode"), [("constant", 0, (10, 10.0, True)), ("corridor", RIGHT, (5, 1.0, False))])
@pytest.mark.parametrize("pause_after", range(1, 12))
def test_a_pause_at_any_point_of_an_episode_leaves_no_trace(task, action, episode, pause_after):
    """The pause falls on each step of an episode and between its end and its reset; `episode` is length, return, truncated."""
    never, paused = (start(f"toy/{task},cue", [1, 1]) for _ in range(2))
    actions = np.full(2, action)
    for _ in range(pause_after):
        never.step(actions)
        paused.step(actions)
    paused.set_allocation([0, 2])
    assert paused.task_ids.tolist() == [1, 1]
    for _ in range(7):
        assert all(e.task_id == 1 for e in paused.step(actions).episodes)
    paused.set_allocation([1, 1])
    assert cells(paused.observe())[0] == cells(never.observe())[0]
    seen = set()
    for _ in range(25):
        a, b = never.step(actions), paused.step(actions)
        for field in ("rewards", "terminated", "truncated", "valid"):
            assert getattr(a, field)[0] == getattr(b, field)[0], field
        ended = [[e for e in step.episodes if e.task_id == 0] for step in (a, b)]
        assert ended[0] == ended[1]
        seen |= {(e.length, e.episode_return, e.truncated) for e in ended[1]}
    assert seen == {episode}


@pytest.mark.parametrize(("name", "backend"), contract.cases())
def test_what_step_and_observe_return_belongs_to_the_caller(name, backend):
    suite = contract.first_tasks(name)
    (untouched, _), (scribbled, first) = (contract.start(suite, [1, 1], backend) for _ in range(2))
    for array in first.values():
        array[:] = 1
    for actions in contract.random_actions(suite, 12, 2):
        expected, step = untouched.step(actions), scribbled.step(actions)
        for obs in (step.obs, scribbled.observe()):
            for key, array in obs.items():
                np.testing.assert_array_equal(array, expected.obs[key])
                array[:] = 1
        for array in (step.rewards, step.terminated, step.truncated, step.valid):
            array[:] = 1
    for tasks in (untouched, scribbled):
        tasks.set_allocation([0, 2])
        tasks.set_allocation([1, 1])
    for key, array in untouched.observe().items():
        np.testing.assert_array_equal(scribbled.observe()[key], array)
    untouched.close()
    scribbled.close()


def test_slots_are_known_before_they_start():
    tasks = envs.make_vector(envs.make_suite("toy/three"), [1, 0, 2])
    assert tasks.task_ids.tolist() == [0, 2, 2]
    tasks.set_allocation([0, 3, 0])
    assert tasks.task_ids.tolist() == [1, 1, 1]
    assert cells(tasks.reset()) == [6, 6, 6]


def test_a_number_of_slots_is_spread_evenly():
    assert envs.make_vector(envs.make_suite("toy/three"), 8).task_ids.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]


@pytest.mark.parametrize(("name", "backend"), contract.cases())
def test_each_slot_gets_one_action(name, backend):
    suite = contract.first_tasks(name)
    tasks, _ = contract.start(suite, 3, backend)
    actions = contract.random_actions(suite, 1, 4)[0]
    for number in (2, 4):
        with pytest.raises(ValueError, match=f"3 slots need one action each; got {number}"):
            tasks.step(actions[:number])
    assert tasks.step(actions[:3]).valid.all()
    tasks.close()


def test_reset_comes_once_and_first():
    tasks = envs.make_vector(envs.make_suite("toy/three"), 3)
    with pytest.raises(RuntimeError, match="call reset"):
        tasks.step(np.zeros(3, int))
    tasks.reset()
    with pytest.raises(RuntimeError, match="reset themselves"):
        tasks.reset()


@pytest.mark.parametrize("counts", [[2.5, 0.5, 0.0], [1, 1], [2, 2, -1], [0, 0, 0], 0, -3])
def test_counts_are_whole_numbers_for_each_task(counts):
    with pytest.raises(envs.SuiteError, match="3 tasks"):
        envs.make_vector(envs.make_suite("toy/three"), counts)


def test_the_callers_counts_are_not_kept():
    counts = np.array([2, 0, 1])
    tasks = envs.make_vector(envs.make_suite("toy/three"), counts)
    counts[:] = 0
    assert tasks.reset()["vector"].shape == (3, 8)
    assert tasks.num_slots == 3


@pytest.mark.parametrize("action", [-1, 3])
def test_an_action_that_does_not_exist_is_named(action):
    tasks = start("toy/three", 3)
    with pytest.raises(ValueError, match=f"constant was given action {action}, which Discrete\\(3\\) does not have"):
        tasks.step(np.array([0, action, 0]))
    tasks.close()
