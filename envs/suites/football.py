"""Google Research Football: one player at a time, the one with the ball, is the policy's. `football/academy_empty_goal_close`.

Observations are the game's small map (72x96, four planes). A goal pays 1, one of the opponent's -1. An episode has succeeded if it has more
goals than the opponent's team; in the academy's lessons it ends with the first one, and its score is its return.
"""

from __future__ import annotations

from dataclasses import replace

from envs.pools.family import PoolFamily
from envs.pools.suite import Entry


def _rate(entry: Entry) -> Entry:
    return replace(entry, high=1.0 if entry.name.startswith("academy_") else None, success_return=0.0)


FAMILY = PoolFamily("football", "envpool.gfootball", "gfootball/", rate=_rate)
