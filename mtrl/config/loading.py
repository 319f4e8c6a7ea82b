"""Reading experiments from YAML, changing them, and saying what is wrong with one in a sentence for each fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic
import yaml

from mtrl.config.schema import ConfigError, ExperimentConfig, Section
from mtrl.config.seal import DamagedFileError, check_seal
from mtrl.errors import did_you_mean


def load_config(path: str | Path) -> ExperimentConfig:
    """Reads an experiment from a YAML file.

    Raises:
        ConfigError: the file is missing, is sealed but not what was written, is no YAML mapping in UTF-8, or a field is unknown or out of
            range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")  # editors of Windows begin a file with a mark
        check_seal(text, path)
        values = yaml.load(text, _Loader)
    except DamagedFileError as error:
        raise ConfigError(str(error)) from None
    except OSError as error:
        raise ConfigError(f"cannot read the experiment {path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path} is no text in UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}); save it as UTF-8"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # a ValueError for a day or a number that there is not
        raise ConfigError(f"{path} is not YAML: {yaml_fault(error)}") from None
    except RecursionError:
        raise ConfigError(f"{path} is not YAML of an experiment: its lists or mappings are nested too deeply") from None
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} holds a {type(values).__name__}; an experiment is a mapping of fields to values")
    try:
        return parse_config({"name": path.stem, **(values or {})})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def yaml_fault(error: Exception) -> str:
    """Where a YAML file is wrong and why, in one line."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None or error.problem is None:
        return " ".join(str(error).split())
    place, begin = error.problem_mark, error.context_mark
    since = "" if begin is None or begin.line == place.line else f", {error.context} that begins in line {begin.line + 1}"
    return f"line {place.line + 1}, column {place.column + 1}: {error.problem}{since}"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a nested mapping by their dotted names."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def read_scalar(text: str) -> Any:
    """The meaning of `text` as a value in a YAML experiment: `null`, a truth value, a number or a string."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text


def parse_config(values: dict[str, Any]) -> ExperimentConfig:
    """Checks the nested mapping `values` and fills in the defaults.

    Raises:
        ConfigError: one line per fault.
    """
    try:
        return ExperimentConfig.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError(explain(error)) from None


def override(config: ExperimentConfig, changes: dict[str, Any]) -> ExperimentConfig:
    """A copy of `config` with the dotted fields of `changes`, such as `{"learner.discount": 0.9}`, set and everything checked again."""
    values = config.model_dump()
    for dotted, value in changes.items():
        *sections, field = dotted.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise ConfigError(f"{dotted}: {section} is a value, not a section")
        target[field] = value
    return parse_config(values)


def dump_yaml(config: ExperimentConfig) -> str:
    """The full resolved experiment as YAML; `load_config` of it gives the same experiment."""
    return yaml.dump(config.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


class _Loader(yaml.SafeLoader):
    """YAML's own loader, with two changes.

    `1e-3` and `6e6` are numbers: YAML 1.1 takes them for strings unless they have a dot and a signed exponent. And a field that is given
    twice is an error: YAML's loader takes the last value without a word.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            yaml.YAMLError: a key is there twice, or cannot be one.
        """
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"):
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key.value} is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """The content of YAML as experiments are written: `1e-3` is a number, and a key that is given twice is an error.

    Raises:
        yaml.YAMLError: it is none.
    """
    return yaml.load(text, Loader=_Loader)


class _Dumper(yaml.SafeDumper):
    """Writes strings that `_Loader` would take for numbers in quotes."""


for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def explain(error: pydantic.ValidationError, model: type[Section] = ExperimentConfig) -> str:
    """One line per fault in values for `model`: the field's path, the value, what is allowed, and the nearest name for unknown fields."""
    return "\n".join(_explain_fault(fault, model) for fault in error.errors())


def _explain_fault(fault: Any, model: type[Section]) -> str:
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = _field_names(fault["loc"][:-1], model)
        hint = did_you_mean(str(fault["loc"][-1]), known) or ("known are " + ", ".join(known) if known else "there are none")
        return f"{path}: unknown field; {hint}"
    message = fault["msg"].removeprefix("Value error, ")
    if not path:
        return message
    if fault["type"] == "model_type":
        return f"{path}: is a section with fields of its own, got {fault['input']!r}"
    # The value follows anyway, so pydantic's remark on it only makes the sentence long.
    message = re.split(", (?:got|unable)", message.replace("Input should be", "must be"))[0]
    return f"{path}: {message[0].lower() + message[1:]}, got {fault['input']!r}"


def _field_names(location: tuple[Any, ...], model: type[Section]) -> list[str]:
    section: Any = model
    for part in location:
        section = section.model_fields[part].annotation
    return list(section.model_fields)
