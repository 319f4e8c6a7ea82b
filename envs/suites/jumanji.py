"""Jumanji: combinatorial problems, most of them with masks of legal moves. `jumanji/TSP,BinPack`."""

from __future__ import annotations

from envs.pools.family import PoolFamily

FAMILY = PoolFamily("jumanji", "envpool.jumanji")
