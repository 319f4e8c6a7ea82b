"""Gymnasium-Robotics: Fetch's arm, Shadow's hand, Adroit's hand, a point in a maze, and Franka's kitchen.

The goal is part of what is observed: `achieved_goal`, `desired_goal` and `observation` are one vector. Success is what the environments
report, in any step of an episode. The kitchen pays 1 for each of its seven subtasks that is completed (its episode ends with the last), and
a score is the share of them.
"""

from __future__ import annotations

from dataclasses import replace

from envs.pools.family import PoolFamily
from envs.pools.suite import Entry

MODULE = "envpool.mujoco.robotics"
KITCHEN_TASKS = 7.0


def _subtasks(entry: Entry) -> Entry:
    return replace(entry, high=KITCHEN_TASKS, success_return=KITCHEN_TASKS - 0.5)


FETCH = PoolFamily("fetch", MODULE, "Fetch", {"4": ("FetchReach-v4", "FetchPush-v4", "FetchSlide-v4", "FetchPickAndPlace-v4")})
HAND = PoolFamily("hand", MODULE, "Hand")
ADROIT = PoolFamily("adroit", MODULE, "Adroit", {"4": tuple(f"AdroitHand{task}-v1" for task in ("Door", "Hammer", "Pen", "Relocate"))})
MAZE = PoolFamily("maze", MODULE, "PointMaze_")
KITCHEN = PoolFamily("kitchen", MODULE, "FrankaKitchen", rate=_subtasks)
