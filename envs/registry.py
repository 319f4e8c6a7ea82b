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

from envs.errors import MissingPackageError, SuiteError, UnknownSuiteError, did_you_mean
from envs.mixed import mix, split_name
from envs.pools.family import PoolFamily
from envs.suites import (
    atari,
    babyai,
    chaos,
    context,
    control,
    dmc,
    envpool_any,
    football,
    gridmaze,
    highway,
    jumanji,
    metaworld,
    minigrid,
    mujoco,
    myosuite,
    playground,
    procgen,
    robotics,
    toy,
    vizdoom,
)
from envs.suites import gym as registered
from envs.task import TaskSuite

ENVPOOL = "envpool"


class Family(NamedTuple):
    """The suites of one module."""

    make: Callable[[str], TaskSuite | None]  # a suite from the part of its name after the slash; None for an unknown name
    names: Callable[[], list[str]]  # the parts after the slash of the named suites
    tasks: Callable[[], list[str]] | None = None  # likewise of every task that can be trained on; None: those of the named suites
    simulator: str | None = None  # the package that has all of its tasks, where several families share it


def _of_pools(family: PoolFamily) -> Family:
    return Family(family.make, family.names, family.tasks, ENVPOOL)


FAMILIES: dict[str, Family] = {
    "adroit": _of_pools(robotics.ADROIT),
    "atari": Family(atari.make, atari.names),
    "babyai": Family(babyai.make, babyai.names, babyai.tasks),
    "box2d": _of_pools(control.BOX2D),
    "classic": _of_pools(control.CLASSIC),
    "context": Family(context.make, context.names, context.tasks),
    "dmc": Family(dmc.make, dmc.names, dmc.tasks, ENVPOOL),
    "envpool": Family(envpool_any.make, envpool_any.names, envpool_any.tasks, ENVPOOL),
    "fetch": _of_pools(robotics.FETCH),
    "football": _of_pools(football.FAMILY),
    "gym": Family(registered.make, registered.names),
    "gridmaze": Family(gridmaze.make, gridmaze.names, gridmaze.tasks),
    "hand": _of_pools(robotics.HAND),
    "highway": _of_pools(highway.FAMILY),
    "jumanji": _of_pools(jumanji.FAMILY),
    "kitchen": _of_pools(robotics.KITCHEN),
    "maze": _of_pools(robotics.MAZE),
    "metaworld": Family(metaworld.make, metaworld.names),
    "minigrid": Family(minigrid.make, minigrid.names, minigrid.tasks),
    "mujoco": _of_pools(mujoco.FAMILY),
    "myosuite": _of_pools(myosuite.FAMILY),
    "playground": _of_pools(playground.FAMILY),
    "procgen": Family(procgen.make, procgen.names, procgen.tasks, ENVPOOL),
    "toy": Family(toy.make, toy.names, toy.tasks),
    "toy_text": _of_pools(control.TOY_TEXT),
    "vizdoom": _of_pools(vizdoom.FAMILY),
}
CHAOS = "chaos"  # not a family: `chaos/SUITE?…` is any suite with failures


def list_suites() -> list[str]:
    """The names of all named suites; single tasks and lists of tasks have names, too (`minigrid/DoorKey-6x6`)."""
    return [f"{family}/{name}" for family, entry in FAMILIES.items() for name in entry.names()]


def tasks_of(family: str) -> list[str]:
    """The names of the suites of one task each, for every different task of a family that can be trained on; none where its simulator is
    not installed. Most of the time goes to the specs of EnvPool's environments, which are read once in a process.
    """
    entry = FAMILIES[family]
    try:
        if entry.tasks is not None:
            return [f"{family}/{task}" for task in entry.tasks()]
        suites = [make_suite(f"{family}/{name}") for name in entry.names()]
    except MissingPackageError:
        return []
    return list(dict.fromkeys(f"{family}/{task}" for suite in suites for task in suite.names))


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
