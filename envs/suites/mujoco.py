"""Gymnasium's MuJoCo tasks: `mujoco/Ant-v5`; a name without a version is the newest one.

Scores of HalfCheetah, Hopper, Walker2d and of Ant up to version 4, which rewards no less for contacts, are those of D4RL (Fu et al. 2020):
0 is the return of random actions, 1 that of a SAC policy, both in version 2. InvertedPendulum pays 1 for each of at most 1000 steps. The
others are scored by success: a return from Gymnasium's `reward_threshold` on. Humanoid, HumanoidStandup and Pusher have none, and no score
but the one of `?low=RETURN&high=RETURN`.
"""

from __future__ import annotations

from dataclasses import replace

from envs.pools.catalogue import version_of
from envs.pools.family import PoolFamily
from envs.pools.suite import Entry

D4RL = {
    "HalfCheetah": (-280.178953, 12135.0),
    "Hopper": (-20.272305, 3234.3),
    "Walker2d": (1.629008, 4592.3),
    "Ant": (-325.6, 3879.7),
}
UP_TO_VERSION = {"Ant": 4}
TASKS = (
    *("Ant", "HalfCheetah", "Hopper", "Humanoid", "HumanoidStandup", "InvertedDoublePendulum", "InvertedPendulum"),
    *("Pusher", "Reacher", "Swimmer", "Walker2d"),
)


def _rate(entry: Entry) -> Entry:
    task = entry.name.rpartition("-v")[0]
    if task == "InvertedPendulum":
        return replace(entry, high=1000.0)
    if task in D4RL and version_of(entry.name) <= UP_TO_VERSION.get(task, 5):
        low, high = D4RL[task]
        return replace(entry, low=low, high=high)
    return entry


FAMILY = PoolFamily("mujoco", "envpool.mujoco.gym", sets={f"v{n}": tuple(f"{task}-v{n}" for task in TASKS) for n in (4, 5)}, rate=_rate)
