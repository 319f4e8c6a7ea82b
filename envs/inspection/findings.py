"""What was seen of a task's environment."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from envs.errors import MisfitError


class Defect(NamedTuple):
    """Something that is wrong with an environment."""

    fatal: bool  # whether no training is possible with it
    text: str  # what, with the step and the value at which it was seen


class PlayedEpisode(NamedTuple):
    """A finished episode of the random policy."""

    episode_return: float
    length: int
    terminated: bool
    success: bool


class Rewards(NamedTuple):
    """The rewards of all steps."""

    least: float
    most: float
    root_mean_square: float
    share_nonzero: float


@dataclass
class Inspection:
    """What was seen of one task."""

    task: str
    observation_space: str = "?"
    """Of the environment itself, before anything of ours."""
    action_space: str = "?"
    defects: list[Defect] = field(default_factory=list)
    repeats: bool | None = None
    """Whether the same seed gives the same episode; None where that was not found out."""
    episodes: list[PlayedEpisode] = field(default_factory=list)
    unfinished_steps: int = 0
    """Of the episode that the time has cut off."""
    time_limit: int | None = None
    """`max_episode_steps`, if the environment says so."""
    rewards: Rewards | None = None
    sizes: dict[str, np.ndarray] = field(default_factory=dict)
    """Root mean square of each number of an observation that is a vector of floats, by name."""
    steps: int = 0
    steps_per_second: float = math.nan
    bytes_per_environment: float = math.nan

    @property
    def fatal(self) -> bool:
        """Whether no training is possible."""
        return any(defect.fatal for defect in self.defects)

    @property
    def mean_length(self) -> float:
        """Of finished episodes; NaN without any."""
        return float(np.mean([episode.length for episode in self.episodes])) if self.episodes else math.nan


def raised(what: str, error: BaseException) -> Defect:
    """The defect of an environment that has raised an error."""
    reason = " ".join(str(error).split())[:300]
    if isinstance(error, MisfitError):
        return Defect(True, f"{what}: {reason}")
    return Defect(True, f"{what}: {type(error).__name__}{': ' if reason else ''}{reason}")
