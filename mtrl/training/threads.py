"""The number of threads of the learner's tensor operations, which follows the cores that are free."""

from __future__ import annotations

import math
import time

import torch

from mtrl.config import ExperimentConfig
from mtrl.machine import idle_seconds, waited_seconds, whole_cores
from mtrl.rollouts.source import RolloutSource

THREADS = min(torch.get_num_threads(), whole_cores())  # what torch chose for this process, within the quota of its control group
LOOK_SECONDS = 2.0  # between two looks at the machine
WAITED = 0.1  # cores that this process waited for, above which a thread is given back
IDLE = 0.7  # cores without work, above which a thread is added


class LearnerThreads:
    """As many threads as cores are free, looked at every `LOOK_SECONDS`.

    Threads meet after every small operation. One of them without a core holds up all: with two threads on two cores, one of which somebody
    else keeps busy, an update takes many times as long as with one thread. So threads are taken only while cores have nothing to do, and
    given back when this process had to wait for one.

    Args:
        most: the largest number.
        fixed: keep to `most`, so that sums are always rounded alike and a run repeats itself.
    """

    def __init__(self, most: int, *, fixed: bool):
        self.count = most if fixed else 1
        self._most, self._fixed = most, fixed
        self._looked: tuple[float, float, float] | None = None  # time, waited, idle

    def adjust(self) -> None:
        """Sets the number for the thread that calls; to be called by the learner's thread before each update."""
        if not self._fixed and self._most > 1:
            self._look()
        if torch.get_num_threads() != self.count:
            torch.set_num_threads(self.count)

    def _look(self) -> None:
        now = time.monotonic()
        if self._looked is None:
            self._looked = (now, waited_seconds(), idle_seconds())
        elif now - self._looked[0] >= LOOK_SECONDS:
            before, self._looked = self._looked, (now, waited_seconds(), idle_seconds())
            seconds, waited, idle = (new - old for new, old in zip(self._looked, before, strict=True))
            self.count = self.after(waited / seconds, idle / seconds)

    def after(self, waited: float, idle: float) -> int:
        """The number after a time in which this process waited for so many cores, and so many had nothing to do."""
        if waited > WAITED:
            return max(1, self.count - 1)
        return min(self._most, self.count + (idle > IDLE))


def learner_threads(config: ExperimentConfig, source: RolloutSource) -> LearnerThreads:
    """The threads that the experiment asks for. By default one in a run in one process, which repeats itself whatever else the machine
    does, and with runners as many as cores are free.
    """
    if config.learner.threads is not None:
        return LearnerThreads(config.learner.threads, fixed=True)
    if not source.asynchronous:
        return LearnerThreads(1, fixed=True)
    # Where batches wait for the learner, runners keep their cores busy while it works.
    busy = 0 if config.learner.max_queued_batches == 0 else math.ceil(source.local_cores)
    return LearnerThreads(max(1, THREADS - busy), fixed=False)
