"""Search spaces: the fields of an experiment that a search may change, and the values that it may give them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from ray import tune

from mtrl.config import ConfigError, ExperimentConfig, override, parse_yaml, yaml_fault


class Domain(NamedTuple):
    """The values of one field."""

    kind: str  # one of KINDS
    values: tuple[Any, ...]  # the bounds, or the choices

    def for_tune(self) -> Any:
        """Ray Tune's object for these values."""
        return KINDS[self.kind].for_tune(*self.values)

    @property
    def logarithmic(self) -> bool:
        """Whether equal ratios are equally likely."""
        return self.kind in ("log", "log_int")


Space = Mapping[str, Domain]
"""By dotted field of the experiment."""


class Kind(NamedTuple):
    """A way to draw values."""

    for_tune: Callable[..., Any]
    fits: Callable[[tuple[Any, ...]], bool]
    wanted: str


def _ascending(values: tuple[Any, ...]) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) for value in values)
    return len(values) == 2 and numbers and values[0] < values[1]


def _positive(values: tuple[Any, ...]) -> bool:
    return _ascending(values) and values[0] > 0


def _whole(values: tuple[Any, ...]) -> bool:
    return _ascending(values) and all(isinstance(value, int) for value in values)


# Tune leaves the upper bound of whole numbers out.
KINDS = {
    "uniform": Kind(tune.uniform, _ascending, "two numbers, the smaller one first"),
    "log": Kind(tune.loguniform, _positive, "two numbers above 0, the smaller one first"),
    "int": Kind(lambda low, high: tune.randint(low, high + 1), _whole, "two whole numbers, the smaller one first"),
    "log_int": Kind(
        lambda low, high: tune.lograndint(low, high + 1),
        lambda values: _whole(values) and _positive(values),
        "two whole numbers above 0, the smaller one first",
    ),
    "choice": Kind(lambda *values: tune.choice(list(values)), lambda values: len(values) > 0, "a list of values"),
}


def load_space(path: Path) -> dict[str, Domain]:
    """Reads a file such as those in `configs/spaces`.

    Raises:
        ConfigError: it cannot be read, or a line of it is no space.
    """
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the space {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {yaml_fault(error)}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{path} must have a line for each field, such as `learner.lambda_: {{uniform: [0.9, 1.0]}}`")
    return {str(field): _domain(str(field), given) for field, given in content.items()}


def check_space(space: Space, config: ExperimentConfig) -> None:
    """Tries the ends of every domain, or all of its choices.

    Raises:
        ConfigError: the experiment refuses one of them.
    """
    for field, domain in space.items():
        for value in domain.values:
            override(config, {field: value})


def _domain(field: str, given: Any) -> Domain:
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise ConfigError(f"{field}: must be one of {', '.join(f'{{{kind}: [...]}}' for kind in KINDS)}, got {given!r}")
    ((kind, values),) = given.items()
    if not isinstance(values, list) or not KINDS[kind].fits(tuple(values)):
        raise ConfigError(f"{field}: {kind} takes {KINDS[kind].wanted}, got {values!r}")
    return Domain(kind, tuple(values))
