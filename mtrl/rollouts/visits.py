"""The observations that an episode has shown before, for bonuses that reward only the first visit."""

from __future__ import annotations

import numpy as np

from envs.vector import Arrays
from mtrl.models.rows import can_share, row_keys


class EpisodeVisits:
    """The observations of the present episode of each environment, over all the unrolls that it takes.

    Slot i of a task is always the same environment. Observations of real numbers hardly ever repeat: for those every visit is the first.
    """

    def __init__(self) -> None:
        self._seen: dict[tuple[int, int], set[bytes]] = {}  # by task and slot of the task
        self._slots: list[set[bytes]] = []  # of the present unroll

    def start(self, task_ids: np.ndarray, obs: Arrays) -> None:
        """Begins an unroll.

        Args:
            task_ids: of the slots, [B], ascending.
            obs: the first observation of each, [B, ...].
        """
        places = np.arange(len(task_ids)) - np.searchsorted(task_ids, task_ids)
        names = zip(task_ids.tolist(), places.tolist(), strict=True)
        self._slots = [self._seen.setdefault(name, set()) for name in names]
        if can_share(obs):
            for seen, key in zip(self._slots, row_keys(obs), strict=True):
                seen.add(key)

    def step(self, obs: Arrays, valid: np.ndarray) -> np.ndarray:
        """Takes in the observations after a step.

        Args:
            obs: of each slot, [B, ...].
            valid: whether the step was one of an episode, [B]; else the observation begins one.

        Returns:
            whether each is the first of its kind in its episode, [B]; False where the episode only begins with it.
        """
        if not can_share(obs):
            return valid.copy()
        first = valid.copy()
        for slot, (seen, key) in enumerate(zip(self._slots, row_keys(obs), strict=True)):
            if not valid[slot]:
                seen.clear()
            elif key in seen:
                first[slot] = False
            seen.add(key)
        return first
