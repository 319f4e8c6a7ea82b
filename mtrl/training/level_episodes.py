"""Sums up each episode on a level, over all the unrolls that it takes."""

from __future__ import annotations

import numpy as np

from mtrl.curriculum.levels import LevelEpisode
from mtrl.learning.level_signals import LevelSignals
from mtrl.rollouts.rollout import RolloutOutline

FIGURES = 6  # that are summed up of an episode: see `_figures`


class LevelEpisodes:
    """Episodes that have begun, by their environments. One that another process began, before a resumption, has no sums here."""

    def __init__(self) -> None:
        self._begun: dict[tuple[int, int], np.ndarray] = {}  # by task and environment: the sums of an episode so far
        self._followed: set[tuple[int, int]] | None = None  # environments with episodes known from their beginning; None: all

    def add(self, rollout: RolloutOutline, signals: LevelSignals) -> list[LevelEpisode]:
        """Takes in a batch; gives the episodes that ended in it, in the order of slots."""
        levels = rollout.levels
        assert levels is not None
        figures = _figures(rollout, signals)
        ended = (rollout.terminated | rollout.truncated) & rollout.valid
        steps = rollout.unroll_length
        finished = []
        for slot, (task, environment) in enumerate(zip(rollout.task_ids.tolist(), levels.environments.tolist(), strict=True)):
            sums = self._begun.pop((task, environment), None)
            start = 0
            if self._followed is not None and (task, environment) not in self._followed:
                resets = np.flatnonzero(~rollout.valid[:, slot])
                if not len(resets):
                    continue  # in the middle of an episode that began before
                self._followed.add((task, environment))
                start = int(resets[0])
            for stop in [*(np.flatnonzero(ended[start:, slot]) + start).tolist(), steps - 1]:
                part = slice(start, stop + 1)
                start = stop + 1
                own = rollout.valid[part, slot]
                resets = np.flatnonzero(~own)
                if len(resets):  # another episode has begun after the last of them
                    sums, part = None, slice(part.start + int(resets[-1]) + 1, part.stop)
                if part.start < part.stop:
                    sums = figures[:, part, slot].sum(1) + (0.0 if sums is None else sums)
                if sums is not None and ended[stop, slot]:
                    finished.append(_episode(task, int(levels.numbers[stop, slot]), bool(levels.only_rated[stop, slot]), sums))
                    sums = None
            if sums is not None:
                self._begun[task, environment] = sums
        return finished

    def forget(self, *, episodes_go_on: bool = False) -> None:
        """Drops all sums: environments have begun new episodes, or `episodes_go_on` and those that run now are never complete here."""
        self._begun.clear()
        self._followed = set() if episodes_go_on else None


def _figures(rollout: RolloutOutline, signals: LevelSignals) -> np.ndarray:
    """What is summed up of each step, [FIGURES, T, B] float64."""
    figures = np.empty((FIGURES, *rollout.valid.shape))
    figures[0] = 1.0
    figures[1] = signals.rewards
    figures[2] = signals.values
    figures[3] = np.maximum(signals.advantages, 0.0)
    figures[4] = np.abs(signals.advantages)
    figures[5] = np.abs(signals.td_errors)
    return figures


def _episode(task: int, level: int, only_rated: bool, sums: np.ndarray) -> LevelEpisode:
    steps, episode_return, *others = sums.tolist()
    return LevelEpisode(task, level, only_rated, round(steps), episode_return, *(each / steps for each in others))
