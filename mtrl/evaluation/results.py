"""The results of an evaluation as types, and the one writer and reader of `results.json`."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mtrl.errors import UserError
from mtrl.evaluation.intervals import Estimate, without_interval
from mtrl.storage.sealed import replace_text


class ResultsError(UserError):
    """A file is not the results of an evaluation. The message names the file."""


class TaskResult(NamedTuple):
    """The episodes of one task."""

    n: int  # episodes played
    successes: int
    success_rate: Estimate
    score: Estimate
    return_mean: float
    length_mean: float
    endless: int = 0
    """Episodes that had not ended when they were cut off; they count as far as they came."""
    unseen: bool = False
    """Whether the policy was not trained on the task."""


@dataclass(frozen=True)
class EvaluationResults:
    """One evaluation of one policy."""

    protocol: str
    """The published rule, such as `minigrid-v1`."""
    changed: dict[str, Any]
    """Options that differ from the protocol; results with an entry here are not comparable with results of the protocol."""
    step: int
    """The policy's frames."""
    backend: str
    sampled_actions: bool
    tasks: dict[str, TaskResult]
    score_mean: Estimate
    """Mean of the scores of the tasks that the policy was trained on; NaN where none of them was played."""
    suite: str = ""
    rules: dict[str, str] = field(default_factory=dict)
    """Rules of the suite that every figure must name, such as the version of the rewards."""
    seed: int = 0
    policy: dict[str, Any] = field(default_factory=dict)
    """Commit, config and hash of the weights."""
    versions: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    file: str = ""
    """The results file, relative to the run's directory."""
    unseen_score_mean: Estimate | None = None
    """Mean of the scores of the tasks that the policy was not trained on; None where none was played."""
    played_suite: str = ""
    """The suite that these tasks are from."""
    episodes: tuple[dict[str, Any], ...] = ()
    """Every episode with its score, in the order of tasks and numbers."""

    @classmethod
    def from_json(cls, values: Any) -> EvaluationResults:
        """Results from the content of a `results.json`, with or without its episodes.

        Raises:
            ResultsError: a field is missing or of another kind.
        """
        try:
            if not isinstance(values["protocol"], str):
                raise TypeError("protocol")
            for name in ("changed", "rules", "policy", "versions"):
                if not isinstance(values.get(name, {}), dict):
                    raise TypeError(name)
            tasks = {str(name): _task(row) for name, row in values["tasks"].items()}
            known = {field.name for field in dataclasses.fields(cls)}
            rest = {name: value for name, value in values.items() if name in known - _PARSED}
            return cls(
                **rest,
                step=int(values["step"]),
                tasks=tasks,
                score_mean=_estimate(values["score_mean"]),
                unseen_score_mean=_estimate(values["unseen_score_mean"]) if "unseen_score_mean" in values else None,
                episodes=tuple(values.get("episodes") or ()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ResultsError(f"not the results of an evaluation: {error!r}") from None

    def to_json(self) -> dict[str, Any]:
        """The content of `results.json`. The episodes come last, so that a reader of the figures can stop before them."""
        tasks = {
            name: _figures(row) | {"success_rate": row.success_rate.to_json(), "score": row.score.to_json()}
            for name, row in self.tasks.items()
        }
        mean = self.unseen_score_mean
        values = {name: getattr(self, name) for name in _ORDER if name not in _OF_UNSEEN or mean is not None}
        values |= {"tasks": tasks, "score_mean": self.score_mean.to_json(), "episodes": list(self.episodes)}
        return values | ({"unseen_score_mean": mean.to_json()} if mean is not None else {})


_ORDER = (
    *("protocol", "changed", "suite", "rules", "step", "seed", "backend", "sampled_actions", "policy", "versions", "seconds"),
    *("tasks", "score_mean", "unseen_score_mean", "played_suite", "file", "episodes"),
)
"""The order of the fields in the file."""
_OF_UNSEEN = {"unseen_score_mean", "played_suite"}
"""Fields of results that have tasks which the policy was not trained on."""
_PARSED = {"tasks", "score_mean", "unseen_score_mean", "episodes", "step"}
"""Fields that are not taken over from the file as they are."""


def read_results(path: Path) -> EvaluationResults:
    """The results in a file.

    Raises:
        ResultsError: there is no such file, or it is not an evaluation's.
    """
    try:
        return EvaluationResults.from_json(json.loads(path.read_text()))
    except (OSError, ValueError, RecursionError) as error:  # ResultsError is a ValueError
        raise ResultsError(f"{path}: {error}") from None


def write_results(path: Path, results: EvaluationResults) -> None:
    """Replaces a file by these results.

    Raises:
        OSError: the disk is full or read-only.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, json.dumps(results.to_json(), indent=1))


def _estimate(values: Mapping[str, Any]) -> Estimate:
    value, low, high = (math.nan if values[name] is None else float(values[name]) for name in Estimate._fields)
    # Former versions wrote intervals without a width, from a bootstrap of equal scores.
    return Estimate(value, low, high) if low < high else without_interval(value)


def _figures(row: TaskResult) -> dict[str, Any]:
    return {name: value for name, value in row._asdict().items() if name != "unseen" or value}


def _task(row: Mapping[str, Any]) -> TaskResult:
    return TaskResult(
        n=int(row["n"]),
        successes=int(row["successes"]),
        success_rate=_estimate(row["success_rate"]),
        score=_estimate(row["score"]),
        return_mean=float(row.get("return_mean", float("nan"))),
        length_mean=float(row.get("length_mean", float("nan"))),
        endless=int(row.get("endless", 0)),
        unseen=bool(row.get("unseen", False)),
    )
