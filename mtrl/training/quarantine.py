"""Faults while rollouts are collected: failing tasks are left out for some time, and runners without new weights are reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mtrl.config import FaultsConfig
from mtrl.rollouts.source import SourceFault

LONGEST_RETRY = 8  # times the first one
STALLED_UPDATES = 100  # that a runner may lie behind while its version stands still


class TasksFailedError(RuntimeError):
    """Every task of the run fails. The message has the first traceback."""


class Quarantine:
    """Counts each task's faults since its last finished episode. One with too many is left out, and tried again later.

    A fault now and then between episodes costs what was lost and no more: only a task that keeps failing is a reason to act.
    """

    def __init__(self, names: Sequence[str], config: FaultsConfig):
        self._names = tuple(names)
        self._config = config
        n = len(names)
        self.faults = np.zeros(n, np.int64)  # in all
        self._in_a_row = np.zeros(n, np.int64)
        self._until = np.zeros(n)  # when a task that is out is tried again; 0 for one that is in
        self._times_out = np.zeros(n, np.int64)  # since the last finished episode
        self._shown = np.zeros(n, bool)
        self._first: SourceFault | None = None
        self._none_left_at: int | None = None  # trained frames when no task was left for the first time since the last training
        self._none_left = False

    @property
    def out(self) -> np.ndarray:
        """Tasks that are left out now, [num_tasks] bool."""
        return self._until > 0

    def report(self, fault: SourceFault, now: float) -> list[str]:
        """Counts a fault at the time `now` in seconds; returns messages for the user."""
        if fault.task is None:
            return [f"runner {fault.runner}: {fault.reason}"]
        self._first = self._first or fault
        task, name = fault.task, self._names[fault.task]
        self.faults[task] += 1
        self._in_a_row[task] += 1
        messages = []
        if not self._shown[task]:
            self._shown[task] = True
            traceback = f"; its first traceback:\n{fault.traceback.rstrip()}" if fault.traceback else ""
            messages.append(f"{name} failed in runner {fault.runner}: {fault.reason}{traceback}")
        if self._in_a_row[task] >= self._config.budget and not self._until[task]:
            wait = self._config.retry_seconds * min(2 ** int(self._times_out[task]), LONGEST_RETRY)
            self._until[task] = now + wait
            self._times_out[task] += 1
            messages.append(
                f"{name} is left out for {wait:.0f} s: it failed {self._in_a_row[task]} times without finishing an episode "
                f"({fault.reason})" + ("" if self.out.all() else "; the other tasks go on")
            )
        return messages

    def check(self, frames: int) -> None:
        """Ends a run in which no task is left.

        A run that has not trained a frame ends at once. One that has gets another try, since a file server or a licence may come back.

        Args:
            frames: trained so far.

        Raises:
            TasksFailedError: all tasks have failed again, and not a frame was trained meanwhile.
        """
        none_left = bool(self.out.all())
        if none_left and not self._none_left:
            if frames in (0, self._none_left_at):
                assert self._first is not None
                raise TasksFailedError(f"every task fails; the first traceback:\n{self._first.traceback.rstrip() or self._first.reason}")
            self._none_left_at = frames
        self._none_left = none_left

    def finished(self, tasks: np.ndarray) -> None:
        """Resets the counters of these task ids: they have finished episodes."""
        self._in_a_row[tasks] = 0
        self._times_out[tasks] = 0

    def retry(self, now: float) -> list[str]:
        """Releases tasks from an expired quarantine. The next fault without a finished episode puts a task back, for longer."""
        due = self.out & (self._until <= now)
        self._until[due] = 0.0
        self._in_a_row[due] = self._config.budget - 1
        return [f"{self._names[task]} is tried again" for task in np.flatnonzero(due)]

    def applied(self, shares: np.ndarray) -> np.ndarray:
        """Shares without the tasks in quarantine, summing to 1; unchanged if no task would be left."""
        left = np.where(self.out, 0.0, shares)
        if left.sum() > 0:
            return left / left.sum()
        rest = ~self.out
        return rest / rest.sum() if rest.any() else shares


class VersionWatch:
    """Detects runners that no longer get new weights."""

    def __init__(self) -> None:
        self._last: dict[int, int] = {}  # the version of each runner's newest rollout
        self._stalled: set[int] = set()

    def check(self, runner: int, version: int, newest: int) -> list[str]:
        """Checks the version of a runner's rollout; one message if it stays the same while the learner's version grows."""
        stalls = self._last.get(runner) == version and newest - version > STALLED_UPDATES
        self._last[runner] = version
        if not stalls:
            self._stalled.discard(runner)
            return []
        if runner in self._stalled:
            return []
        self._stalled.add(runner)
        return [f"runner {runner} still acts with version {version}, {newest - version} updates ago: it gets no new weights"]
