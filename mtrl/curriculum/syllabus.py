"""Curricula of the package syllabus-rl as schedulers: `curriculum.scheduler: mtrl.curriculum.syllabus:Syllabus`.

A curriculum of Syllabus is told of every episode and has a distribution over tasks. Schedulers read counts of episodes, so the episodes
since a task's last observation are passed on one after another, with the successes spread evenly among them. Curricula that evaluate the
policy by themselves are given each task's success rate at its last observation instead.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from mtrl.config import ConfigError, Section, look_up
from mtrl.curriculum.evidence import Evidence
from mtrl.curriculum.scheduler import RatedOptions, RatedScheduler

ITS_OWN = frozenset({"task_space", "task_names", "stat_recorder", "wandb_table", "evaluator"})
"""Attributes of a curriculum that are no state."""
INTERVALS = ("eval_interval", "update_interval")
"""Names of the argument for the episodes between two updates of the distribution."""


class SyllabusOptions(RatedOptions):
    """Options of `Syllabus`."""

    curriculum: str = "OnlineLearningProgress"
    """A class of `syllabus.curricula`, or `module:Class`."""
    arguments: dict[str, Any] = {}
    """Further arguments of the class. Without one for it, the distribution is updated after as many episodes as all tasks need for an
    observation."""


class Syllabus(RatedScheduler):
    """A curriculum of Syllabus over the tasks.

    Args:
        names: the tasks'.
        options: `SyllabusOptions`.

    Raises:
        ConfigError: the package is not installed, has no such curriculum, or the curriculum cannot be used here.
    """

    Options: ClassVar[type[Section]] = SyllabusOptions
    STATE: ClassVar[tuple[str, ...]] = ("_passed_on", "_successes_passed_on")

    def __init__(self, names: Sequence[str], options: Any):
        super().__init__(names, options)
        self._passed_on, self._successes_passed_on = np.zeros(len(names)), np.zeros(len(names))  # episodes that the curriculum knows
        self._curriculum = self._make()
        self._plain_state()  # refuses here what no checkpoint could hold

    def observe(self, due: np.ndarray, evidence: Evidence) -> None:
        """Passes on the new episodes of the tasks of the mask `due`."""
        steps = evidence.frames / np.maximum(evidence.episodes, 1)
        for task in np.flatnonzero(due).tolist():
            episodes = round(evidence.episodes[task] - self._passed_on[task])
            successes = round(evidence.success_sums[task] - self._successes_passed_on[task])
            for success in _spread(successes, episodes):
                self._curriculum.update_task_progress(task, success)
                self._curriculum.update_on_episode(success, max(1, round(steps[task])), task, success)
        self._passed_on = np.where(due, evidence.episodes, self._passed_on)
        self._successes_passed_on = np.where(due, evidence.success_sums, self._successes_passed_on)

    def weights(self, evidence: Evidence) -> np.ndarray:
        """The curriculum's distribution; equal until every task is observed, since curricula take their first update for the baseline."""
        if not (self.num_observations > 0).all():
            return np.ones(len(self.names))
        shares = np.asarray(self._curriculum._sample_distribution(), float)
        return shares if shares.size else np.ones(len(self.names))

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next decision depends on."""
        return super().state_dict() | {"curriculum": self._plain_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        super().load_state_dict(state)
        for name, value in state["curriculum"].items():
            present = getattr(self._curriculum, name, None)
            setattr(self._curriculum, name, deque(value, present.maxlen) if isinstance(present, deque) else value)

    def tasks_changed(self) -> None:
        """Begins anew with all episodes so far, as the curriculum counts tasks by their places."""
        self._curriculum = self._make()
        self._passed_on, self._successes_passed_on = np.zeros(len(self.names)), np.zeros(len(self.names))

    def _make(self) -> Any:
        try:
            with np.errstate():  # one of its modules lets NumPy raise errors, for the whole process
                from syllabus import curricula
                from syllabus.core import Curriculum
                from syllabus.task_space import DiscreteTaskSpace
        except ImportError:
            raise ConfigError("Syllabus' curricula need a package that is not installed: pip install -e '.[syllabus]'") from None
        known = {name: each for name, each in vars(curricula).items() if inspect.isclass(each) and issubclass(each, Curriculum)}
        named = self.options.curriculum
        kind: Any = look_up(named, known, "curriculum.options.curriculum", "curriculum of Syllabus")
        if kind._sample_distribution is Curriculum._sample_distribution:
            raise ConfigError(f"curriculum.options.curriculum: {named} has no distribution over tasks")
        accepted = {name for each in kind.__mro__ for name in inspect.signature(each.__init__).parameters}
        arguments: dict[str, Any] = {}
        if "evaluator" in accepted:
            arguments["evaluator"] = _LatestRates(self)
        if not any(name.removesuffix("_steps") in INTERVALS for name in self.options.arguments):
            arguments |= {name: self.episodes_wanted * len(self.names) for name in INTERVALS if name in accepted}
        try:
            made = kind(task_space=DiscreteTaskSpace(len(self.names), list(self.names)), **arguments | self.options.arguments)
        except (TypeError, ValueError, AssertionError, AttributeError) as error:
            raise ConfigError(f"curriculum.options: {named} cannot be made: {error}") from None
        if made.requires_step_updates is not False:
            raise ConfigError(f"curriculum.options.curriculum: {named} wants every step of an environment, which schedulers do not see")
        return made

    def _plain_state(self) -> dict[str, Any]:
        """The curriculum's attributes as a checkpoint holds them.

        Raises:
            ConfigError: it has an attribute that a checkpoint cannot hold.
        """
        return {name: _plain(name, value) for name, value in vars(self._curriculum).items() if name not in ITS_OWN}


class _LatestRates:
    """Stands for an evaluation: each task's success rate at its last observation."""

    def __init__(self, scheduler: Syllabus):
        self._scheduler = scheduler

    def evaluate_agent(self, episodes: float, verbose: bool = False) -> tuple[None, Any, Any, None]:
        """Success rates twice, as Syllabus' evaluators give them."""
        rates = self._scheduler.latest.copy().view(_WithNumpy)
        return None, rates, rates, None


class _WithNumpy(np.ndarray):
    """An array that also answers as a tensor does: some of Syllabus' curricula ask for `.numpy()`, others do not."""

    def numpy(self) -> np.ndarray:
        """The plain array."""
        return np.asarray(self)


def _spread(successes: int, episodes: int) -> Iterator[float]:
    """Ones and zeros, with the ones evenly spread."""
    for place in range(1, episodes + 1):
        yield float(place * successes // episodes - (place - 1) * successes // episodes)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, bool | int | float | str | None):
        return value
    if isinstance(value, list | tuple | deque):
        return [_plain(name, each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(name, each) for key, each in value.items()}
    raise ConfigError(f"curriculum.options.curriculum: it keeps a {type(value).__name__} in {name}, which a checkpoint cannot hold")
