"""The level sampler of one task: levels that were rated are replayed by their scores, and new ones are rated meanwhile."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs import Task
from envs.levels import EditSettings
from mtrl.config import LevelsConfig
from mtrl.curriculum.levels.buffer import LevelBuffer
from mtrl.curriculum.levels.plan import LevelPlan
from mtrl.curriculum.levels.priorities import replay_probabilities
from mtrl.curriculum.levels.scores import LevelEpisode, score_of

CANDIDATES = 256  # new levels that a plan offers; a plan lasts for one update, and few episodes begin meanwhile
MOST_UNIFORM = 4096  # levels of a plan of `uniform`; of more training levels, each plan has some that are drawn anew


class LevelSampler:
    """Rates levels by their episodes, and makes the plan of those that come next.

    All that is random depends on the seed, the task and the clock alone, so that a decision can be made again.

    Args:
        config: the sampler and its settings.
        task: the task.
        seed: of the experiment.
        place: the task's place among those of the suite.
    """

    def __init__(self, config: LevelsConfig, task: Task, seed: int, place: int):
        self.clock = 0  # episodes that have ended
        self._config, self._space = config, task.level_parameters
        self._num_parameters = 0 if self._space is None else len(self._space.names)
        self._key = (seed, place)
        self._training_parameters = (
            np.zeros((config.training_levels, 0)) if self._space is None else self._space.of_training_levels(config.training_levels)
        )
        self._rates = config.sampler != "uniform"
        self._trains_on_new = config.sampler == "plr"
        self.buffer = LevelBuffer(config.buffer_size, self._num_parameters)
        self._edits: dict[int, np.ndarray] = {}  # edited levels that have not been rated, by number
        self._num_edits = 0  # so far
        self._plan: LevelPlan | None = None  # None: to be made

    def add(self, episode: LevelEpisode) -> None:
        """Rates the level of an episode."""
        self.clock += 1
        if self._rates or self._config.training_levels > MOST_UNIFORM:
            self._plan = None
        if not self._rates:
            return
        number = episode.level
        best = max(self.buffer.best_return(number), episode.episode_return)
        score = score_of(self._config.score, episode, best)
        if number in self.buffer:
            self.buffer.update(number, score, best, self.clock)
            if self._config.sampler == "accel" and not episode.only_rated:
                self._edit(number)
        elif number < self._config.training_levels:
            self.buffer.offer(number, self._training_parameters[number], score, best, self.clock)
        elif number in self._edits:
            self.buffer.offer(number, self._edits[number], score, best, self.clock)
        self._edits.pop(number, None)

    @property
    def replay(self) -> np.ndarray:
        """The replay distribution over the levels of the buffer, [L]."""
        settings = self._config
        return replay_probabilities(
            self.buffer.scores,
            self.buffer.last_played,
            self.clock,
            temperature=settings.temperature,
            staleness=settings.staleness,
        )

    def plan(self) -> LevelPlan:
        """The distribution that the next episodes' levels are drawn from."""
        if self._plan is None:
            self._plan = self._mixed() if self._rates else self._uniform()
        return self._plan

    def plan_scores(self) -> np.ndarray:
        """The scores of the plan's levels, [L]; NaN for those that are not rated."""
        return self.buffer.scores_of(self.plan().numbers)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next plan depends on."""
        numbers = np.array(list(self._edits), np.int64)
        parameters = np.array(list(self._edits.values()), float).reshape(len(numbers), self._num_parameters)
        edits = {"numbers": numbers, "parameters": parameters, "count": self._num_edits}
        return {"clock": self.clock, "buffer": self.buffer.state_dict(), "edits": edits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self.clock = int(state["clock"])
        self.buffer.load_state_dict(state["buffer"])
        edits = state["edits"]
        self._edits = {int(number): np.array(row) for number, row in zip(edits["numbers"], edits["parameters"], strict=True)}
        self._num_edits = int(edits["count"])
        self._plan = None

    def _uniform(self) -> LevelPlan:
        """All training levels alike."""
        total = self._config.training_levels
        numbers = np.arange(total) if total <= MOST_UNIFORM else self._rng().integers(total, size=MOST_UNIFORM)
        equal = np.full(len(numbers), 1.0 / len(numbers))
        return LevelPlan(numbers, self._training_parameters[numbers], equal, np.zeros(len(numbers), bool))

    def _mixed(self) -> LevelPlan:
        """Replayed levels, new ones and edited ones. The edits get as many episodes as the levels that they come from."""
        known, new, edits = self.buffer.numbers, self._unrated(), np.array(list(self._edits), np.int64)
        replayed = self._config.replay_probability if len(known) else 0.0
        replayed = 1.0 if len(known) and not len(new) else replayed
        parts = np.array([replayed, 1.0 - replayed, replayed if len(edits) else 0.0])
        parts /= parts.sum()
        probabilities = [parts[0] * self.replay if len(known) else np.zeros(0)]
        probabilities += [np.full(len(each), part / max(1, len(each))) for each, part in zip((new, edits), parts[1:], strict=True)]
        only_rated = np.repeat([False, not self._trains_on_new, True], [len(known), len(new), len(edits)])
        return self._plan_of(np.concatenate([known, new, edits]), np.concatenate(probabilities), only_rated)

    def _plan_of(self, numbers: np.ndarray, probabilities: np.ndarray, only_rated: np.ndarray) -> LevelPlan:
        """A plan of levels in this order: those of the buffer, other training levels, edits that wait."""
        known, edits = len(self.buffer), len(self._edits)
        others = self._training_parameters[numbers[known : len(numbers) - edits]]
        waiting = np.array(list(self._edits.values())).reshape(edits, self._num_parameters)
        return LevelPlan(numbers, np.concatenate([self.buffer.parameters, others, waiting]), probabilities, only_rated)

    def _unrated(self) -> np.ndarray:
        """Some training levels that are not in the buffer, in random order."""
        total, known, rng = self._config.training_levels, self.buffer.numbers, self._rng()
        if total <= 16 * CANDIDATES or total < 2 * len(known):
            drawn = rng.permutation(np.setdiff1d(np.arange(total), known, assume_unique=True))
        else:
            drawn = rng.integers(total, size=4 * CANDIDATES)
            drawn = rng.permutation(np.setdiff1d(drawn, known))
        return drawn[:CANDIDATES].astype(np.int64)

    def _edit(self, number: int) -> None:
        """Makes an edit of a level of the buffer; of too many edits that wait, the oldest is dropped."""
        assert self._space is not None
        own = self._config.training_levels + self._num_edits
        self._num_edits += 1
        parent = self.buffer.parameters_of(number)
        settings = EditSettings(self._config.edit_size, self._config.edit_noise, self._config.edit_cells)
        self._edits[own] = self._space.edited(parent, settings, self._rng())
        if len(self._edits) > CANDIDATES:
            del self._edits[next(iter(self._edits))]

    def _rng(self) -> np.random.Generator:
        """Random numbers of this task at this time."""
        return np.random.default_rng((*self._key, self.clock))
