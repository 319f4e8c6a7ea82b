"""A family of suites whose tasks are EnvPool's ids: `mujoco/Ant-v5`, or `mujoco/Ant`, which is its newest version."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from envs.errors import SuiteError
from envs.pools.catalogue import ids, version_of
from envs.pools.options import options_of, return_range
from envs.pools.suite import PROTOCOL, Entry, choose, pool_suite, served
from envs.task import EvaluationProtocol, TaskSuite


@dataclass(frozen=True)
class PoolFamily:
    """The suites of the environments of one of EnvPool's modules: named sets, `all`, and tasks by name."""

    name: str
    module: str
    prefix: str = ""
    """Only ids that begin with it belong to the family."""
    sets: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The named sets besides `all`."""
    rate: Callable[[Entry], Entry] = lambda entry: entry
    """Adds what is published of a task: its range of returns, when an episode has succeeded."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `envpool.make` for all tasks."""
    protocol: EvaluationProtocol = PROTOCOL

    def names(self) -> list[str]:
        """The named sets besides `all`, which is long."""
        return list(self.sets)

    def make(self, name: str) -> TaskSuite:
        """A named set, `all`, one task or several, separated by commas; with `?low=RETURN&high=RETURN` another range of returns.

        Raises:
            UnknownTaskError: there is no such task.
            SuiteError: an environment cannot be made or served.
        """
        suite = f"{self.name}/{name}"
        listed, _, query = name.partition("?")
        options = options_of(suite, query, ("low", "high"))
        if listed == "all":
            entries = self._all()
        else:
            known = self._ids()
            entries = [self._entry(known[each]) for each in choose(self.name, listed, self.sets, list(known))]
        if "high" in options:
            low, high = return_range(suite, options)
            entries = [replace(entry, low=low, high=high) for entry in entries]
        elif options:
            raise SuiteError(f"{suite}: low needs high beside it")
        return pool_suite(suite, entries, self.protocol)

    def tasks(self) -> list[str]:
        """The names of all tasks that can be trained on, each environment once.

        Raises:
            MissingPackageError: EnvPool, or what the environments need besides, is not installed.
        """
        return [entry.name for entry in self._all()]

    def _all(self) -> list[Entry]:
        found = ids(self.module)
        return served([self._entry(each) for each, first in found.items() if each == first and each.startswith(self.prefix)])

    def _entry(self, envpool_id: str) -> Entry:
        return self.rate(Entry(name=envpool_id.rpartition("/")[2], envpool_id=envpool_id, options=self.options))

    def _ids(self) -> dict[str, str]:
        """The ids by all names of tasks: with and without a version, with and without the prefix of EnvPool's module."""
        known: dict[str, str] = {}
        for each in sorted((one for one in ids(self.module) if one.startswith(self.prefix)), key=version_of):
            known |= {each.rpartition("/")[2].rpartition("-v")[0]: each, each.rpartition("/")[2]: each, each: each}
        return known
