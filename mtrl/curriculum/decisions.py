"""The curriculum's decisions with their evidence: each is logged, and can be made again from the log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from mtrl.config import CurriculumConfig
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.forgetting import ForgettingWatch
from mtrl.curriculum.levels import LevelCurriculum, LevelEpisode, LevelRecord, LevelSummary
from mtrl.curriculum.scheduler import RatedScheduler, Scheduler, with_floor

TOLERANCE = 1e-9


class Decision(NamedTuple):
    """One decision: its evidence, and each task's share of the next frames."""

    version: int  # of the learner
    frames: int  # trained on so far, also on tasks that the run no longer has
    evidence: Evidence
    shares: np.ndarray  # [num_tasks], sums to 1
    levels: LevelRecord | None = None  # where the curriculum chooses levels


class RepeatedDecision(NamedTuple):
    """A decision made again, from the scheduler's weights to the shares, and to the plans for levels."""

    decision: Decision
    weights: np.ndarray  # how much the scheduler wants each task; NaN where it does not say
    observations: np.ndarray  # the scheduler's number of observations of each task
    latest: np.ndarray  # success rate at the last observation, NaN before the first
    previous: np.ndarray  # success rate at the observation before the last
    wanted: np.ndarray  # the scheduler's probabilities
    forgotten: np.ndarray  # tasks that are being lost, whose share is boosted
    shares: np.ndarray  # with boost and floor; the decision's if nothing has changed
    levels: tuple[LevelSummary, ...]  # of each task; none where environments choose their levels themselves


class Verdict(NamedTuple):
    """The result of one decision."""

    wanted: np.ndarray  # the scheduler's probabilities [num_tasks]
    shares: np.ndarray  # with boost and floor
    messages: list[str]


class Decider:
    """Makes shares: the scheduler first, then the boost of forgotten tasks, then the floor."""

    def __init__(self, config: CurriculumConfig, scheduler: Scheduler, names: Sequence[str]):
        self.scheduler = scheduler
        self.watch = ForgettingWatch(names)
        self._config = config

    def decide(self, evidence: Evidence) -> Verdict:
        """The scheduler's probabilities, the tasks' shares, and messages for the user."""
        messages = self.watch.update(evidence)
        wanted = self.scheduler.probabilities(evidence)
        return Verdict(wanted, with_floor(self.watch.boosted(wanted, self._config.boost_forgotten), self._config.floor), messages)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""
        return {"name": self._config.scheduler, "scheduler": self.scheduler.state_dict(), "watch": self.watch.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`. A scheduler begins anew after one of another name."""
        if state.get("name", self._config.scheduler) == self._config.scheduler:
            self.scheduler.load_state_dict(state["scheduler"])
        self.watch.load_state_dict(state["watch"])


def repeat_decisions(decider: Decider, decisions: Iterable[Decision], levels: LevelCurriculum | None = None) -> Iterator[RepeatedDecision]:
    """Makes the decisions of a run again, from its first one on."""
    scheduler: Any = decider.scheduler
    for decision in decisions:
        wanted, shares, _ = decider.decide(decision.evidence)
        nothing = np.full(len(shares), np.nan)
        rated = isinstance(scheduler, RatedScheduler)
        observations = scheduler.num_observations if rated else np.zeros(len(shares))
        yield RepeatedDecision(
            decision,
            np.array(scheduler.weights(decision.evidence), float) if rated and (observations > 0).any() else nothing,
            np.array(observations),
            np.where(observations > 0, scheduler.latest, np.nan) if rated else nothing,
            np.where(observations > 0, scheduler.previous, np.nan) if rated else nothing,
            wanted,
            decider.watch.forgotten.copy(),
            shares,
            levels.decide(decision.levels.episodes).tasks if levels is not None and decision.levels is not None else (),
        )


def figures_of_tasks(step: RepeatedDecision) -> dict[str, np.ndarray]:
    """What a table shows of a decision made again: each figure of all tasks, by the name of its column; NaN where it is not known."""
    evidence = step.decision.evidence
    return {
        "success": evidence.success_rates,
        "latest": step.latest,
        "before": step.previous,
        "value error": evidence.value_errors,
        "weight": step.weights,
        "scheduler": step.wanted,
        "share": step.decision.shares,
    }


def agrees(step: RepeatedDecision) -> bool:
    """Whether a decision made again is the one that was logged."""
    logged = step.decision.levels.tasks if step.decision.levels is not None else ()
    same_levels = all(one.agrees_with(other) for one, other in zip(step.levels, logged, strict=False))  # none where they were not repeated
    return same_levels and bool(np.abs(step.shares - step.decision.shares).max() <= TOLERANCE)


def to_line(decision: Decision) -> str:
    """A decision as a line of JSON; missing values are null."""
    values = {name: _listed(value) for name, value in decision.evidence._asdict().items() if value is not None}
    levels = {} if decision.levels is None else {"levels": _listed_levels(decision.levels)}
    return json.dumps({"version": decision.version, "trained": decision.frames, **values, "shares": _listed(decision.shares), **levels})


def from_line(line: str) -> Decision:
    """The decision of a line.

    Raises:
        ValueError: it is no such line.
    """
    try:
        values = json.loads(line)
        arrays = {name: np.array(values[name], float) for name in Evidence._fields if name in values}
        levels = _levels_of(values["levels"]) if "levels" in values else None
        return Decision(int(values["version"]), int(values["trained"]), Evidence(**arrays), np.array(values["shares"], float), levels)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"not a decision: {error}") from None


def _listed_levels(record: LevelRecord) -> Any:
    """Episodes as rows, and a mapping for each task, where the score of a level without one is null."""
    tasks = [{**each._asdict(), "scores": _listed(np.array(each.scores, float))} for each in record.tasks]
    return {"episodes": [list(episode) for episode in record.episodes], "tasks": tasks}


def _levels_of(values: Any) -> LevelRecord:
    tasks = [{name: tuple(value) if isinstance(value, list) else value for name, value in each.items()} for each in values["tasks"]]
    summaries = [LevelSummary(**each | {"scores": tuple(np.array(each["scores"], float).tolist())}) for each in tasks]
    return LevelRecord(tuple(LevelEpisode(*row) for row in values["episodes"]), tuple(summaries))


def _listed(array: np.ndarray) -> Any:
    # Plain numbers: JSON writes a float so that reading it gives the same one.
    values = array.astype(object)
    values[np.isnan(array)] = None
    return values.tolist()
