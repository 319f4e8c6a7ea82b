"""The curriculum over the levels of all tasks, its decisions, and what the log keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from envs import TaskSuite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum.levels.plan import LevelPlan
from mtrl.curriculum.levels.priorities import effective_number
from mtrl.curriculum.levels.sampler import LevelSampler
from mtrl.curriculum.levels.scores import LevelEpisode

SHOWN = 5  # levels of a task that a summary names
TOLERANCE = 1e-9


class LevelSummary(NamedTuple):
    """What is known of a task's levels at a decision."""

    episodes: int  # ended so far
    rated: int  # levels in the buffer
    replayed: float  # probability that an episode replays a level of the buffer
    effective: float  # number of levels that the distribution spreads over
    numbers: tuple[int, ...]  # the most probable levels, the first one first
    probabilities: tuple[float, ...]  # of these
    scores: tuple[float, ...]  # of these; NaN where the level is not in the buffer

    def agrees_with(self, other: LevelSummary) -> bool:
        """Whether both are of the same decision."""
        ours, theirs = (np.array([s.episodes, s.rated, s.replayed, s.effective, *s.probabilities], float) for s in (self, other))
        return self.numbers == other.numbers and ours.shape == theirs.shape and bool(np.abs(ours - theirs).max() <= TOLERANCE)


class LevelRecord(NamedTuple):
    """A decision about levels, with its evidence."""

    episodes: tuple[LevelEpisode, ...]  # that have ended since the decision before
    tasks: tuple[LevelSummary, ...]  # of each task


class LevelCurriculum:
    """A level sampler for each task."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite):
        self._names, self._training_levels = suite.names, config.curriculum.levels.training_levels
        self.samplers = [LevelSampler(config.curriculum.levels, task, config.seed, place) for place, task in enumerate(suite.tasks)]

    def decide(self, episodes: Sequence[LevelEpisode]) -> LevelRecord:
        """Takes in the episodes that have ended since the last decision; `plans` are those that follow."""
        for episode in episodes:
            self.samplers[episode.task].add(episode)
        return LevelRecord(tuple(episodes), self.summaries())

    def summaries(self) -> tuple[LevelSummary, ...]:
        """What is known of each task's levels."""
        return tuple(map(_summary, self.samplers))

    def plans(self) -> tuple[LevelPlan, ...]:
        """What runners draw the levels of each task from."""
        return tuple(sampler.plan() for sampler in self.samplers)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on, by the tasks' names."""
        tasks = {name: sampler.state_dict() for name, sampler in zip(self._names, self.samplers, strict=True)}
        return {"training_levels": self._training_levels, "tasks": tasks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`. New tasks begin anew, and all do where the training levels are others."""
        if state["training_levels"] != self._training_levels:
            return
        for name, sampler in zip(self._names, self.samplers, strict=True):
            if name in state["tasks"]:
                sampler.load_state_dict(state["tasks"][name])


def make_level_curriculum(config: ExperimentConfig, suite: TaskSuite) -> LevelCurriculum | None:
    """The experiment's curriculum over levels; None where environments choose their levels themselves.

    Raises:
        ConfigError: levels are to be edited, and a task's levels have no parameters.
    """
    sampler = config.curriculum.levels.sampler
    if sampler is None:
        return None
    lacking = [task.name for task in suite.tasks if task.level_parameters is None]
    if sampler == "accel" and lacking:
        raise ConfigError(
            f"curriculum.levels.sampler is accel, which edits parameters of levels, but {lacking[0]} has none: take plr_robust, or "
            "context/cartpole:all or context/pendulum:all"
        )
    return LevelCurriculum(config, suite)


def _summary(sampler: LevelSampler) -> LevelSummary:
    plan, rated = sampler.plan(), len(sampler.buffer)
    top = np.argsort(-plan.probabilities, kind="stable")[:SHOWN]
    scores = np.concatenate([sampler.buffer.scores, np.full(len(plan.numbers) - rated, np.nan)])
    return LevelSummary(
        episodes=sampler.clock,
        rated=rated,
        replayed=float(plan.probabilities[:rated].sum()),
        effective=effective_number(plan.probabilities),
        numbers=tuple(plan.numbers[top].tolist()),
        probabilities=tuple(plan.probabilities[top].tolist()),
        scores=tuple(scores[top].tolist()),
    )
