"""The decision behind a run's shares at one moment: the evidence that was logged, and what the scheduler made of it.

The decisions are made again by the schedulers that come with the program, never by a class that a run's configuration names: whoever looks
at a run does not run its code.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pydantic

from mtrl.config import ConfigError, CurriculumConfig
from mtrl.curriculum import SCHEDULERS, make_scheduler
from mtrl.curriculum.decisions import Decider, Decision, RepeatedDecision, agrees, figures_of_tasks, from_line, repeat_decisions
from mtrl.dashboard.newest import inside
from mtrl.dashboard.runs import Run
from mtrl.storage.layout import RunLayout

SECONDS = 3.0  # for making all decisions again; a visitor does not wait longer
SLOW = "the scheduler needs too long for a page; the command explain shows its figures"
OTHERWISE = "the scheduler's figures come from another version or other options than the logged shares"


class ShownDecision(NamedTuple):
    """One decision of a run's curriculum."""

    frames: int
    version: int
    scheduler: str
    tasks: list[str]
    columns: dict[str, list[float | None]]
    """Figures of each task by the name of the column; those of the scheduler are missing where the decision was not made again."""
    before: int | None
    """Frames of the decision before it."""
    after: int | None
    """Frames of the decision after it."""
    remark: str
    """Why the scheduler's figures are missing, or that they differ from the log; empty otherwise."""


def decision_at(run: Run, frames: float | None) -> ShownDecision | None:
    """The last decision at or before so many trained frames, the newest if None; None where the log has no such decision."""
    decisions = _decisions(run)
    until = [decision for decision in decisions if frames is None or decision.frames <= frames]
    if not until:
        return None
    decision = until[-1]
    tasks = run.tasks if len(run.tasks) == len(decision.shares) else [f"task {k}" for k in range(len(decision.shares))]
    repeated, remark = _repeat(run, until, tasks)
    if repeated is None:
        figures = {"success": decision.evidence.success_rates, "value error": decision.evidence.value_errors}
    else:
        figures = figures_of_tasks(repeated)
    shares = {"share": decision.shares}  # next to the task, where a narrow screen shows them
    if len(until) > 1 and len(until[-2].shares) == len(decision.shares):
        shares["share before"] = until[-2].shares
    figures = shares | {"episodes": decision.evidence.episodes} | {name: values for name, values in figures.items() if name != "share"}
    return ShownDecision(
        decision.frames,
        decision.version,
        str(_curriculum(run).get("scheduler", "")),
        tasks,
        {name: [None if np.isnan(value) else float(value) for value in values] for name, values in figures.items()},
        until[-2].frames if len(until) > 1 else None,
        decisions[len(until)].frames if len(until) < len(decisions) else None,
        remark,
    )


def _repeat(run: Run, decisions: Sequence[Decision], tasks: Sequence[str]) -> tuple[RepeatedDecision | None, str]:
    """The last of the decisions made again, and a remark."""
    try:
        config = CurriculumConfig.model_validate(_curriculum(run))
        if config.scheduler not in SCHEDULERS:
            return None, f"the scheduler {config.scheduler} is not part of this program; the command explain shows its figures"
        decider = Decider(config, make_scheduler(config, tasks), tasks)
    except (ConfigError, pydantic.ValidationError):
        return None, "the run's curriculum cannot be read"
    if decisions[0].version != 0:
        return None, "the log begins at a change of tasks or curriculum, so that the scheduler's figures are not known"
    end = time.monotonic() + SECONDS
    in_time = itertools.takewhile(lambda _: time.monotonic() < end, decisions)
    with contextlib.suppress(ArithmeticError, IndexError, TypeError, ValueError):  # evidence of other tasks
        newest = collections.deque(repeat_decisions(decider, in_time), maxlen=1)
        if newest and newest[0].decision is decisions[-1]:
            return newest[0], "" if agrees(newest[0]) else OTHERWISE
    slow = time.monotonic() >= end
    return None, SLOW if slow else "the log does not fit the run's tasks"


def _decisions(run: Run) -> list[Decision]:
    return list(_read(run))


def _read(run: Run) -> Iterator[Decision]:
    with contextlib.suppress(OSError, ValueError, RecursionError), inside(run.path, RunLayout(run.path).decisions).open() as file:
        for line in file:
            yield from_line(line)


def _curriculum(run: Run) -> dict[str, Any]:
    found = run.config.get("curriculum")
    return found if isinstance(found, dict) else {}
