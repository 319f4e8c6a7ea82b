"""The end of a run's metrics, which is all that a table of many runs needs."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mtrl.storage.layout import RunLayout

TAIL_BYTES = 2**20  # of metrics, in which the newest lines are looked for
FIRST_BYTES = 2**15  # of them, which are read first: a line of 50 tasks has 20 kB
NEWEST_ROWS = 8  # whose metrics are known to be there: a line about an evaluation has others than a report


def newest_values(path: Path, metrics: Sequence[str], ending: str | None = None) -> dict[str, float]:
    """The newest values of metrics in the last megabyte of a run; those that are not there are left out.

    No more lines are parsed than it takes: with 50 tasks a line takes as long as everything else in the list of runs.

    Args:
        path: the run's directory.
        metrics: the names.
        ending: all metrics of the newest line with this end are added.
    """
    newest: dict[str, float] = {}
    added: dict[str, float] | None = None
    quoted = {name: json.dumps(name).encode() for name in metrics}
    for line in _last_lines(path):
        missing = [name for name in metrics if name not in newest]
        if added is not None and not missing:
            break
        if added is not None and not any(quoted[name] in line for name in missing):
            continue  # without being parsed: figures of evaluations stand in lines of their own, hundreds of lines apart
        row = _parsed(line)
        if row is None:
            continue
        if added is None:
            added = _numbers({name: value for name, value in row.items() if ending is not None and name.endswith(ending)})
        newest |= _numbers({name: row[name] for name in missing if name in row})
    return newest | (added or {})


def metrics_of(path: Path) -> list[str]:
    """The names of the metrics in the last lines of a run."""
    rows = itertools.islice((row for line in _last_lines(path) if (row := _parsed(line)) is not None), NEWEST_ROWS)
    return list(dict.fromkeys(name for row in rows for name in _numbers(row)))


def _last_lines(path: Path) -> Iterator[bytes]:
    """The last lines of a run's metrics, the newest first."""
    with contextlib.suppress(OSError), inside(path, RunLayout(path).metrics).open("rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        given, length = 0, FIRST_BYTES
        while True:
            stream.seek(max(0, size - length))
            lines = stream.read(min(size, length)).splitlines()
            whole = lines if length >= size else lines[1:]  # the first one begins before what was read
            yield from reversed(whole[: len(whole) - given])
            given = len(whole)
            if length >= min(size, TAIL_BYTES):
                return
            length *= 4


def inside(run: Path, path: Path) -> Path:
    """A file of a run, unless it is a link to somewhere else: PermissionError."""
    if not path.resolve().is_relative_to(run.resolve()):
        raise PermissionError(f"{path.relative_to(run)} leads out of the run")
    return path


def parse_row(line: bytes) -> dict[str, float] | None:
    """The numbers in a line of metrics; None where it is none."""
    values = _parsed(line)
    return None if values is None else _numbers(values)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The content of a line of metrics; None where it is none."""
    try:
        values = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return values if isinstance(values, dict) and isinstance(values.get("summary/frames"), int | float) else None


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if isinstance(value, int | float) and abs(value) < 1e300}
