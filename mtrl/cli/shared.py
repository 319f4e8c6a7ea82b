"""Options and checks that several commands share."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mtrl.config import ExperimentConfig, load_config, parse_config
from mtrl.errors import TrialsInterruptedError, UserError, did_you_mean
from mtrl.machine import PACKAGE, PROJECT_ROOT
from mtrl.runs import named_after_suite

DEFAULT_CONFIG = "minigrid_mt3"


def find_config(name: str) -> Path:
    """The experiment file that `name` means: a path, or the bare name of one of ours.

    Raises:
        UserError: with the nearest name.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted(_configs_directory().glob("*.yaml"))}
    if path.parent == Path() and path.stem in known:
        return known[path.stem]
    hint = did_you_mean(path.stem, known) or f"there are {', '.join(known)}"
    raise UserError(f"no experiment {name}: neither a file nor a name in configs/; {hint}")


def find_experiment(name: str) -> ExperimentConfig:
    """The experiment that `name` means: a YAML file, the name of one of ours, or a suite with the settings of the default experiment.

    Raises:
        UserError: there is no such file or name; a suite's name is not looked up.
    """
    path = Path(name)
    if "/" not in name or path.is_file() or path.suffix in (".yaml", ".yml"):
        return load_config(find_config(name))
    default = load_config(find_config(DEFAULT_CONFIG))
    values = default.model_dump(exclude_unset=True)
    return named_after_suite(parse_config(values | {"suite": values.get("suite", {}) | {"name": name}}), default)


def find_space(name: str) -> Path:
    """The search space that `name` means: a path, or the bare name of one of ours.

    Raises:
        UserError: with the names that there are.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted((_configs_directory() / "spaces").glob("*.yaml"))}
    if path.parent == Path() and path.stem in known:
        return known[path.stem]
    raise UserError(f"no search space {name}: neither a file nor a name in configs/spaces/; there are {', '.join(known)}")


@dataclass(frozen=True)
class NoArguments:
    """For commands without options."""


def _configs_directory() -> Path:
    """The experiments that come with the program: inside the installed package, or beside it in a checkout."""
    installed = PACKAGE / "_configs"
    return installed if installed.is_dir() else PROJECT_ROOT / "configs"


def check_packages() -> None:
    """Other distributions install packages called `envs`, too; the one that was installed last wins."""
    import envs

    if not hasattr(envs, "make_suite"):
        place = Path(envs.__file__).parent if envs.__file__ else "an empty folder"
        raise UserError(
            f"the package `envs` that Python finds ({place}) is not this project's; remove the other one, or run from our folder"
        )


def parse_whole_number(option: str, text: str, least: int) -> int:
    """The value of an option's text.

    Raises:
        UserError: it is no whole number, or a smaller one.
    """
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{option}: must be a whole number of {least} or more, got {text!r}")
    return int(text)


def parse_fraction(option: str, text: str) -> float:
    """The value of an option's text.

    Raises:
        UserError: it is no number from 0 to 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise UserError(f"{option}: must be a number from 0 to 1, got {text!r}")
    return value


def check_choice(what: str, word: str, known: Sequence[str]) -> None:
    """Refuses a word that is none of the known ones.

    Raises:
        UserError: with the nearest.
    """
    if word not in known:
        raise UserError(
            f"{what}: must be one of {', '.join(known)}, got {word!r}" + (f"; {hint}" if (hint := did_you_mean(word, known)) else "")
        )


def interrupted(error: TrialsInterruptedError, program: str, arguments: Sequence[str]) -> int:
    """Says how runs beside each other go on; returns the exit code."""
    print(f"all runs are saved; the same command goes on from there: {shlex.join([*program.split(), *arguments])}")
    return 128 + error.number
