"""Experiments changed by keywords: `learner={"epochs": 2}`, as pydantic nests them."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtrl.cli.shared import find_experiment
from mtrl.config import ConfigError, ExperimentConfig, Section, parse_config

SHORT_NAMES = {"num_env_runners": "env_runners"}  # fields that may be given without their section, as on the command line


def resolve_experiment(suite_or_config: str | Path | ExperimentConfig, changes: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment that is meant, with changes. Where neither says how many runners there are, there are none: one process does all.

    Args:
        suite_or_config: an experiment, a YAML file, the name of one in `configs/`, or a suite.
        changes: see `override`.

    Raises:
        ConfigError: a name is unknown, or a value is not allowed.
        UserError: there is no such experiment.
    """
    config = suite_or_config if isinstance(suite_or_config, ExperimentConfig) else find_experiment(str(suite_or_config))
    says_runners = "num_env_runners" in config.env_runners.model_fields_set or config.learners.num_learners > 0
    base = config if says_runners else override(config, {"num_env_runners": 0})
    return override(base, changes)


def override(config: ExperimentConfig, changes: Mapping[str, Any]) -> ExperimentConfig:
    """A copy of an experiment with other values.

    Args:
        config: the experiment.
        changes: values of its fields by their names; those of a section as a mapping, which leaves the section's other fields as they are.

    Raises:
        ConfigError: one line for each fault, with the nearest name for one that is unknown.
    """
    nested = dict(changes)
    for name, section in SHORT_NAMES.items():
        if name in nested:
            given = nested.get(section, {})
            nested[section] = (given.model_dump(exclude_unset=True) if isinstance(given, Section) else dict(given)) | {
                name: nested.pop(name)
            }
    unknown = [name for name in nested if name not in ExperimentConfig.model_fields]
    if unknown:
        raise ConfigError("\n".join(f"{name}: unknown field; {_hint(name)}" for name in unknown))
    return parse_config(_merged(ExperimentConfig, config.model_dump(exclude_unset=True), nested))


def _merged(section: type[Section], values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes; sections are merged, anything else is replaced."""
    merged = dict(values)
    for name, value in changes.items():
        inner: Any = section.model_fields[name].annotation if name in section.model_fields else None
        merges = isinstance(inner, type) and issubclass(inner, Section) and isinstance(value, Mapping)
        merged[name] = _merged(inner, values.get(name, {}), value) if merges else value
    return merged


def _hint(name: str) -> str:
    """Where the field is that a wrong keyword means."""
    places = {".".join(path): path for path in _paths(ExperimentConfig)}
    dotted = name.replace("__", ".")
    if dotted not in places:
        by_word = {path[-1]: place for place, path in reversed(places.items())} | {field: field for field in ExperimentConfig.model_fields}
        near = difflib.get_close_matches(dotted.rpartition(".")[2], by_word, n=1, cutoff=0.5)
        if not near:
            return "known are " + ", ".join(ExperimentConfig.model_fields)
        dotted = by_word[near[0]]
    *sections, field = places.get(dotted, (dotted,))
    text = "..."
    for part in reversed([*sections[1:], field] if sections else []):
        text = f"{{{part!r}: {text}}}"
    return f"did you mean {sections[0] if sections else field}={text}?"


def _paths(section: type[Section], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The names that lead to each field, the outermost section first."""
    for name, field in section.model_fields.items():
        inner: Any = field.annotation
        if isinstance(inner, type) and issubclass(inner, Section):
            yield from _paths(inner, (*above, name))
        else:
            yield (*above, name)
