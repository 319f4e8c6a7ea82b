"""Methods: runs that differ only in their seed, under names that tell them apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mtrl.config import flatten
from mtrl.dashboard.runs import Run

MOST_FIELDS = 3  # in the name of a method
IGNORED = ("seed", "name", "total_frames", "report_seconds")
PASSING = ("checkpoints.", "evaluation.", "faults.")  # groups of fields that do not change what is learned


class Method(NamedTuple):
    """Runs of one experiment, which may differ in their seeds."""

    name: str
    runs: list[Run]


def methods_of(runs: Sequence[Run]) -> list[Method]:
    """The runs by method, in the order of their first runs. Those of which a resumed run changed what is learned are a method of their own.

    A method of one run has the run's name. One of several is named after the fields in which the methods differ, or after the folder that
    its runs share where those would be too many.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        found.setdefault((run.group, str(_learned_before(run))), []).append(run)
    members = list(found.values())
    changed = [", changed on the way" if _learned_before(own[0]) else "" for own in members]
    titles = [title + note for title, note in zip(_titles(members), changed, strict=True)]
    names = [f"{title} ({_size(own)})" if len(own) > 1 else own[0].name for title, own in zip(titles, members, strict=True)]
    return [Method(name, own) for name, own in zip(numbered(names), members, strict=True)]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """For each path as many of its last parts as tell it apart from the others."""
    parts = [path.absolute().parts for path in paths]
    names = []
    for own in parts:
        length = 1
        while length < len(own) and sum(other[-length:] == own[-length:] for other in parts) > 1:
            length += 1
        repeated = sum(other == own for other in parts) > 1  # the same run twice
        names.append(own[-1] if repeated else "/".join(own[-length:]))
    return numbered(names)


def as_written(value: object) -> str:
    """A value of an experiment as YAML has it."""
    return {True: "true", False: "false", None: "null"}[value] if value is None or isinstance(value, bool) else str(value)


def numbered(names: Sequence[str]) -> list[str]:
    """Names with a number where two are the same."""
    return [f"{name} #{list(names[: i + 1]).count(name)}" if list(names).count(name) > 1 else name for i, name in enumerate(names)]


def _learned_before(run: Run) -> list[tuple[int, dict[str, object]]]:
    """For each time that a resumed run changed what is learned: until which frames, and the fields with their values before."""
    now, found = flatten(run.config), []
    for frames, config in reversed(run.changes.items()):
        before = flatten(config)
        own = {name: before.get(name) for name in {*before, *now} if is_learned(name) and before.get(name) != now.get(name)}
        found += [(frames, dict(sorted(own.items())))] if own else []
        now = before
    return found


def is_learned(field: str) -> bool:
    """Whether a field of an experiment changes what is learned."""
    return field not in IGNORED and not field.startswith(PASSING)


def _size(runs: Sequence[Run]) -> str:
    """The number of seeds where each run has one of its own, else the number of runs."""
    seeds = {str(run.config["seed"]) for run in runs if "seed" in run.config}
    return f"{len(runs)} {'seeds' if len(seeds) == len(runs) else 'runs'}"


def _titles(members: list[list[Run]]) -> list[str]:
    """A title for each group of runs."""
    if len(members) > 1:
        flat = [flatten(own[0].config) for own in members]
        fields = [name for name in dict.fromkeys(name for values in flat for name in values) if len({str(v.get(name)) for v in flat}) > 1]
        fields = [name for name in fields if is_learned(name)]
        if 0 < len(fields) <= MOST_FIELDS:
            short = _short(fields)
            return [
                ", ".join(f"{short[name]} {as_written(values[name]) if name in values else 'not set'}" for name in fields)
                for values in flat
            ]
    return [_shared_folder(own) for own in members]


def _short(fields: Sequence[str]) -> dict[str, str]:
    """The last part of each field's name where no other has the same, else the whole name."""
    last = [field.rpartition(".")[2] for field in fields]
    return {field: own if last.count(own) == 1 else field for field, own in zip(fields, last, strict=True)}


def _shared_folder(runs: Sequence[Run]) -> str:
    """The folder that holds all runs of a method where their names say it, else the name of the first."""
    folders = {run.name.rpartition("/")[0] for run in runs}
    [*shared] = folders
    if len(shared) == 1 and shared[0]:
        return shared[0]
    return runs[0].name
