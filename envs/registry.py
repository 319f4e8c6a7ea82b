"""Finds suites by name. A family of suites registers itself with one line in `FAMILIES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from envs.errors import UnknownSuiteError, did_you_mean
from envs.mixed import mix, split_name
from envs.suites import atari, babyai, chaos, context, metaworld, minigrid, toy
from envs.suites import gym as registered
from envs.task import TaskSuite


class Family(NamedTuple):
    """Suites that come from one file."""

    make: Callable[[str], TaskSuite | None]  # from the part of the name after the slash; None where it means nothing
    names: Callable[[], list[str]]  # the named suites, without the family


FAMILIES: dict[str, Family] = {
    "atari": Family(atari.make, atari.names),
    "babyai": Family(babyai.make, babyai.names),
    "context": Family(context.make, context.names),
    "gym": Family(registered.make, registered.names),
    "metaworld": Family(metaworld.make, metaworld.names),
    "minigrid": Family(minigrid.make, minigrid.names),
    "toy": Family(toy.make, toy.names),
}


CHAOS = "chaos"  # no family: `chaos/SUITE?…` is any suite with failures


def list_suites() -> list[str]:
    """The names of all named suites; single tasks and lists of tasks can be had besides (`minigrid/DoorKey-6x6`)."""
    return [f"{family}/{name}" for family, entry in FAMILIES.items() for name in entry.names()]


def make_suite(name: str) -> TaskSuite:
    """The suite called `name`: `family/suite`, `family/task` or `family/task,task`, or several such joined by `+`.

    Raises:
        UnknownSuiteError: with the nearest name.
        UnknownTaskError: one of the listed tasks does not exist.
    """
    parts = split_name(name)
    if len(parts) > 1:
        return mix(name, [make_suite(part) for part in parts])
    family, _, rest = name.partition("/")
    if family == CHAOS and rest:
        inner, _, query = rest.partition("?")
        return chaos.disturb(make_suite(inner), query)
    suite = FAMILIES[family].make(rest) if family in FAMILIES and rest else None
    if suite is None:
        known = list_suites()
        hint = did_you_mean(name, known, cutoff=0.6) or f"; suites are {', '.join(known)}"
        raise UnknownSuiteError(f"there is no suite {name!r}{hint}")
    return suite
