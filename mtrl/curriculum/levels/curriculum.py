"""The curriculum over the levels of all tasks, its decisions, and what the log keeps of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from envs import TaskSuite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum.levels.plan import LevelPlan
from mtrl.curriculum.levels.priorities import effective_number
from mtrl.curriculum.levels.sampler import LevelSampler
from mtrl.curriculum.levels.scores import LevelEpisode

if TYPE_CHECKING:
    from mtrl.curriculum.levels.clutr import ClutrSampler

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
    mean_parameter: float = float("nan")  # of the plan's levels, over all of their parameters; 0 where they have none, NaN in older logs

    def agrees_with(self, other: LevelSummary) -> bool:
        """Whether both are of the same decision."""
        ours, theirs = (np.array([s.episodes, s.rated, s.replayed, s.effective, *s.probabilities, *s.scores], float) for s in (self, other))
        same_levels = self.numbers == other.numbers and not abs(self.mean_parameter - other.mean_parameter) > TOLERANCE
        return same_levels and ours.shape == theirs.shape and bool(np.allclose(ours, theirs, rtol=0.0, atol=TOLERANCE, equal_nan=True))


class LevelRecord(NamedTuple):
    """A decision about levels, with its evidence."""

    episodes: tuple[LevelEpisode, ...]  # that have ended since the decision before
    tasks: tuple[LevelSummary, ...]  # of each task


class LevelCurriculum:
    """A level sampler for each task."""

    def __init__(self, config: ExperimentConfig, suite: TaskSuite):
        levels, seed = config.curriculum.levels, config.seed
        latent = [levels.latent_size, levels.autoencoder_updates] if levels.sampler == "clutr" else None
        self._names, self._kind = suite.names, {"training_levels": levels.training_levels, "latent_space": latent, "score": levels.score}
        made = _sampler_of(levels.sampler)
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
        return {**self._kind, "tasks": tasks}

    def load_state_dict(self, state: dict[str, Any]) -> bool:
        """Goes on from a `state_dict`. New tasks begin anew.

        Returns:
            whether the state is of the same levels; else all tasks begin anew.
        """
        if any(state.get(name, value) != value for name, value in self._kind.items()):  # older states have no rule of scores
            return False
        for name, sampler in zip(self._names, self.samplers, strict=True):
            if name in state["tasks"]:
                sampler.load_state_dict(state["tasks"][name])
        return True


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


def _sampler_of(name: str | None) -> type[LevelSampler | ClutrSampler]:
    if name != "clutr":
        return LevelSampler
    from mtrl.curriculum.levels.clutr import ClutrSampler  # imports PyTorch

    return ClutrSampler


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
        mean_parameter=float(plan.probabilities @ plan.parameters.mean(1)) if plan.parameters.size else 0.0,
        numbers=tuple(plan.numbers[top].tolist()),
        probabilities=tuple(plan.probabilities[top].tolist()),
        scores=tuple(scores[top].tolist()),
    )
