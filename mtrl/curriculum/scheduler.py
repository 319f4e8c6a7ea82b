"""The interface of schedulers, and the part that most of them share: one observation of a task for every ten new episodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from pydantic import Field

from mtrl.config import Section
from mtrl.curriculum.evidence import Evidence


class Scheduler(Protocol):
    """Turns the evidence on each task into its share of the next trained frames.

    A class with `needs_similarity = True` reads `Evidence.similarity`. The learner computes it, in every update, only for such a class.
    """

    def probabilities(self, evidence: Evidence) -> np.ndarray:
        """Wanted shares [num_tasks] float64 that sum to 1."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""

    def tasks_changed(self) -> None:
        """A state of other tasks was loaded and moved by name: whatever depends on the number or order of tasks starts anew."""


class RatedOptions(Section):
    """Options of every scheduler that rates tasks by their episodes."""

    episodes: int = Field(10, ge=1)
    """Episodes of an observation."""


class RatedScheduler:
    """A scheduler that rates tasks by how their episodes go. A subclass defines `observe` and `weights`.

    A task is observed when it has `options.episodes` new episodes (10 where the options do not say), so that every observation is a mean
    over as many of them. Unobserved tasks keep their uniform share.
    """

    needs_similarity: ClassVar[bool] = False  # whether `Evidence.similarity` is read, which the learner computes only then
    Options: ClassVar[type[Section]] = RatedOptions
    STATE: ClassVar[tuple[str, ...]] = ()  # arrays of the subclass that the next decision depends on

    def __init__(self, names: Sequence[str], options: Any):
        self.names = tuple(names)
        self.options = options
        self.episodes_wanted = int(getattr(options, "episodes", 10))  # of an observation
        n = len(names)
        self.num_observations = np.zeros(n, np.int64)
        self.latest = np.zeros(n)  # success rate at the last observation
        self.previous = np.zeros(n)  # success rate at the observation before the last
        self._episodes = np.zeros(n, np.int64)  # counted at the last observation
        self._successes = np.zeros(n)

    def probabilities(self, evidence: Evidence) -> np.ndarray:
        """Wanted shares of all tasks, [num_tasks]."""
        self._follow_restarts(evidence)
        new = evidence.episodes - self._episodes
        rates = (evidence.success_sums - self._successes) / np.maximum(new, 1)
        due = self.is_due(new, rates)
        if due.any():
            self.previous = np.where(due, np.where(self.num_observations > 0, self.latest, rates), self.previous)
            self.latest = np.where(due, rates, self.latest)
            self.num_observations += due
            self._episodes = np.where(due, evidence.episodes, self._episodes)
            self._successes = np.where(due, evidence.success_sums, self._successes)
            self.observe(due, evidence)
        return self._shares(evidence)

    def _follow_restarts(self, evidence: Evidence) -> None:
        """Counts on from the evidence where its own counts have begun anew, as evaluations' do after those of the training."""
        restarted = evidence.episodes < self._episodes
        if restarted.any():
            self._episodes = np.where(restarted, evidence.episodes, self._episodes)
            self._successes = np.where(restarted, evidence.success_sums, self._successes)
            self.counts_restarted(restarted)

    def counts_restarted(self, tasks: np.ndarray) -> None:
        """Forgets what belongs to former counts of episodes of the tasks of a mask."""

    def is_due(self, new: np.ndarray, rates: np.ndarray) -> np.ndarray:
        """A mask of the tasks that are observed now.

        Args:
            new: each task's episodes since its last observation.
            rates: their success rates.
        """
        return new >= self.episodes_wanted

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Takes in the new evidence on the tasks of the mask `due`."""

    def weights(self, evidence: Evidence) -> np.ndarray:
        """Weights of the tasks [num_tasks], none negative; all zero means equal shares."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""
        return {name: np.array(getattr(self, name)) for name in (*_STATE, *self.STATE)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        state = with_present_names(state)
        for name in (*_STATE, *self.STATE):
            setattr(self, name, np.array(state[name]))

    def tasks_changed(self) -> None:
        """Nothing to do: rates belong to tasks and move with them."""

    def _shares(self, evidence: Evidence) -> np.ndarray:
        n = len(self.names)
        observed = self.num_observations > 0
        weights = np.where(observed, self.weights(evidence), 0.0) if observed.any() else np.zeros(n)
        total = weights.sum()
        judged = weights / total if total > 0 else observed / max(1, observed.sum())
        return np.where(observed, judged * observed.mean(), 1.0 / n)


class ProgressScheduler(RatedScheduler):
    """A scheduler that rates tasks by how their success rate changes, and does not take noise for a change.

    Ten episodes of a task that stands still at one half differ from the ten before them by 0.22 in the root mean square, and those of one
    that is learned within 3000 episodes by 0.003. So a change is the slope of the straight line through the rates of the last `WINDOW`
    observations, less `ERRORS` of its standard errors. A subclass reads `gains`.
    """

    WINDOW = 80
    LEAST = 200  # episodes before there is a slope
    ERRORS = 2.0

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self.gains = np.zeros(len(names))  # change of the success rate in 100 episodes; 0 if it may be noise
        self._history = np.full((len(names), self.WINDOW, 2), np.nan)  # episodes until the end of an observation, and their success rate

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Adds a point to the learning curves of the tasks of the mask `due`, and fits their lines."""
        self._history[due] = np.roll(self._history[due], -1, axis=1)
        self._history[due, -1] = np.stack([evidence.episodes, self.latest], axis=1)[due]
        long_enough = due & self._reaches_back()
        if long_enough.any():
            self.gains[long_enough] = 100 * certain_slopes(self._history[long_enough], self.ERRORS)

    def counts_restarted(self, tasks: np.ndarray) -> None:
        """Begins new learning curves, which have the episodes as one axis."""
        self._history[tasks] = np.nan

    def _reaches_back(self) -> np.ndarray:
        """The tasks with a curve of `LEAST` episodes, or with a full one where observations are of few episodes."""
        ends = self._history[:, :, 0]
        known = ~np.isnan(ends)
        first = ends[np.arange(len(ends)), known.argmax(axis=1)]
        episodes = np.nan_to_num(ends[:, -1] - first) + self.episodes_wanted
        return (known.sum(axis=1) >= 3) & ((episodes >= self.LEAST) | known.all(axis=1))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""
        return super().state_dict() | {"gains": self.gains.copy(), "history": self._history.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`; a state of an earlier version has no learning curves."""
        super().load_state_dict(state)
        self.gains = np.array(state.get("gains", self.gains))
        self._history = np.array(state.get("history", self._history))


def certain_slopes(curves: np.ndarray, errors: float) -> np.ndarray:
    """The slopes of the lines through points (episodes, rate) of tasks, moved towards 0 by so many of their standard errors.

    Args:
        curves: of each task [tasks, points, 2], the newest point last, NaN before the first one; at least three points of each task.
        errors: the number of standard errors.
    """
    ends, rates = curves[:, 1:, 0], curves[:, 1:, 1]
    counts = np.nan_to_num(np.diff(curves[:, :, 0], axis=1))  # episodes of all observations but the first, which are 0 before it
    rates, ends = np.where(counts > 0, rates, 0.0), np.where(counts > 0, ends, 0.0)
    total = counts.sum(axis=1)
    centred = ends - ((counts * ends).sum(axis=1) / total)[:, None]
    spread = (counts * centred**2).sum(axis=1)
    slopes = (counts * centred * rates).sum(axis=1) / spread
    # With two more episodes, one of them successful: nothing is known for certain.
    mean = ((counts * rates).sum(axis=1) + 1) / (total + 2)
    certain: np.ndarray = np.sign(slopes) * np.maximum(0.0, np.abs(slopes) - errors * np.sqrt(mean * (1 - mean) / spread))
    return certain


_STATE = ("num_observations", "latest", "previous", "_episodes", "_successes")


def with_present_names(state: dict[str, Any]) -> dict[str, Any]:
    """A scheduler's state with the present names of its entries; checkpoints of the first version have others."""
    return {_PRESENT_NAMES.get(name, name): value for name, value in state.items()}


_PRESENT_NAMES = {"looks": "num_observations", "looks_at_start": "observations_at_start", "weights": "log_weights", "seen": "last_observed"}


def softmax(x: np.ndarray) -> np.ndarray:
    """The exponentials `exp(x)`, scaled to sum to 1."""
    exponentials = np.exp(x - x.max())
    return exponentials / exponentials.sum()


def with_floor(probabilities: np.ndarray, floor: float) -> np.ndarray:
    """Mixes in the uniform share, so that every task keeps at least `floor / num_tasks` and the sum stays 1."""
    return (1.0 - floor) * probabilities + floor / len(probabilities)
