"""The weight server: one small actor with the newest weights and shares, which runners pull at the start of an unroll."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import ray


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
        self._again = ray.get_runtime_context().was_current_actor_reconstructed
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
        return self._published.starts * 1000 + self._again * 500 + self._starts[runner] - 1
