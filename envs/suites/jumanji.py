"""Jumanji: combinatorial problems. `jumanji/Sokoban`.

Those with masks of legal actions, or several choices in one action, are refused.
"""

from __future__ import annotations

from envs.pools.family import PoolFamily

FAMILY = PoolFamily("jumanji", "envpool.jumanji")
