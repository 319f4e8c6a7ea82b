"""The fast view of MiniGrid's environments: cell by cell the package's own."""

from __future__ import annotations

import time

import gymnasium
import numpy as np
import pytest
from minigrid.core.grid import Grid
from minigrid.core.world_object import Ball, Box, Door, Key, Wall
from minigrid.minigrid_env import MiniGridEnv

from envs import make_suite
from envs.suites.minigrid import registered_ids
from envs.suites.minigrid_view import observe, view, with_fast_view, with_own_view

SOME = [
    "MultiRoom-N2-S4",
    "MultiRoom-N6",
    "DoorKey-8x8",
    "MemoryS11",
    "KeyCorridorS4R3",
    "LavaCrossingS11N5",
    "Dynamic-Obstacles-8x8",
    "Fetch-8x8-N3",
]


def compare(env_id: str, steps: int) -> None:
    """Walks at random, and compares what both see."""
    env = gymnasium.make(env_id, disable_env_checker=True).unwrapped
    try:
        env.reset(seed=1)
    except FileNotFoundError:  # patterns of the wave-function worlds are missing in the package
        return
    rng = np.random.default_rng(0)
    for _ in range(steps):
        expected, found = MiniGridEnv.gen_obs(env), observe(env)
        assert np.array_equal(found["image"], expected["image"]) and found["image"].dtype == np.uint8
        assert (found["direction"], found["mission"]) == (expected["direction"], expected["mission"])
        _, _, terminated, truncated, _ = env.step(int(rng.choice([0, 1, 2, 2, 2, 3, 4, 5, 6])))
        if terminated or truncated:
            env.reset()


@pytest.mark.parametrize("name", SOME)
def test_a_walk_sees_the_same(name: str) -> None:
    compare(f"MiniGrid-{name}-v0", 150)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("prefix", ["MiniGrid-", "BabyAI-"])
def test_every_registered_environment_sees_the_same(prefix: str) -> None:
    for env_id in sorted(registered_ids(prefix)):
        compare(env_id, 60)


@pytest.mark.parametrize("size", [3, 5, 7, 11])
@pytest.mark.parametrize("through", [False, True])
def test_random_rooms_carried_objects_and_other_views(size: int, through: bool) -> None:
    env = gymnasium.make("MiniGrid-Empty-8x8-v0", disable_env_checker=True).unwrapped
    env.reset(seed=0)
    env.agent_view_size, env.see_through_walls = size, through
    rng = np.random.default_rng(size)
    objects = [
        None,
        None,
        None,
        Wall(),
        Key("red"),
        Ball("blue"),
        Box("green"),
        Door("grey"),
        Door("red", is_open=True),
        Door("blue", is_locked=True),
    ]
    for _ in range(60):
        env.grid = Grid(9, 6)
        env.grid.grid = [objects[index] for index in rng.integers(len(objects), size=54)]
        env.agent_pos, env.agent_dir = (int(rng.integers(9)), int(rng.integers(6))), int(rng.integers(4))
        env.carrying = objects[int(rng.integers(3, 7))] if rng.random() < 0.5 else None
        assert np.array_equal(view(env), MiniGridEnv.gen_obs(env)["image"])


def test_views_of_ones_own_stay_ones_own() -> None:
    class Blind(MiniGridEnv):
        def gen_obs(self) -> dict[str, object]:
            return {"image": np.full((7, 7, 3), 9, np.uint8), "direction": 0, "mission": ""}

    class Wide(Grid):
        def slice(self, *arguments: int) -> Grid:
            return Grid(7, 7)

    blind = Blind.__new__(Blind)
    assert with_fast_view(blind) is blind and "gen_obs" not in vars(blind)
    env = with_fast_view(gymnasium.make("MiniGrid-Empty-8x8-v0", disable_env_checker=True)).unwrapped
    env.reset(seed=0)
    env.grid.__class__ = Wide
    assert (env.gen_obs()["image"][:, :, 0] == 1).all(), "the class's own way of cutting out a part"


def test_suites_use_it() -> None:
    for suite in ("minigrid/MultiRoom-N2-S4", "babyai/GoToLocal", "gym/MiniGrid-DoorKey-8x8-v0"):
        env = make_suite(suite).tasks[0].make_env()
        assert env.unwrapped.gen_obs.func is observe, suite
        assert with_own_view(env).unwrapped.gen_obs.__func__ is MiniGridEnv.gen_obs


def test_it_is_several_times_as_fast() -> None:
    env = gymnasium.make("MiniGrid-MultiRoom-N2-S4-v0", disable_env_checker=True).unwrapped
    env.reset(seed=0)

    def fastest(look: object) -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(200):
                look(env)  # type: ignore[operator]
            times.append(time.perf_counter() - start)
        return min(times)

    assert fastest(MiniGridEnv.gen_obs) > 4 * fastest(observe)
