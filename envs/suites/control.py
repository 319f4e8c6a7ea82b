"""Gymnasium's small tasks: classic control, Box2D and toy text. `classic/CartPole-v1`, `box2d/LunarLander`, `toy_text/Taxi`.

Where an episode that never reaches its goal has a known return, that scores 0, and Gymnasium's `reward_threshold` scores 1; where returns
have bounds by definition, these are the range. The others are scored by success: a return from the threshold on.
"""

from __future__ import annotations

from dataclasses import replace

from envs.pools.family import PoolFamily
from envs.pools.suite import Entry

RANGES = {
    "CartPole-v0": (0.0, 200.0),  # 1 for each step
    "CartPole-v1": (0.0, 500.0),
    "MountainCar-v0": (-200.0, -110.0),  # -1 for each step until the goal
    "Acrobot-v1": (-500.0, -100.0),
    "MountainCarContinuous-v0": (0.0, 90.0),  # no force costs nothing
    "FrozenLake-v1": (0.0, 1.0),
    "FrozenLake8x8-v1": (0.0, 1.0),
    "Blackjack-v1": (-1.0, 1.0),
    "Catch-v0": (-1.0, 1.0),
    "Taxi-v3": (-200.0, 8.0),  # -1 for each step without a delivery
}


def _rate(entry: Entry) -> Entry:
    low, high = RANGES.get(entry.name, (0.0, None))
    return replace(entry, low=low, high=high)


CLASSIC = PoolFamily("classic", "envpool.classic_control", rate=_rate)
BOX2D = PoolFamily("box2d", "envpool.box2d")
TOY_TEXT = PoolFamily("toy_text", "envpool.toy_text", rate=_rate)
