"""The runs below one folder, read when they change and kept."""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from starlette.exceptions import HTTPException

from mtrl.config import ExperimentConfig, flatten
from mtrl.dashboard.newest import inside, metrics_of, newest_values
from mtrl.dashboard.runs import SAFE_LOADER, Run, evaluation_of, read_note, read_run, read_state
from mtrl.dashboard.summary import Row, Summary
from mtrl.storage.layout import RunLayout
from mtrl.storage.sealed import replace_text

SUITE_SECTION = re.compile(r"^suite:[ ]*\n(?:[ ].*\n)+", re.MULTILINE)
LIVE_SECONDS = 60.0
CACHED_RUNS = 32
RUNS_OF_METRICS = 10  # the newest ones, whose metrics are offered as columns
FIRST_ROWS = 50  # of the table, which every answer has
LOG_BYTES = 2**17  # of messages that a page shows
QUARANTINED = "/quarantined"  # end of the metrics that say whether a task is left out
OUTLINE = {"name", "seed", "total_frames", "report_seconds", "suite.name"}
METRICS = ("summary/frames", "summary/frames_per_second", "summary/score_mean")  # in the table of all runs
DEEPEST = 4  # folders between the root and a run
LIVE_STATES = ("training", "evaluating")
STATES = (*LIVE_STATES, "finished", "interrupted", "failed")


class RunFolder:
    """The runs below `root`, also in its subfolders. A name that is no run there is nothing, whatever it would mean to the file system."""

    def __init__(self, root: Path):
        self.root = root.resolve()
        self._read = functools.lru_cache(maxsize=CACHED_RUNS)(self._read_fresh)
        self._reading = threading.Lock()
        self._summaries: dict[str, tuple[tuple[Any, ...], Summary]] = {}  # by run, with the state of its files
        self._configs: dict[str, tuple[int, dict[str, Any]]] = {}  # by run, with the time of the file
        self._outlines: dict[str, tuple[int, dict[str, Any]]] = {}
        self._metrics: dict[tuple[str, str], tuple[tuple[int, int], float | None]] = {}  # by run and metric, with the state of the file

    def names(self) -> list[str]:
        """Paths of the runs below the folder, the newest first. Links that lead elsewhere are left out."""
        found = sorted(self._runs_below(self.root, DEEPEST), reverse=True)
        return [name for _, name in found]

    def run(self, name: str) -> Run:
        """One run, read again when a file of it has changed.

        Raises:
            HTTPException: 404.
        """
        path = self._path(name)
        return self._read(path, name, _fingerprint(path))

    def summary(self, name: str) -> Summary:
        """The row of a run in the table; read again when a file of the run has changed."""
        fingerprint = _fingerprint(self.root / name)
        with self._reading:  # or a visitor and `read_ahead` would both read everything
            known = self._summaries.get(name)
            if known is None or known[0] != fingerprint:
                known = (fingerprint, self._summarize(name))
                self._summaries[name] = known
        layout = RunLayout(self.root / name)
        times = {Path(file): time_ns / 1e9 for file, time_ns, _ in fingerprint}
        summary = known[1]._replace(changed=times.get(layout.metrics, 0.0))
        if summary.state in (*LIVE_STATES, "unknown"):
            # The state is written when a run begins, before any metrics, and again and again while it waits for its last evaluation.
            written = max(summary.changed, times.get(layout.state, 0.0))
            quiet = time.time() - written > self._patience(name)
            if quiet:
                summary = summary._replace(state="stopped" if summary.state in LIVE_STATES else "unknown")
            elif summary.state == "unknown":
                summary = summary._replace(state="training")
        return summary

    def rows(self, columns: Sequence[str] = (), seconds: float = math.inf) -> tuple[list[Row], int]:
        """The table of all runs, the newest run first, and the number of runs that are not in it yet.

        Args:
            columns: fields of the experiments, or metrics.
            seconds: of reading, after which runs that were never read are left out; the newest ones never are.
        """
        end, rows, names = time.monotonic() + seconds, [], self.names()
        for index, name in enumerate(names):
            is_known = name in self._summaries and (all(map(is_metric, columns)) or name in self._configs)
            if is_known or index < FIRST_ROWS or time.monotonic() < end:
                rows.append(Row(self.summary(name), [self.value(name, column) for column in columns]))
        return rows, len(names) - len(rows)

    def value(self, name: str, column: str) -> Any:
        """A field of a run's experiment, such as `learner.actor.learning_rate`, or the newest value of a metric, such as `learner/entropy`.

        None where the run has none.
        """
        if is_metric(column):
            return self._metric(name, column)
        outline = self._outline(name)
        return outline[column] if column in outline else self._config(name).get(column)

    def columns(self) -> list[str]:
        """The fields of experiments, those of this version and of runs of other versions that were read; then the metrics of new runs."""
        fields = {field for _, config in list(self._configs.values()) for field in config} | _own_fields()
        metrics = {metric for name in self.names()[:RUNS_OF_METRICS] for metric in metrics_of(self.root / name)}
        return sorted(fields) + sorted(metrics)

    def _metric(self, name: str, metric: str) -> float | None:
        path = RunLayout(self.root / name).metrics
        with contextlib.suppress(OSError):
            state = path.stat()
            fingerprint = (state.st_mtime_ns, state.st_size)
            known = self._metrics.get((name, metric))
            if known is None or known[0] != fingerprint:
                known = (fingerprint, newest_values(self.root / name, (metric,)).get(metric))
                self._metrics[name, metric] = known
            return known[1]
        return None

    def _path(self, name: str) -> Path:
        if name not in self.names():
            raise HTTPException(404, "no such run")
        return self.root / name

    def _config(self, name: str) -> dict[str, Any]:
        """A run's experiment by dotted names; empty where it cannot be read."""
        return self._read_config(name, self._configs, lambda text: text)

    def _outline(self, name: str) -> dict[str, Any]:
        """At least the fields of a run's experiment that the table shows. They are at its beginning: read in a tenth of the time."""
        found = self._read_config(name, self._outlines, _beginning)
        return found if found.keys() >= OUTLINE else self._config(name)

    def _read_config(self, name: str, kept: dict[str, tuple[int, dict[str, Any]]], part: Callable[[str], str]) -> dict[str, Any]:
        config, modified = RunLayout(self.root / name).config, 0
        with contextlib.suppress(OSError):
            modified = config.stat().st_mtime_ns
        known = kept.get(name)
        if known is None or known[0] != modified:
            values: Any = {}
            with contextlib.suppress(OSError, ValueError, yaml.YAMLError, RecursionError):
                values = yaml.load(part(inside(self.root / name, config).read_text()), Loader=SAFE_LOADER)
            known = kept[name] = (modified, flatten(values) if isinstance(values, dict) else {})
        return known[1]

    def _patience(self, name: str) -> float:
        """Seconds without a sign of life, after which a run that trains or evaluates is taken for one that has stopped."""
        seconds = self._outline(name).get("report_seconds")
        return max(LIVE_SECONDS, 3 * seconds) if isinstance(seconds, int | float) else LIVE_SECONDS

    def messages(self, name: str) -> str:
        """The newest messages of a run, with their times.

        Raises:
            HTTPException: 404.
        """
        path = self._path(name)
        with contextlib.suppress(OSError), inside(path, RunLayout(path).messages).open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - LOG_BYTES))
            return stream.read().decode(errors="replace")
        return "no messages"

    def write_note(self, name: str, text: str) -> None:
        """Replaces the note of a run: the one file that the dashboard ever writes.

        Raises:
            HTTPException: 404 where there is no such run, 409 where its folder cannot be written to or its note leads elsewhere.
        """
        path = self._path(name)
        note = RunLayout(path).note
        try:
            if note.is_symlink():
                raise OSError(errno.ELOOP, "is a link")
            replace_text(note, text)
        except OSError as error:
            raise HTTPException(409, f"the note of {name} cannot be written: {error.strerror}") from None

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
        row, results, config, state = newest_values(path, METRICS, QUARANTINED), evaluation_of(path), self._outline(name), read_state(path)
        total, seed = config.get("total_frames"), config.get("seed")
        known = str(state.get("state", "unknown"))
        if known == "training" and "evaluating" in state:
            known = "evaluating"
        return Summary(
            id=name,
            experiment=str(config.get("name", "")),
            suite=str(config.get("suite.name", "")),
            seed=seed if isinstance(seed, int) else None,
            frames=row.get("summary/frames"),
            total_frames=float(total) if isinstance(total, int | float) else None,
            frames_per_second=row.get("summary/frames_per_second"),
            score=row.get("summary/score_mean"),
            evaluated=results.score_mean.to_json() if results else None,
            state=known if known in STATES else "unknown",
            reason=str(state.get("reason", "")),
            tags=tags_of(read_note(path)),
            changed=0.0,
            problem=_problem(row),
        )

    def read_ahead(self) -> None:
        """Reads every run once: first what the table shows, then the fields by which it can be filtered."""
        with contextlib.suppress(OSError):  # whoever looks at the page will see it again
            names = self.names()
            for name in names:
                self.summary(name)
            for name in names:
                self._config(name)

    def _runs_below(self, folder: Path, depth: int) -> Iterator[tuple[float, str]]:
        """The time of change and the path of each run in a folder and its subfolders."""
        with contextlib.suppress(OSError):  # gone meanwhile, or nobody may read it
            for entry in os.scandir(folder):
                if entry.name.startswith(".") or entry.is_symlink() or not entry.is_dir():
                    continue
                layout = RunLayout(Path(entry.path))
                if layout.config.exists() or layout.metrics.exists():
                    yield entry.stat().st_mtime, Path(entry.path).relative_to(self.root).as_posix()
                elif depth > 1:
                    yield from self._runs_below(Path(entry.path), depth - 1)

    @staticmethod
    def _read_fresh(path: Path, name: str, fingerprint: tuple[Any, ...]) -> Run:
        return read_run(path, name)


def is_metric(column: str) -> bool:
    """Whether a column of the table is a metric; it is a field of the experiments otherwise."""
    return "/" in column


def _problem(row: Mapping[str, float]) -> str | None:
    if not row:
        return "no metrics yet"
    left_out = sum(value == 1 for metric, value in row.items() if metric.endswith(QUARANTINED))
    return f"{left_out} task{'s' if left_out > 1 else ''} left out: environments fail" if left_out else None


def tags_of(note: str) -> list[str]:
    """The tags of a run: the words behind `tags:` in its note, between commas."""
    lines = [line[5:] for line in note.splitlines() if line.lower().startswith("tags:")]
    return [tag.strip() for line in lines for tag in line.split(",") if tag.strip()]


def _beginning(text: str) -> str:
    """An experiment up to the end of its section `suite`; all of it where that is written otherwise."""
    found = SUITE_SECTION.search(text)
    return text[: found.end()] if found else text


@functools.cache
def _own_fields() -> frozenset[str]:
    return frozenset(flatten(ExperimentConfig().model_dump(mode="json")))


def _fingerprint(path: Path) -> tuple[Any, ...]:
    """Changes whenever a file that a page shows does: name, time and size of each."""
    layout, found = RunLayout(path), []
    for file in [
        layout.config,
        layout.versions,
        layout.metrics,
        layout.state,
        layout.note,
        *layout.all_results(),
        *layout.all_unseen_results(),
        *layout.all_videos(),
    ]:
        with contextlib.suppress(OSError):  # not there, or gone meanwhile
            state = file.stat()
            found.append((str(file), state.st_mtime_ns, state.st_size))
    return tuple(found)
