"""A run's folder: its experiment, versions, metrics, TensorBoard events, checkpoints and policies."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from envs import TaskSuite
from mtrl.config import ExperimentConfig, dump_yaml, load_config, sealed
from mtrl.curriculum.decisions import Decision, from_line, to_line
from mtrl.errors import UserError
from mtrl.machine import PACKAGES, package_version
from mtrl.storage.layout import RunLayout
from mtrl.storage.sealed import TEMPORARY, replace_text, replacing
from mtrl.storage.trackers import Tracker, make_tracker


class RunDirectoryError(UserError):
    """A folder is not the run that was meant."""


class RunDirectory:
    """One run. Curves have trained frames as their x-axis."""

    def __init__(self, path: Path, config: ExperimentConfig):
        self.path = path
        self.config = config
        self.layout = RunLayout(path)
        self.checkpoints = self.layout.checkpoints
        self.policies = self.layout.policies
        self._trackers: dict[str, Tracker] | None = None  # opened by the first line of metrics

    @classmethod
    def create(cls, path: Path | None, config: ExperimentConfig) -> RunDirectory:
        """A new run in `path`, by default `runs/NAME-TIME`.

        Raises:
            RunDirectoryError: the folder has something in it, or cannot be made.
        """
        path = new_folder(path, config.name)
        try:
            directory = cls(path, config)
            directory.write_config()
            replace_text(directory.layout.versions, json.dumps(versions(), indent=1))
        except OSError as error:
            raise RunDirectoryError(f"cannot write to {path}: {error.strerror}") from None
        return directory

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run that exists.

        Raises:
            RunDirectoryError: there is no such folder, or it is no run.
            ConfigError: its experiment cannot be read or is not what was written.
        """
        return cls(path, read_config(path))

    def write_config(self) -> None:
        """Replaces `config.yaml` by the experiment, sealed.

        Raises:
            OSError: the disk is full or read-only.
        """
        replace_text(self.layout.config, sealed(dump_yaml(self.config)))

    def write_state(self, state: str, **details: Any) -> None:
        """Says in `state.json` that the run is `training`, or how it ended: `finished`, `interrupted` or `failed`.

        A process that is killed leaves `training` behind. A disk that refuses is ignored: nothing is trained by this file.
        """
        script = Path(sys.argv[0]).name
        command = shlex.join(["python", script, *sys.argv[1:]]) if script == "launch.py" else ""
        values = {"state": state, "time": time.time(), "command": command, "host": platform.node(), "process": os.getpid(), **details}
        with contextlib.suppress(OSError):
            replace_text(self.layout.state, json.dumps(values, indent=1))

    def write_message(self, text: str) -> None:
        """Appends a message to `messages.log`. A disk that refuses is ignored: the message was shown as well."""
        with contextlib.suppress(OSError), self.layout.messages.open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")

    def archive_config(self, before: ExperimentConfig, frames: int) -> None:
        """Keeps the experiment that was trained until `frames`, since another one follows.

        Raises:
            OSError: the disk is full or read-only.
        """
        if not self.layout.archived_config(frames).exists():  # else a process changed it before and has trained nothing
            replace_text(self.layout.archived_config(frames), sealed(dump_yaml(before)))

    def write_metrics(self, metrics: dict[str, float], suite: TaskSuite) -> None:
        """Appends a line to `metrics.jsonl` and passes it on to the trackers.

        Raises:
            OSError: the disk is full or read-only, or a tracker fails; its `strerror` says which.
        """
        problems = self._open_trackers(suite) if self._trackers is None else []  # before the line: it looks at those until now
        _append(self.layout.metrics, json.dumps({"time": time.time(), **metrics}) + "\n")
        for name, tracker in (self._trackers or {}).items():
            try:
                tracker.log(metrics, int(metrics["summary/frames"]))
            except Exception as error:  # each service has errors of its own
                problems.append(f"{name}: {_in_short(error)}")
        if problems:
            raise OSError(errno.EIO, "; ".join(problems))

    def write_decisions(self, decisions: Iterable[Decision]) -> None:
        """Appends the curriculum's decisions to `curriculum.jsonl`.

        Raises:
            OSError: the disk is full or read-only.
        """
        _append(self.layout.decisions, "".join(to_line(decision) + "\n" for decision in decisions))

    def archive_decisions(self, frames: int) -> None:
        """Puts the log of decisions aside, since those that follow are about other tasks or made by other rules."""
        path = self.layout.decisions
        aside = self.layout.archived_decisions(frames)
        if aside.exists():  # a process put the history aside before and has trained nothing
            path.unlink(missing_ok=True)
        elif path.exists():
            path.rename(aside)

    def read_decisions(self) -> Iterator[Decision]:
        """The decisions of `curriculum.jsonl`; a line that a killed process left unfinished ends them."""
        path = self.layout.decisions
        if not path.exists():
            return
        with path.open() as file:
            for line in file:
                try:
                    yield from_line(line)
                except ValueError:
                    return

    def read_metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`; one that a killed process left unfinished is passed over."""
        path = self.layout.metrics
        rows = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
        return rows

    def hours(self) -> float:
        """Hours of training until the newest line of `metrics.jsonl`, as the lines tell; 0 where none does."""
        return max((float(row["summary/hours"]) for row in self.read_metrics() if "summary/hours" in row), default=0.0)

    def truncate_after(self, frames: int) -> None:
        """Drops metrics and decisions of frames that a resumed run will train on again, so that curves do not run back."""
        self.close()
        rows = (row for row in self.read_metrics() if row["summary/frames"] <= frames)
        _rewrite(self.layout.metrics, (json.dumps(row) + "\n" for row in rows))
        decisions = (decision for decision in self.read_decisions() if decision.frames <= frames)
        _rewrite(self.layout.decisions, (to_line(decision) + "\n" for decision in decisions))

    def close(self) -> None:
        """Writes what trackers still have in memory."""
        for tracker in (self._trackers or {}).values():
            with contextlib.suppress(Exception):  # each service has errors of its own, and the run is saved
                tracker.close()
        self._trackers = None

    def _open_trackers(self, suite: TaskSuite) -> list[str]:
        """Opens the trackers; those that cannot be opened are left out, with a sentence about each."""
        frames = max((int(row["summary/frames"]) for row in self.read_metrics()), default=0)
        self._trackers, problems = {}, []
        for name in self.config.trackers:
            try:
                self._trackers[name] = make_tracker(name, self.path, self.config, suite, frames)
            except Exception as error:  # each service has errors of its own
                problems.append(f"{name} is left out ({_in_short(error)})")
        return problems


def _append(path: Path, text: str) -> None:
    """Appends all of the text, or nothing: a part of a line would end what can be read later.

    Raises:
        OSError: the disk is full or read-only.
    """
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        content = text.encode()
        try:
            if file.write(content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file.fileno(), size)
            raise


def _in_short(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def new_folder(path: Path | None, name: str) -> Path:
    """An empty folder for a run: `path`, which may exist, or one that no other process has got, `runs/NAME-TIME[-NUMBER]`.

    Raises:
        RunDirectoryError: the folder has something in it, or cannot be made.
    """
    try:
        if path is None:
            return _own_folder(Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}")
        if not is_free(path):
            raise RunDirectoryError(f"{path} exists and is not an empty folder; go on with --resume {path}, or choose another --run-dir")
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"cannot write to {path or 'runs'}: {error.strerror}") from None
    return path


def is_free(path: Path) -> bool:
    """Whether a run may begin at a path: there is nothing yet, or an empty folder.

    Raises:
        OSError: the folder cannot be read.
    """
    passing = (TEMPORARY, RunLayout(path).lock.name)  # a lock is there before anything else is
    return not path.exists() or (path.is_dir() and all(entry.name.startswith(passing) for entry in path.iterdir()))


@contextlib.contextmanager
def trial_folder(folder: Path) -> Iterator[Path]:
    """A folder for trials on the file system of a run's folder. What was made on the way there is removed again."""
    place = folder if folder.is_dir() else folder.absolute().parent
    missing = [each for each in (place, *place.parents) if not each.exists()]
    try:
        yield place
    finally:
        for each in missing:  # the deepest first
            with contextlib.suppress(OSError):
                each.rmdir()


def _own_folder(wanted: Path) -> Path:
    """Makes a folder of this name, or with the first free number behind it: two runs may begin in the same second."""
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("there is always another number")


def read_config(run: Path) -> ExperimentConfig:
    """The experiment of the run in this folder.

    Raises:
        RunDirectoryError: there is no such folder, it is no run, or its experiment is empty.
        ConfigError: its experiment cannot be read or is not what was written.
    """
    if not run.is_dir():
        raise RunDirectoryError(f"there is no run directory {run}")
    path = RunLayout(run).config
    if not path.is_file():
        raise RunDirectoryError(f"{run} is not a run directory: it has no config.yaml")
    config = load_config(path)
    if not path.read_bytes().strip():
        # For any other experiment this would mean that all values are the defaults; a run's names all of its values.
        raise RunDirectoryError(f"{path} is empty; restore it from a copy")
    return config


def _rewrite(path: Path, lines: Iterable[str]) -> None:
    """Replaces a file by lines that may be read from it."""
    with replacing(path) as file:
        file.writelines(line.encode() for line in lines)


def versions() -> dict[str, Any]:
    """Code commit, Python, packages and machine."""
    found = {package: package_version(package) or "not installed" for package in PACKAGES}
    return {"commit": code_commit(), "python": platform.python_version(), **found, "platform": platform.platform()}


def code_commit() -> str:
    """The checkout's commit, with `+` if files differ from it; `unknown` outside a checkout."""
    try:
        arguments = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+", "--abbrev=12"]
        done = subprocess.run(arguments, capture_output=True, text=True, errors="replace", check=True, timeout=5)
        return done.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
