"""The weight server: one small actor with the newest weights and shares, which runners pull at the start of an unroll."""

from __future__ import annotations

import secrets
from collections import Counter
from typing import NamedTuple

import numpy as np
import ray

STARTS_OF_A_RUN = 1000  # of one runner in one process of a run, at most
STARTS = 200 * STARTS_OF_A_RUN  # in all processes of a run; a server that was started again takes another block of as many
BLOCKS = 80  # of them; the numbers of levels have room for no more


class Published(NamedTuple):
    """One version of the policy, and how slots are shared out."""

    serial: int  # grows with each publication; shares may change while the version does not
    version: int
    weights: list[ray.ObjectRef]  # one reference, in a list so that Ray passes the reference and not the arrays
    shares: np.ndarray
    starts: int  # processes that have run this experiment before
    levels: list[ray.ObjectRef]  # one reference to the plans for levels; none where environments choose them


class WeightServer:
    """An actor that keeps the newest version only; a reference that is replaced frees its arrays.

    One that died and was started again knows nothing until the next publication; runners go on with what they have.
    """

    def __init__(self) -> None:
        again = ray.get_runtime_context().was_current_actor_reconstructed
        self._offset = STARTS * (1 + secrets.randbelow(BLOCKS)) if again else 0  # what it has counted before is lost
        self._starts: Counter[int] = Counter()
        self._published: Published | None = None

    def publish(self, published: Published) -> None:
        """Replaces the version that runners pull."""
        self._published = published

    def newer_than(self, serial: int) -> Published | None:
        """The newest publication, or None if the caller has it."""
        if self._published is None or self._published.serial == serial:
            return None
        return self._published

    def register(self, runner: int) -> int | None:
        """The number of earlier starts of this runner, over all processes and resumed runs: no two use the same stream of random
        numbers. None as long as nothing was published.
        """
        if self._published is None:
            return None
        self._starts[runner] += 1
        return self._offset + self._published.starts * STARTS_OF_A_RUN + self._starts[runner] - 1
