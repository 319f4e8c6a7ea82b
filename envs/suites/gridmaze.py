"""Mazes with levels that a curriculum can write: `gridmaze/blocks`, and the mazes that its policies are tested on.

As in PAIRED (Dennis et al. 2020), ACCEL and CLUTR, policies train on 13 x 13 cells with up to 50 blocks anywhere, and are tested on mazes
with a plan, which they have never seen. The papers' agent sees 5 x 5 cells and its direction; here it sees MiniGrid's 7 x 7 cells.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import gymnasium
import numpy as np

from envs.errors import UnknownTaskError, did_you_mean
from envs.suites import gridmaze_layouts as layouts
from envs.suites.minigrid import OBSERVATION_SPACE, image_only, registered_ids
from envs.suites.minigrid_view import with_fast_view
from envs.task import EvaluationProtocol, Task, TaskSuite

SIZE = 13
MAX_STEPS = 250
SPACE = layouts.LayoutSpace(SIZE, blocks=50)
BLOCKS, TEST, ALL = "blocks", "test", "all"
PROTOCOL = EvaluationProtocol("gridmaze-v1", episodes=100, actions="sampled")


def _blocks(rng: np.random.Generator) -> np.ndarray:
    while True:
        layout = SPACE.draw(rng)
        if layouts.is_solvable(layout, SIZE):
            return layout


def _anywhere(blocked: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The goal and the agent in two random free cells."""
    free = np.argwhere(~blocked)
    goal, agent = free[rng.choice(len(free), 2, replace=False)].tolist()
    return SPACE.of_grid(blocked, tuple(goal), tuple(agent))


def _sixteen_rooms(rng: np.random.Generator) -> np.ndarray:
    return _anywhere(layouts.rooms(SIZE, 4, rng), rng)


def _four_rooms(rng: np.random.Generator) -> np.ndarray:
    return _anywhere(layouts.rooms(SIZE, 2, rng), rng)


def _perfect(rng: np.random.Generator) -> np.ndarray:
    return _anywhere(layouts.perfect(SIZE, rng), rng)


def _spiral(rng: np.random.Generator) -> np.ndarray:
    """From the rim to the middle, turned and mirrored at random."""
    ends = np.zeros((SIZE, SIZE), np.int64)
    blocked = layouts.spiral(SIZE)
    steps = layouts.distances(blocked, (0, 0))
    ends[0, 0], ends[np.unravel_index(np.argmax(steps), steps.shape)] = 1, 2
    turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
    blocked, ends = (np.rot90(grid[::-1] if mirrored else grid, turns) for grid in (blocked, ends))
    agent, goal = (tuple(np.argwhere(ends == which)[0].tolist()) for which in (1, 2))
    return SPACE.of_grid(blocked, goal, agent)


def _comb(rng: np.random.Generator) -> np.ndarray:
    """From the middle of the corridor to the end of one of its dead ends, turned at random."""
    blocked, goal, agent = layouts.comb(SIZE), np.zeros((SIZE, SIZE), bool), (SIZE // 2, SIZE // 2)
    goal[(SIZE - 1) * int(rng.integers(2)), 2 * int(rng.integers(SIZE // 2 + 1))] = True
    if rng.integers(2):
        blocked, goal = blocked.T, goal.T
    return SPACE.of_grid(blocked, tuple(np.argwhere(goal)[0].tolist()), agent)


TESTED: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "four_rooms": _four_rooms,
    "sixteen_rooms": _sixteen_rooms,
    "perfect": _perfect,
    "comb": _comb,
    "spiral": _spiral,
}
"""The mazes with a plan."""

DESCRIPTIONS = {
    BLOCKS: "walk around blocks anywhere in a room to the green goal square",
    "four_rooms": "walk through four connected rooms to the green goal square",
    "sixteen_rooms": "walk through sixteen small connected rooms to the green goal square",
    "perfect": "walk through a maze of narrow passages to the green goal square",
    "comb": "walk down a corridor to the green goal square in one of its dead ends",
    "spiral": "walk along a winding passage to the green goal square in the middle",
}


def _any_tested(rng: np.random.Generator) -> np.ndarray:
    """One of the mazes with a plan, all alike."""
    return list(TESTED.values())[int(rng.integers(len(TESTED)))](rng)


def names() -> list[str]:
    """The named sets."""
    return [ALL, TEST]


def tasks() -> list[str]:
    """All tasks.

    Raises:
        MissingPackageError: minigrid is not installed.
    """
    registered_ids()
    return [BLOCKS, *TESTED]


def make(name: str) -> TaskSuite:
    """`blocks`, `test` (all mazes with a plan), `all` (both), or some of these mazes by name, separated by commas.

    Raises:
        UnknownTaskError: there is no such task.
        SuiteError: minigrid is not installed.
    """
    sets = {TEST: [*TESTED], ALL: [BLOCKS, *TESTED]}
    chosen = sets.get(name) or [part.strip() for part in name.split(",")]
    for each in chosen:
        if each != BLOCKS and each not in TESTED:
            raise UnknownTaskError(f"gridmaze has no task {each!r}{did_you_mean(each, [BLOCKS, *sets, *TESTED])}")
    registered_ids()
    return TaskSuite(
        name=f"gridmaze/{name}",
        tasks=tuple(map(_task, chosen)),
        observation_space=OBSERVATION_SPACE,
        action_space=gymnasium.spaces.Discrete(3),
        adapt=image_only,
        rules={"blocks are tested on": ", ".join(TESTED)} if BLOCKS in chosen else {},
        protocol=PROTOCOL,
    )


def _task(name: str) -> Task:
    if name == BLOCKS:
        return Task(
            name,
            functools.partial(_make_env, _blocks),
            success_return=0.0,
            make_evaluation_env=functools.partial(_make_env, _any_tested),
            level_parameters=SPACE,
            description=DESCRIPTIONS[name],
        )
    return Task(name, functools.partial(_make_env, TESTED[name]), success_return=0.0, description=DESCRIPTIONS[name])


def _make_env(layout_of: Callable[[np.random.Generator], np.ndarray], render_mode: str | None = None) -> gymnasium.Env:
    from envs.suites.gridmaze_env import GridMazeEnv

    return with_fast_view(GridMazeEnv(SIZE, layout_of, MAX_STEPS, render_mode))
