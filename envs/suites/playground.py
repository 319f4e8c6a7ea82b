"""MuJoCo Playground: robots that walk, hands and arms. `playground/Go1JoystickFlatTerrain`.

Policies read all that is observed, `privileged_state` included, as one vector. The environments report no success, and no range of returns
is published: a score needs `?low=RETURN&high=RETURN`.
"""

from __future__ import annotations

from envs.pools.family import PoolFamily

FAMILY = PoolFamily("playground", "envpool.mujoco.playground")
