"""ViZDoom: the scenarios that EnvPool has, with combinations of buttons as actions. `vizdoom/Basic`.

Observations are four pictures of 84x84, in colour or grey as the scenario's file says. EnvPool pays by the game's variables (health,
ammunition, kills), which no published figure does: a score needs `?low=RETURN&high=RETURN`. The game writes `_vizdoom.ini` into the current
folder. Its two scenarios for several players are refused.
"""

from __future__ import annotations

from envs.pools.family import PoolFamily

FAMILY = PoolFamily("vizdoom", "envpool.vizdoom", options={"use_combined_action": True})
