"""MyoSuite: bodies that are moved by their muscles. `myosuite/10` is the set of TD-MPC2 (Hansen et al. 2024): five tasks of the hand, each
with a fixed and with a random goal.

An episode has succeeded if the environment reports `solved` in any of its steps. MyoSuite's own figure asks for more than five such steps.
"""

from __future__ import annotations

from envs.pools.family import PoolFamily

HAND = ("Reach", "Pose", "ObjHold", "KeyTurn", "PenTwirl")
HAND_10 = tuple(f"myoHand{task}{goal}-v0" for task in HAND for goal in ("Fixed", "Random"))

FAMILY = PoolFamily("myosuite", "envpool.mujoco.myosuite", sets={"10": HAND_10})
