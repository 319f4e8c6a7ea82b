"""Values that a program advises for an experiment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mtrl.config.loading import dump_yaml, override
from mtrl.config.schema import ExperimentConfig
from mtrl.errors import UserError


class Advice(NamedTuple):
    """A value for a field of the experiment, and why."""

    field: str
    value: Any
    reason: str

    @property
    def option(self) -> str:
        """The advice as an option of the command line."""
        return f"--{self.field.replace('_', '-')} {'null' if self.value is None else str(self.value).lower()}"


def follow(config: ExperimentConfig, advice: Iterable[Advice]) -> ExperimentConfig:
    """The experiment with the advised values.

    Raises:
        ConfigError: they do not go together.
    """
    return override(config, {each.field: each.value for each in advice})


def write_config(config: ExperimentConfig, path: Path) -> None:
    """Writes the complete experiment as YAML for `train`.

    Raises:
        UserError: the file cannot be written.
    """
    try:
        path.write_text(dump_yaml(config), encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}") from None
