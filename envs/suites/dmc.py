"""DeepMind Control Suite: `dmc/walker-walk,cheetah-run`, and the tasks of TD-MPC2's 30-task set that EnvPool has.

Every step pays 0 to 1 and an episode has 1000 steps, so that a score is a return over 1000 (Tassa et al. 2018); LQR alone pays otherwise
and has none. TD-MPC2 repeats each action twice, with which its figures are to be compared; here an action is one step of `dm_control`.
"""

from __future__ import annotations

import functools
import re

from envs.envpool_package import registered
from envs.pools.catalogue import ids
from envs.pools.suite import PROTOCOL, Entry, choose, pool_suite, served
from envs.task import TaskSuite

MODULE = "envpool.mujoco.dmc"
MAX_RETURN = 1000.0
# Hansen et al. 2024, appendix: nineteen of the suite's own tasks and eleven new ones, which neither EnvPool nor dm_control has.
MT30 = (
    *("walker-stand", "walker-walk", "walker-run", "cheetah-run", "reacher-easy", "reacher-hard", "acrobot-swingup", "pendulum-swingup"),
    *("cartpole-balance", "cartpole-balance-sparse", "cartpole-swingup", "cartpole-swingup-sparse", "cup-catch", "finger-spin"),
    *("finger-turn-easy", "finger-turn-hard", "fish-swim", "hopper-stand", "hopper-hop"),
)
MISSING_IN_MT30 = (
    *("walker-walk-backwards", "walker-run-backwards", "cheetah-run-backwards", "cheetah-run-front", "cheetah-run-back", "cheetah-jump"),
    *("hopper-hop-backwards", "reacher-three-easy", "reacher-three-hard", "cup-spin", "pendulum-spin"),
)
SETS = {"mt30": MT30}
SHORT = {"ball-in-cup": "cup"}  # TD-MPC2's names of domains


def names() -> list[str]:
    """The named sets besides `all`, which is long."""
    return list(SETS)


def make(name: str) -> TaskSuite:
    """`mt30`, `all`, one task (`walker-walk`, or dm_control's `ball_in_cup-catch`) or several, separated by commas.

    Raises:
        UnknownTaskError: EnvPool has no such task of the Control Suite.
        SuiteError: EnvPool is not installed.
    """
    listed = name.replace("_", "-")
    for domain, short in SHORT.items():
        listed = listed.replace(domain, short)
    return pool_suite(f"dmc/{name}", [_entry(task) for task in choose("dmc", listed, SETS, list(_ids()))], PROTOCOL)


def tasks() -> list[str]:
    """All tasks that can be trained on."""
    return [entry.name for entry in served(_entry(task) for task in _ids())]


def _entry(task: str) -> Entry:
    return Entry(name=task, envpool_id=_ids()[task], high=None if task.startswith("lqr-") else MAX_RETURN)


@functools.cache
def _ids() -> dict[str, str]:
    """EnvPool's id of each task: a domain and one of its tasks by dm_control's names, with dashes."""
    known = {}
    for envpool_id in ids(MODULE):
        _, spec_class, arguments = registered()[envpool_id]
        domain = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", spec_class.removeprefix("Dmc").removesuffix("EnvSpec")).lower()
        known[f"{SHORT.get(domain, domain)}-{arguments['task_name']}".replace("_", "-")] = envpool_id
    return known
