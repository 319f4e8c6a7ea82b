"""A line of the table of all runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple


class Summary(NamedTuple):
    """A run in the table of all runs."""

    id: str
    experiment: str
    suite: str
    seed: int | None
    frames: float | None
    total_frames: float | None
    frames_per_second: float | None
    score: float | None
    evaluated: dict[str, float | None] | None  # value, low, high of the newest evaluation's mean score
    state: str
    """`training`, `evaluating` the last policy, `finished`, `interrupted`, `failed`, `stopped` where it wrote nothing for a while without
    an end, or `unknown`."""
    reason: str
    """Why it ended."""
    tags: Sequence[str]
    changed: float
    """When metrics were written last, in seconds since 1970; 0 if never."""
    problem: str | None

    @property
    def progress(self) -> float | None:
        """The part of its frames that a run has trained on."""
        return None if self.frames is None or not self.total_frames else min(self.frames / self.total_frames, 1.0)

    @property
    def seconds_left(self) -> float | None:
        """The time to go at the newest speed; None where the run does not train."""
        if self.state != "training" or self.frames is None or not self.total_frames or not self.frames_per_second:
            return None
        return max(0.0, (self.total_frames - self.frames) / self.frames_per_second)


class Row(NamedTuple):
    """A line of the table of all runs."""

    summary: Summary
    values: list[Any]
    """Of the columns that were asked for; None where the run has none."""
