"""A run's decisions about shares made again, to check them and to say why a task got its share."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from envs import make_suite
from mtrl.curriculum import make_scheduler
from mtrl.curriculum.decisions import Decider, RepeatedDecision, agrees, repeat_decisions
from mtrl.curriculum.levels import make_level_curriculum
from mtrl.errors import UserError
from mtrl.storage.run_directory import RunDirectory

HISTORY = 20  # decisions shown of one task


class Explanation(NamedTuple):
    """A run's decisions, made again from its log."""

    names: tuple[str, ...]
    shown: list[RepeatedDecision]  # the decision asked for, or decisions evenly spread over the run
    decisions: int
    from_start: bool  # whether the log has the run's first decision: after a change of tasks or rules it has not, and nothing is checked
    differing: RepeatedDecision | None  # the first that came out otherwise than it was logged
    floor: float


def explain_run(directory: RunDirectory, *, frames: int | None = None, spread: bool = False) -> Explanation:
    """Makes all of a run's decisions again.

    Args:
        directory: the run.
        frames: shows the last decision at or before so many trained frames; the newest if None.
        spread: shows decisions over the whole run instead of one.

    Raises:
        UserError: the run has no log of decisions, or none so early.
    """
    config = directory.config
    suite = make_suite(config.suite.name)
    names = suite.names
    levels = make_level_curriculum(config, suite)
    decider = Decider(config.curriculum, make_scheduler(config.curriculum, names), names)
    wanted = [decision for decision in directory.read_decisions() if frames is None or decision.frames <= frames]
    if not wanted:
        raise UserError(f"{directory.path} has no decisions of its curriculum" + ("" if frames is None else f" up to {frames:,} frames"))
    places = set(np.linspace(0, len(wanted) - 1, HISTORY).astype(int).tolist()) if spread else {len(wanted) - 1}
    shown, differing = [], None
    from_start = wanted[0].version == 0
    for place, step in enumerate(repeat_decisions(decider, wanted, levels)):
        if from_start and differing is None and not agrees(step):
            differing = step
        if place in places:
            shown.append(step)
    return Explanation(names, shown, len(wanted), from_start, differing, config.curriculum.floor)
