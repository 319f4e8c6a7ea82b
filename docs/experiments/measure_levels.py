"""Whether EnvPool's grid worlds are Farama's: `python docs/experiments/measure_levels.py [EPISODES [SUITE…]]`.

A walker plays both through our contract. It goes through doors, picks up what it meets and steps on goals, but has no other idea of the
task. Levels that are drawn by another rule show in the share of its episodes that succeed, or in their length. Prints the tasks where one
of the two differs by more than 4 standard errors, and exits with 1 if there are any. Without suites: MT7 and all other tasks of MiniGrid
that both have, MultiRoom included, which our suites take from Farama alone.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

from envs import SuiteError, TaskSuite, make_suite, make_vector
from envs.suites.minigrid import in_envpool, registered_ids

ERRORS = 4.0  # standard errors by which a difference is no chance
SLOTS = 50
LEFT, RIGHT, FORWARD, PICK_UP, TOGGLE = 0, 1, 2, 3, 5
DOOR, KEY, BALL, BOX, GOAL = 4, 5, 6, 7, 8
OPEN = 0


def walk(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An action for each view [N, 7, 7, 3]: the cell ahead is in column 3, row 5."""
    kinds, states = images[:, 3, 5, 0], images[:, 3, 5, 2]
    actions = rng.choice([LEFT, RIGHT, FORWARD, FORWARD], len(images))
    actions[np.isin(kinds, (KEY, BALL, BOX)) & (rng.random(len(images)) < 0.5)] = PICK_UP
    actions[(kinds == DOOR) & (states != OPEN) & (rng.random(len(images)) < 0.7)] = TOGGLE
    actions[((kinds == DOOR) & (states == OPEN)) | (kinds == GOAL)] = FORWARD
    return actions


def played(suite: TaskSuite, backend: str, episodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Successes and lengths. The first episodes of each slot, so that short ones are not preferred."""
    tasks, rng = make_vector(suite, SLOTS, backend=backend, seed=11), np.random.default_rng(0)  # type: ignore[arg-type]
    images, ended = tasks.reset()["image"], [[] for _ in range(SLOTS)]
    each = episodes // SLOTS
    while min(map(len, ended)) < each:
        step = tasks.step(walk(images, rng))
        images = step.obs["image"]
        for episode in step.episodes:
            ended[episode.slot].append((episode.success, episode.length))
    tasks.close()
    rows = np.array([row for own in ended for row in own[:each]], float)
    return rows[:, 0], rows[:, 1]


def differs(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two means are further apart than chance explains."""
    error = np.sqrt((one.var() + other.var()) / len(one))
    return bool(abs(one.mean() - other.mean()) > ERRORS * max(error, 1.0 / len(one)))


def main(episodes: int, names: list[str]) -> int:
    """Returns the exit code."""
    both = sorted(registered_ids() & in_envpool())
    different = 0
    for name in names or [f"minigrid/{env_id}" for env_id in both]:
        try:
            whole = make_suite(name)
        except SuiteError as error:
            print(f"{name}: {error}")
            continue
        for task in whole.tasks:
            known = task.envpool_id or f"MiniGrid-{task.name}-v0"
            suite = dataclasses.replace(whole, tasks=(dataclasses.replace(task, envpool_id=known),))
            (success, length), (their_success, their_length) = (played(suite, backend, episodes) for backend in ("gymnasium", "envpool"))
            fault = differs(success, their_success) or differs(length, their_length)
            different += fault
            print(
                f"{task.name:32} success {success.mean():.3f} and {their_success.mean():.3f}, length {length.mean():6.1f} and "
                f"{their_length.mean():6.1f}{'  DIFFERENT' if fault else ''}",
                flush=True,
            )
    print(f"{different} tasks differ")
    return bool(different)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, sys.argv[2:]))
