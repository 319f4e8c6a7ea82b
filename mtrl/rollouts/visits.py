"""The observations that an episode has shown before, for bonuses that reward only the first visit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from envs.mixed import KIND
from envs.observations import MASK
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
        for seen, key in zip(self._slots, _keys(obs, len(task_ids)), strict=True):
            if key is not None:
                seen.add(key)

    def step(self, obs: Arrays, valid: np.ndarray) -> np.ndarray:
        """Takes in the observations after a step.

        Args:
            obs: of each slot, [B, ...].
            valid: whether the step was one of an episode, [B]; else the observation begins one.

        Returns:
            whether each is the first of its kind in its episode, [B]; False where the episode only begins with it.
        """
        first = valid.copy()
        for slot, (seen, key) in enumerate(zip(self._slots, _keys(obs, len(valid)), strict=True)):
            if not valid[slot]:
                seen.clear()
            elif key in seen:
                first[slot] = False
            if key is not None:
                seen.add(key)
        return first


def _keys(obs: Arrays, count: int) -> Sequence[bytes | None]:
    """A number for the observation of each of so many slots, without its action mask; None where it has real numbers.

    A hash of 16 bytes: the frames of an episode of Atari would take gigabytes.
    """
    keys: list[bytes | None] = [None] * count
    kinds = obs[KIND].tolist() if KIND in obs else [None] * count
    for kind in set(kinds):
        slots = [slot for slot, own in enumerate(kinds) if own == kind]
        own = {name: array[slots] for name, array in obs.items() if _is_of(kind, name)}
        if can_share(own):
            for slot, key in zip(slots, row_keys(own), strict=True):
                keys[slot] = hashlib.blake2b(key, digest_size=16).digest()
    return keys


def _is_of(kind: int | None, name: str) -> bool:
    """Whether an array is seen by policies of tasks with this kind of observations; None: all tasks have the same."""
    number, _, own_name = name.rpartition(".") if kind is not None else ("", "", name)
    return own_name != MASK and (kind is None or number == str(kind))
