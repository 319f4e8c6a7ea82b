"""The curriculum over the levels of all tasks, its decisions, and what the log keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from envs import TaskSuite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum.levels.clutr import ClutrSampler
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
    scores: tuple[float, ...]  # of these, by their newest episodes or as a teacher expects them; NaN where the level was not rated

    def agrees_with(self, other: LevelSummary) -> bool:
        """Whether both are of the same decision."""
        ours, theirs = (np.array([s.episodes, s.rated, s.replayed, s.effective, *s.probabilities, *s.scores], float) for s in (self, other))
        same_shape = self.numbers == other.numbers and ours.shape == theirs.shape
        return same_shape and bool(np.allclose(ours, theirs, rtol=0.0, atol=TOLERANCE, equal_nan=True))


class LevelRecord(NamedTuple):
    """A decision about levels, with its evidence."""

    episodes: tuple[LevelEpisode, ...]  # that have ended since the decision before
    tasks: tuple[LevelSummary, ...]  # of each task


class LevelCurriculum:
    """A level sampler for each task."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite):
        self._names, self._training_levels = suite.names, config.curriculum.levels.training_levels
        levels, seed = config.curriculum.levels, config.seed
        made: type[LevelSampler | ClutrSampler] = ClutrSampler if levels.sampler == "clutr" else LevelSampler
        self.samplers = [made(levels, task, seed, place) for place, task in enumerate(suite.tasks)]

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
        ConfigError: levels are to be edited or proposed, and a task's levels have no parameters.
    """
    sampler = config.curriculum.levels.sampler
    if sampler is None:
        return None
    lacking = [task.name for task in suite.tasks if task.level_parameters is None]
    if sampler in ("accel", "clutr") and lacking:
        raise ConfigError(
            f"curriculum.levels.sampler is {sampler}, which writes parameters of levels, but {lacking[0]} has none: take plr_robust, or "
            "gridmaze/blocks, context/cartpole:all or context/pendulum:all"
        )
    return LevelCurriculum(config, suite)


def _summary(sampler: LevelSampler | ClutrSampler) -> LevelSummary:
    plan = sampler.plan()
    top = np.argsort(-plan.probabilities, kind="stable")[:SHOWN]
    known = ~np.isnan(sampler.buffer.scores_of(plan.numbers))
    scores = sampler.plan_scores()
    return LevelSummary(
        episodes=sampler.clock,
        rated=len(sampler.buffer),
        replayed=float(plan.probabilities[known].sum()),
        effective=effective_number(plan.probabilities),
        numbers=tuple(plan.numbers[top].tolist()),
        probabilities=tuple(plan.probabilities[top].tolist()),
        scores=tuple(scores[top].tolist()),
    )
