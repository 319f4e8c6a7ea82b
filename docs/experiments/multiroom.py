"""Rooms in a row, one to six of them: MiniGrid's MultiRoom with levels that differ in difficulty, as Jiang et al. 2021 train on.

`gym/docs.experiments.multiroom:MultiRoom-N1to6-v0?low=0&high=1` is the name of the suite.
"""

from __future__ import annotations

import gymnasium
from minigrid.envs import MultiRoomEnv

ROOMS = (1, 6)
LARGEST_ROOM = 6  # cells, walls included


def make(**options: object) -> gymnasium.Env:
    """One environment; an episode ends after 20 steps for each of the six rooms."""
    return MultiRoomEnv(minNumRooms=ROOMS[0], maxNumRooms=ROOMS[1], maxRoomSize=LARGEST_ROOM, **options)


gymnasium.register("MultiRoom-N1to6-v0", entry_point=make)
