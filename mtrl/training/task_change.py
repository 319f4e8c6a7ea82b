"""Going on with other tasks: what a checkpoint knows of each task moves to the task of that name.

Which parts of a state belong to tasks is not written down anywhere: it shows when the same experiment is set up with one more task. An axis
that grows then has a place for each task; everything else belongs to all of them and is taken over as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from envs import TaskSuite
from envs.mixed import KIND, EitherSpace, MixedSuite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.decisions import Decider
from mtrl.curriculum.scheduler import with_present_names
from mtrl.learning.learner import Learner
from mtrl.training.task_statistics import TaskStatistics

OTHER_TASK = "a task that no suite has"


def carry_over(components: dict[str, Any], before: Sequence[str], config: ExperimentConfig, suite: TaskSuite) -> dict[str, Any]:
    """A checkpoint's components for another list of tasks. Tasks that are new begin as in a new run.

    Args:
        components: of a checkpoint, see `Trainer.state_dict`.
        before: names of the tasks that it was trained on, in order.
        config: of the run that goes on.
        suite: its tasks.

    Raises:
        ConfigError: the policies differ in more than their tasks' parts.
    """
    # By number of tasks, since a task's name appears in options only, and those are about the new tasks.
    old, new, more = (_fresh(config, suite, names) for names in (tuple(before), suite.names, (*suite.names, OTHER_TASK)))
    components = {**components, "curriculum": _of_scheduler(config.curriculum.scheduler, components["curriculum"], old["curriculum"])}
    for part in ("proximal", "entropy_costs", "novelty"):  # which the checkpoint may not have; a fresh one knows nothing yet
        if part in old["learner"]:
            components["learner"] = {part: old["learner"][part], **components["learner"]}
    if components["learner"]["balancer"].keys() != new["learner"]["balancer"].keys():  # another rule, which begins anew
        components["learner"] = {**components["learner"], "balancer": old["learner"]["balancer"]}
    if "imitation" in new["learner"]:
        components["learner"] = {**components["learner"], "imitation": {}}  # traces of tasks by their old numbers
    components = {**components, "statistics": old["statistics"] | components["statistics"]}  # of a former version, which counted less
    places = [(before.index(name), place) for place, name in enumerate(suite.names) if name in before]
    moved = {name: _moved(components[name], new[name], more[name], places) for name in ("learner", "curriculum", "statistics")}
    moved["learner"]["optimizers"] = _moved_optimizers(components["learner"]["optimizers"], old, new, more, places)
    moved["statistics"]["similarity"] = None  # known anew after one update
    gone = sum(int(frames) for name, frames in zip(before, components["statistics"]["frames"], strict=True) if name not in suite.names)
    moved["statistics"]["retired_frames"] = int(components["statistics"].get("retired_frames", 0)) + gone
    source = {name: value for name, value in components["source"].items() if name != "collector"}
    moved |= {"levels": components["levels"]} if "levels" in components else {}  # by the tasks' names
    return {**moved, "source": source | {"collector": None} if "collector" in components["source"] else source}


def check_kinds(before: TaskSuite, suite: TaskSuite) -> None:
    """Compares the kinds of observations and actions of two mixed suites: a policy knows them by their numbers.

    Args:
        before: that a checkpoint was trained on.
        suite: that goes on.

    Raises:
        ConfigError: a number stands for another kind now: weights of the one would be taken for those of the other.
    """
    if not (isinstance(before, MixedSuite) and isinstance(suite, MixedSuite)):
        return  # other shapes of weights are found as such
    for what, old, new in (
        ("observations", _observation_kinds(before), _observation_kinds(suite)),
        ("actions", _action_kinds(before), _action_kinds(suite)),
    ):
        if any(ours != theirs for ours, theirs in zip(old, new, strict=False)):
            raise ConfigError(
                f"the kinds of {what} of {suite.name} come in another order than those of {before.name}, which the policy was trained on: "
                "keep the suites of the former tasks first, in their order"
            )


def _observation_kinds(suite: TaskSuite) -> list[dict[str, Any]]:
    kinds: dict[str, dict[str, Any]] = {}
    for name, space in suite.observation_space.items():
        number, _, own = name.rpartition(".")
        if name != KIND:
            kinds.setdefault(number, {})[own] = space
    return [kinds[number] for number in sorted(kinds, key=lambda number: int(number or 0))]


def _action_kinds(suite: TaskSuite) -> list[Any]:
    return list(suite.action_space.kinds) if isinstance(suite.action_space, EitherSpace) else [suite.action_space]


def _of_scheduler(name: str, state: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    """A decider's state with a scheduler of this name: that of a fresh one if it had another."""
    if state.get("name", name) != name:
        return {**state, "name": name, "scheduler": fresh["scheduler"], "watch": fresh["watch"] | state["watch"]}
    # The watch and the scheduler of an earlier version knew less.
    scheduler = fresh["scheduler"] | with_present_names(state["scheduler"])
    return {"name": name, **state, "scheduler": scheduler, "watch": fresh["watch"] | state["watch"]}


def _fresh(config: ExperimentConfig, suite: TaskSuite, names: Sequence[str]) -> dict[str, Any]:
    """States of the parts of a new run with tasks of these names, and its optimisers' parameters."""
    tasks = tuple(
        suite.tasks[suite.index(name)] if name in suite.names else dataclasses.replace(suite.tasks[0], name=name) for name in names
    )
    other = dataclasses.replace(suite, tasks=tasks)
    learner = Learner(config, other)
    # Options may name tasks; only the shape of a scheduler's state is looked at, which does not depend on them.
    scheduler = make_scheduler(config.curriculum, suite.names)
    if tuple(names) != suite.names:
        scheduler = type(scheduler)(names, scheduler.options)  # type: ignore[call-arg, attr-defined]
    return {
        "learner": learner.state_dict(),
        "curriculum": Decider(config.curriculum, scheduler, names).state_dict(),
        "statistics": TaskStatistics(other).state_dict(),
        "parameters": learner.optimizers.parameters(),
    }


def _moved(old: Any, new: Any, more: Any, places: list[tuple[int, int]]) -> Any:
    """The tree `old` with the tasks' places moved; `new` and `more` are trees of new runs with the new tasks and one more."""
    if isinstance(new, dict):
        if not set(new) <= set(old):
            raise ConfigError(f"the checkpoint lacks {', '.join(sorted(map(str, set(new) - set(old))))}: its model is another one")
        return {key: _moved(old[key], new[key], more[key], places) for key in new}
    if not isinstance(new, torch.Tensor | np.ndarray):
        return old
    if 0 in new.shape and new.shape == more.shape:
        return old  # a history of all tasks, empty in a new run
    axes = [axis for axis, (few, many) in enumerate(zip(new.shape, more.shape, strict=True)) if few != many]
    shape = tuple(old.shape[axis] if axis in axes else size for axis, size in enumerate(new.shape))
    if tuple(old.shape) != shape:
        raise ConfigError(
            f"the checkpoint's model differs from the experiment's in more than its tasks: {tuple(old.shape)} against {shape}"
        )
    if not axes:
        return old
    result = new.clone() if isinstance(new, torch.Tensor) else new.copy()
    for places_now in np.ndindex(*(len(places) for _ in axes)):
        taken: list[Any] = [slice(None)] * len(shape)
        given: list[Any] = [slice(None)] * len(shape)
        for axis, which in zip(axes, places_now, strict=True):
            taken[axis], given[axis] = places[which]
        result[tuple(given)] = old[tuple(taken)]
    return result


def _moved_optimizers(
    optimizers: dict[str, Any], old: dict[str, Any], new: dict[str, Any], more: dict[str, Any], places: list[tuple[int, int]]
) -> dict[str, Any]:
    """Moments like the parameters that they belong to; those of new tasks are where their rule begins: at 1 RMSProp's, at 0 others."""
    moved = {}
    for name, optimizer in optimizers.items():
        state = {}
        for index, entries in optimizer["state"].items():
            shapes = [parts["parameters"][name][int(index)] for parts in (old, new, more)]
            state[index] = {
                key: _moved(value, torch.full_like(shapes[1], key == "square_avg"), torch.zeros_like(shapes[2]), places)
                if isinstance(value, torch.Tensor) and value.shape == shapes[0].shape and value.dim()
                else value
                for key, value in entries.items()
            }
        moved[name] = {**optimizer, "state": state}
    return moved
