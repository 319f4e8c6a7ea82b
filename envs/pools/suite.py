"""Suites of EnvPool's environments."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from envs.backends.envpool import SUCCESS
from envs.errors import MissingPackageError, SuiteError, UnknownTaskError, did_you_mean
from envs.mixed import mix
from envs.pools.catalogue import Spec, spec_of
from envs.pools.recipe import recipe_of
from envs.pools.single import PoolEnv
from envs.task import EvaluationProtocol, Task, TaskSuite, just_below

PROTOCOL = EvaluationProtocol("envpool-v1", episodes=25, actions="sampled", backend="envpool")


@dataclass(frozen=True)
class Entry:
    """A task of a suite, and the id that EnvPool has it under."""

    name: str
    envpool_id: str
    low: float = 0.0
    """The return that scores 0."""
    high: float | None = None
    """The return that scores 1; None where nobody has published one."""
    success_return: float | None = None
    """An episode with a return above this has succeeded; None where the environment reports success, or EnvPool knows a threshold."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of `envpool.make`."""
    evaluation_options: Mapping[str, Any] | None = None
    """Those of the published evaluation, where they differ."""


def pool_suite(
    name: str, entries: Sequence[Entry], protocol: EvaluationProtocol = PROTOCOL, rules: Mapping[str, str] | None = None
) -> TaskSuite:
    """The suite of some of EnvPool's environments, in their order: where their spaces differ, a mixed one.

    An episode succeeds if the environment says so, or else if its return reaches the threshold that EnvPool knows.

    Raises:
        SuiteError: an environment cannot be made or served, or two tasks have the same name.
    """
    specs = [spec_of(entry.envpool_id, entry.options) for entry in entries]
    tasks = [_task(entry, spec) for entry, spec in zip(entries, specs, strict=True)]
    rule = _action_rules(entries, specs)
    parts = []
    for _, run in itertools.groupby(zip(tasks, specs, entries, strict=True), key=lambda member: _Key(member[1])):
        members = list(run)
        view = members[0][1].view
        pools = {task.name: (entry.envpool_id, _played_with(entry)) for task, _, entry in members}
        parts.append(
            TaskSuite(
                name=name,
                tasks=tuple(task for task, _, _ in members),
                observation_space=view.observation_space,
                action_space=view.action_space,
                adapt=view.adapt,
                scored_by="success" if all(task.high is None for task, _, _ in members) else "return",
                rules={**rule, **(rules or {})},
                protocol=protocol,
                recipe=recipe_of(view, pools),
            )
        )
    return parts[0] if len(parts) == 1 else mix(name, parts)


def choose(family: str, listed: str, sets: Mapping[str, Sequence[str]], every: Sequence[str]) -> list[str]:
    """The names in `SET`, `all` or `TASK,TASK`.

    Args:
        family: the suites' family, for messages.
        listed: the part of a suite's name between the slash and the options.
        sets: the family's named sets; none is called `all`.
        every: the names of all tasks.

    Raises:
        UnknownTaskError: there is no such task.
    """
    if listed in sets:
        return list(sets[listed])
    members = list(every) if listed == "all" else [part.strip() for part in listed.split(",")]
    for member in members:
        if member not in every:
            raise UnknownTaskError(f"{family} has no task {member!r}{did_you_mean(member, [*every, *sets, 'all'])}")
    return members


def served(entries: Iterable[Entry]) -> list[Entry]:
    """Those that can be trained on.

    Raises:
        MissingPackageError: EnvPool, or what the environments need besides, is not installed.
    """
    return [entry for entry in entries if _is_served(entry)]


def _is_served(entry: Entry) -> bool:
    try:
        spec_of(entry.envpool_id, entry.options)
    except MissingPackageError:
        raise
    except SuiteError:
        return False
    return True


class _Key:
    """Equal for environments that can be tasks of one plain suite."""

    def __init__(self, spec: Spec):
        self._view = spec.view

    def __eq__(self, other: object) -> bool:
        ours, theirs = self._view, other._view  # type: ignore[attr-defined]
        return bool(
            (ours.adapt, ours.observation_space, ours.action_space) == (theirs.adapt, theirs.observation_space, theirs.action_space)
        )

    __hash__ = None  # type: ignore[assignment]


def _task(entry: Entry, spec: Spec) -> Task:
    threshold = entry.success_return
    if threshold is None and spec.reward_threshold is not None and not spec.info.intersection(SUCCESS):
        threshold = just_below(spec.reward_threshold)
    return Task(
        name=entry.name,
        make_env=functools.partial(PoolEnv, entry.envpool_id, entry.options),
        make_evaluation_env=functools.partial(PoolEnv, entry.envpool_id, _played_with(entry)),
        low=entry.low,
        high=entry.high,
        success_return=threshold,
        envpool_id=entry.envpool_id,
        envpool_options=entry.options,
        envpool_evaluation_options=entry.evaluation_options,
        envpool_actions=spec.view.to_pool,
    )


def _played_with(entry: Entry) -> Mapping[str, Any]:
    """The arguments of `envpool.make` in an evaluation."""
    return entry.options if entry.evaluation_options is None else entry.evaluation_options


def _action_rules(entries: Sequence[Entry], specs: Sequence[Spec]) -> dict[str, str]:
    """What is done to actions; a policy that was trained by another rule acts wrongly."""
    found = {spec.view.action_rule: entry.name for entry, spec in zip(entries, specs, strict=True) if spec.view.action_rule is not None}
    return {"actions": "; ".join(found)} if found else {}
