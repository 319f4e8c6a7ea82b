"""Any of EnvPool's environments by its id: `envpool/CheetahRun-v1,WalkerWalk-v1`. Families with names of their own are the others here."""

from __future__ import annotations

from dataclasses import replace

from envs.errors import SuiteError
from envs.pools.catalogue import ids
from envs.pools.options import options_of, return_range
from envs.pools.suite import Entry, pool_suite
from envs.suites.atari import PUBLISHED
from envs.task import TaskSuite


def names() -> list[str]:
    """None: the list is too long; `envpool.list_all_envs()` gives it."""
    return []


def tasks() -> list[str]:
    """The ids that no other family has: Atari's games outside the 57 that agents are compared on."""
    return [each for each in ids("envpool.atari") if each.removesuffix("-v5") not in PUBLISHED]


def make(name: str) -> TaskSuite:
    """`ID,ID…[?low=RETURN&high=RETURN]`.

    An episode succeeds if the environment's `info` says so (`success`, `is_success` or `solved`), or else if its return reaches EnvPool's
    `reward_threshold`. Its score is its return between `low` and `high` where they are given, else 1 for a success.

    Raises:
        UnknownTaskError: EnvPool has no such id.
        SuiteError: an environment cannot be made or served.
    """
    listed, _, query = name.partition("?")
    ids = [part.strip() for part in listed.split(",")]
    if not all(ids):
        raise SuiteError(f"envpool/{name}: an id is empty; it has to be envpool/ID,ID…")
    low, high = return_range(f"envpool/{name}", options_of(f"envpool/{name}", query, ("low", "high")))
    entry = Entry(name="", envpool_id="", low=low, high=high)
    return pool_suite(f"envpool/{name}", [replace(entry, name=one.replace("/", "-"), envpool_id=one) for one in ids])
