"""highway-env: driving among others. `highway/Highway,Parking`.

A step of Highway pays 0 to 1, so that its score is the return over the longest episode. Parking reports success. For the others no range
of returns is published: a score needs `?low=RETURN&high=RETURN`.
"""

from __future__ import annotations

from dataclasses import replace

from envs.pools.family import PoolFamily
from envs.pools.suite import Entry

STEPS = {"highway": 40.0, "highwayfast": 30.0}
"""Steps of the longest episode, each of which pays 1 at most."""


def _rate(entry: Entry) -> Entry:
    return replace(entry, high=STEPS.get(entry.name.rpartition("-v")[0].lower().replace("-", "")))


FAMILY = PoolFamily("highway", "envpool.highway", rate=_rate)
