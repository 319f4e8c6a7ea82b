"""The file of a search: what its trials cost, and how good they became."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mtrl.errors import UserError

FILE = "search.json"  # in the folder of a search


@dataclass
class TrialRecord:
    """What became of a trial."""

    name: str  # of its run's folder
    values: dict[str, Any]  # of the searched fields
    state: str = "running"  # or finished, stopped, failed
    curve: list[tuple[float, float, float]] = field(default_factory=list)
    """Frames, seconds and objective of each report."""

    @property
    def best(self) -> float | None:
        """The best objective of all reports: the mean score over tasks, or the mean return where nobody knows scores."""
        return max((point[2] for point in self.curve), default=None)


def read_search(folder: Path) -> list[TrialRecord]:
    """The trials of the search in a folder, the best one first; those without a score last.

    Raises:
        UserError: there is no search.
    """
    try:
        trials = json.loads((folder / FILE).read_text(encoding="utf-8"))["trials"]
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"cannot read the search in {folder}: {error}") from None
    records = [TrialRecord(**{**trial, "curve": [tuple(point) for point in trial["curve"]]}) for trial in trials]
    return sorted(records, key=lambda trial: -math.inf if trial.best is None else trial.best, reverse=True)
