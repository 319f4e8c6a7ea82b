"""Finds suites by name.

A new family of suites is one module in `envs/suites` and one line in `FAMILIES`:

    "mine": Family(mine.make, mine.names),

`names()` gives the family's named suites: `["all"]` for `mine/all`. `make("all")` gives the `TaskSuite` of `mine/all`; for a name that it
does not know it gives None or raises a `SuiteError` of one sentence. The suite has all of the family's rules:

- `tasks`: each builds its Gymnasium environment, and names the one of EnvPool if there is one;
- `adapt`: turns observations of these environments into arrays of `observation_space`;
- `scored_by`, and of each task `low`, `high` and `success_return`: how an episode is scored;
- `protocol`: the rules of a published evaluation, if there are any;
- `recipe`: how an exported policy plays without this project, if it can.

`envs/suites/toy.py` is the shortest example. The tests of the environments' contract run over every family in `FAMILIES`; a family that
names no suites needs an example in `tests/contract.py`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

from envs.errors import SuiteError, UnknownSuiteError, did_you_mean
from envs.mixed import mix, split_name
from envs.suites import atari, babyai, chaos, context, metaworld, minigrid, toy
from envs.suites import gym as registered
from envs.task import TaskSuite


class Family(NamedTuple):
    """The suites of one module."""

    make: Callable[[str], TaskSuite | None]  # a suite from the part of its name after the slash; None for an unknown name
    names: Callable[[], list[str]]  # the parts after the slash of the named suites


FAMILIES: dict[str, Family] = {
    "atari": Family(atari.make, atari.names),
    "babyai": Family(babyai.make, babyai.names),
    "context": Family(context.make, context.names),
    "gym": Family(registered.make, registered.names),
    "metaworld": Family(metaworld.make, metaworld.names),
    "minigrid": Family(minigrid.make, minigrid.names),
    "toy": Family(toy.make, toy.names),
}
CHAOS = "chaos"  # not a family: `chaos/SUITE?…` is any suite with failures


def list_suites() -> list[str]:
    """The names of all named suites; single tasks and lists of tasks have names, too (`minigrid/DoorKey-6x6`)."""
    return [f"{family}/{name}" for family, entry in FAMILIES.items() for name in entry.names()]


def make_suite(name: str) -> TaskSuite:
    """The suite called `name`: `family/suite`, `family/task` or `family/task,task`, or several of these joined by `+`.

    Raises:
        UnknownSuiteError: there is no such suite; the message has the nearest name.
        UnknownTaskError: one of the listed tasks does not exist.
        SuiteError: a simulator is not installed, or an option of the suite makes no sense.
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


def single_task(suite: TaskSuite, place: int) -> str:
    """The name of the suite of one task alone.

    Args:
        suite: of several tasks.
        place: of the task in it.

    Raises:
        SuiteError: the task has none.
    """
    parts = split_name(suite.name)
    if len(parts) > 1:
        suites = [make_suite(part) for part in parts]
        own, local = [(each, number) for each in suites for number in range(each.num_tasks)][place]
        return single_task(own, local)
    task, (family, _, rest) = suite.tasks[place], suite.name.partition("/")
    listed, mark, query = rest.partition("?")
    written = listed.split(",")
    candidates = [f"{family}/{task.name}{mark}{query}"]
    if len(written) == suite.num_tasks:  # names that differ from those in the suite's name, as ids of Gymnasium do
        candidates.insert(0, f"{family}/{written[place].strip()}{mark}{query}")
    if task.context is not None:
        candidates.append(f"{family}/{listed.partition('=')[0]}={task.context!r}")
    for name in candidates:
        with contextlib.suppress(SuiteError):
            if make_suite(name).names == (task.name,):
                return name
    raise SuiteError(f"{task.name} of {suite.name} has no suite of its own")
