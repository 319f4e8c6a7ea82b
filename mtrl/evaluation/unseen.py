"""Tasks that a policy was not trained on: which ones an evaluation names, and the suite that they are played in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from envs import SuiteError, TaskSuite, make_suite
from envs.mixed import MixedSuite, mix
from envs.registry import CHAOS
from mtrl.config import ModelConfig
from mtrl.errors import UserError


class Chosen(NamedTuple):
    """The tasks of an evaluation."""

    suite: TaskSuite
    tasks: list[int]  # indices in the suite
    name: str  # what `suite_to_play` makes the suite of; empty for the policy's own


def choose_tasks(own: TaskSuite, model: ModelConfig, tasks: Sequence[str], suite: str = "") -> Chosen:
    """The tasks that an evaluation is to play.

    Args:
        own: the suite that the policy was trained on.
        model: of the policy.
        tasks: names of tasks; all of `own` if empty and no suite is named. Names that `own` does not have are looked up in its family.
        suite: the name of a suite, all tasks of which are meant.

    Raises:
        UserError: the policy knows no tasks but its own, or the tasks' spaces are others than those that it was trained on.
        SuiteError: there is no such suite or task.
    """
    if not suite:
        unknown = [name for name in tasks if name not in own.names]
        if not unknown:
            return Chosen(own, sorted({own.index(name) for name in tasks}) or list(range(own.num_tasks)), "")
        suite = _in_family(own, tasks, unknown[0]) if model.conditioning != "one_hot" else ""
        if not suite:
            own.index(unknown[0])  # raises
    named = make_suite(suite)
    if set(named.names) <= set(own.names):
        if _rules(named) <= _rules(own):
            return Chosen(own, sorted(own.index(name) for name in named.names), "")
        if isinstance(own, MixedSuite):
            raise UserError(
                f"{suite} has tasks of the policy's own suite {own.name} with other options, which are not played beside its others"
            )
        # The policy's own tasks by other rules, such as another reward.
    elif model.conditioning == "one_hot":
        raise UserError(
            f"the policy was not trained on {_first_new(named, own)} of {suite}, and model.conditioning 'one_hot' knows trained tasks "
            "alone: train with model.conditioning embedding or sentence to play other tasks"
        )
    played = suite_to_play(own, suite)
    return Chosen(played, [played.index(name) for name in named.names], suite)


def suite_to_play(own: TaskSuite, name: str) -> TaskSuite:
    """The suite called `name`; for a policy that was trained on several families, its own tasks together with those of that suite.

    Args:
        own: the suite that the policy was trained on.
        name: of a suite.

    Raises:
        SuiteError: there is no such suite.
        UserError: its tasks observe or act otherwise than those that the policy was trained on.
    """
    suite = make_suite(name)
    if isinstance(own, MixedSuite):
        parts = suite.parts if isinstance(suite, MixedSuite) else (suite,)
        new = [replace(part, tasks=tuple(task for task in part.tasks if task.name not in own.names)) for part in parts]
        suite = mix(f"{own.name}+{name}", [*own.parts, *(part for part in new if part.tasks)])
    elif set(suite.names) <= set(own.names):  # the policy has a head for each of its own tasks, in their order
        by_name = {task.name: task for task in (*own.tasks, *suite.tasks)}
        suite = replace(suite, tasks=tuple(by_name[task] for task in own.names))
    for what, ours, theirs in (
        ("observe", own.observation_space, suite.observation_space),
        ("act in", own.action_space, suite.action_space),
    ):
        if ours != theirs:
            raise UserError(f"the policy cannot play {name}: it was trained on tasks that {what} {ours}, and these {what} {theirs}")
    return suite


def _rules(suite: TaskSuite) -> set[tuple[str, ...]]:
    """Family and options of the suite, or of each of its parts."""
    found = set()
    for part in suite.parts if isinstance(suite, MixedSuite) else (suite,):
        name, _, query = part.name.partition("?")
        found.add((name.partition("/")[0], *sorted(query.split("&"))))
    return found


def _in_family(own: TaskSuite, tasks: Sequence[str], unknown: str) -> str:
    """The name of a suite of these tasks in the family of the policy's own; empty where the family does not have them."""
    family, _, rest = own.name.partition("/")
    query = rest.partition("?")[2]
    name = f"{family}/{','.join(tasks)}" + (f"?{query}" if query else "")
    try:
        found = make_suite(name) if not isinstance(own, MixedSuite) and family != CHAOS else None
    except SuiteError:
        return ""
    return name if found is not None and unknown in found.names else ""


def _first_new(named: TaskSuite, own: TaskSuite) -> str:
    return next(name for name in named.names if name not in own.names)
