"""The runs below one folder, read when they change and kept."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from starlette.exceptions import HTTPException

from mtrl.dashboard.runs import Run, evaluation_of, inside, last_row, read_run
from mtrl.storage.layout import RunLayout

LIVE_SECONDS = 60.0


CACHED_RUNS = 32


class Summary(NamedTuple):
    """A run in the table of all runs."""

    id: str
    experiment: str
    frames: float | None
    frames_per_second: float | None
    score: float | None
    evaluated: dict[str, float | None] | None  # value, low, high of the newest evaluation's mean score
    live: bool
    problem: str | None


class RunFolder:
    """The runs directly below `root`. A name that is no entry there is nothing, whatever it would mean to the file system."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._read = functools.lru_cache(maxsize=CACHED_RUNS)(self._read_fresh)
        self._reading = threading.Lock()
        self._summaries: dict[str, tuple[tuple[Any, ...], Summary]] = {}  # by run, with the state of its files

    def names(self) -> list[str]:
        """Folders that look like runs, the newest first. Links that lead elsewhere are left out."""
        runs = sorted(
            (entry for entry in self.root.iterdir() if self._is_run(entry)), key=lambda entry: entry.stat().st_mtime, reverse=True
        )
        return [entry.name for entry in runs]

    def run(self, name: str) -> Run:
        """One run, read again when a file of it has changed.

        Raises:
            HTTPException: 404.
        """
        if name not in self.names():
            raise HTTPException(404, "no such run")
        path = self.root / name
        return self._read(path, _fingerprint(path))

    def summary(self, name: str) -> Summary:
        """The row of a run in the table; read again when a file of the run has changed."""
        fingerprint = _fingerprint(self.root / name)
        with self._reading:  # or a visitor and `read_ahead` would both read everything
            known = self._summaries.get(name)
            if known is None or known[0] != fingerprint:
                known = (fingerprint, self._summarize(name))
                self._summaries[name] = known
        written = max((time_ns for file, time_ns, _ in fingerprint if Path(file) == RunLayout(self.root / name).metrics), default=0) / 1e9
        return known[1]._replace(live=time.time() - written < LIVE_SECONDS)

    def video(self, name: str, step: str, file: str) -> Path:
        """A video in a run's folder.

        Raises:
            HTTPException: 404.
        """
        run = self.run(name)
        for path in run.videos.values():
            if path.name == file and path.parent.parent.name == step:
                return path
        raise HTTPException(404, "no such video")

    def _summarize(self, name: str) -> Summary:
        """Reads only the end of the metrics, so that long runs cost no more than short ones."""
        path = self.root / name
        row = last_row(path)
        results = evaluation_of(path)
        return Summary(
            id=name,
            experiment=_experiment_name(path),
            frames=row.get("summary/frames"),
            frames_per_second=row.get("summary/frames_per_second"),
            score=row.get("summary/score_mean"),
            evaluated=results.score_mean.to_json() if results else None,
            live=False,
            problem=None if row else "no metrics yet",
        )

    def read_ahead(self) -> None:
        """Summarizes every run once."""
        with contextlib.suppress(OSError):  # whoever looks at the page will see it again
            for name in self.names():
                self.summary(name)

    def _is_run(self, entry: Path) -> bool:
        layout = RunLayout(entry)
        known = layout.config.exists() or layout.metrics.exists()
        return known and entry.is_dir() and entry.resolve().parent == self.root

    @staticmethod
    def _read_fresh(path: Path, fingerprint: tuple[Any, ...]) -> Run:
        return read_run(path)


def _fingerprint(path: Path) -> tuple[Any, ...]:
    """Changes whenever a file that a page shows does: name, time and size of each."""
    layout, found = RunLayout(path), []
    for file in [
        layout.config,
        layout.versions,
        layout.metrics,
        *layout.all_results(),
        *layout.all_videos(),
    ]:
        with contextlib.suppress(OSError):  # not there, or gone meanwhile
            state = file.stat()
            found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)


def _experiment_name(path: Path) -> str:
    """The experiment's name: the first field of a resolved configuration, read without parsing the rest."""
    try:
        with inside(path, RunLayout(path).config).open(errors="replace") as file:
            first = file.readline(200)
            if first.startswith("#"):  # the seal
                first = file.readline(200)
    except OSError:
        return ""
    return first.removeprefix("name:").strip() if first.startswith("name:") else ""
