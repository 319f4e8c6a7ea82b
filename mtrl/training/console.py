"""The contract of consoles: where a run reports its progress."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from envs import TaskSuite
from mtrl.config import ExperimentConfig


class Console(Protocol):
    """Shows the progress of a run to a person."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """The run begins."""

    def update(self, metrics: dict[str, float]) -> None:
        """New figures."""

    def message(self, text: str) -> None:
        """One sentence."""

    def close(self) -> None:
        """The run has ended."""
