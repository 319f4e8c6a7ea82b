"""The process that steps a share of the environments for `WorkerBackend`. It imports what the environments need, and nothing else.

It ends when its parent does: an idle worker sees its connection closed, and one in a step sees that it has another parent.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from envs.backends.place import Place
from envs.backends.rows import SharedRows
from envs.errors import SuiteError, portable
from envs.levels import Level
from envs.seeds import SeedSequences
from envs.task import TaskSuite
from envs.vector import Fault

PARENT_SECONDS = 0.5  # between two looks at the parent
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Those that end a run. They reach a whole process group, and the parent decides what they mean."""


class Setup(NamedTuple):
    """What a worker is told first."""

    registry: dict[str, Any]  # Gymnasium's, with environments that only the parent's code has registered
    suite: TaskSuite
    seeds: SeedSequences
    tolerant: bool

    def register(self) -> None:
        """Adds the parent's environments to Gymnasium's registry."""
        # Modules that register the same ones when they are imported are told so by a warning.
        warnings.filterwarnings("ignore", message=".*already in registry")
        for name, spec in self.registry.items():
            gymnasium.registry.setdefault(name, spec)


class Request(NamedTuple):
    """Environments to step."""

    rows: np.ndarray
    actions: tuple[np.dtype, tuple[int, ...]] | None  # type and shape of one action; None for the first reset


class Reply(NamedTuple):
    """What the shared memory does not hold of a step."""

    faults: list[tuple[int, Fault]]  # with their rows
    error: BaseException | None = None  # of the environment that was not replaced; -1 for one of the worker itself
    row: int = -1  # the row of the error


def main(channel: int, memory: int, parent: int) -> None:
    """Serves requests until the parent closes the connection.

    Args:
        channel: descriptor of the connection.
        memory: descriptor of the shared memory.
        parent: the parent's process id.
    """
    _leave_signals_to_parent()
    _end_with(parent)
    faulthandler.enable()
    sys.breakpointhook = _no_debugger
    connection = Connection(channel)
    try:
        share = _Share(connection.recv().fn, memory)
    except BaseException as error:
        connection.recv()
        connection.send(Reply([], _with_traceback(error)))
        return
    try:
        while True:
            connection.send(share.serve(connection.recv()))
    except (EOFError, OSError):  # the parent has closed the connection, or is gone
        share.close()


class _Share:
    """The environments of this process."""

    def __init__(self, setup: Setup, memory: int):
        setup.register()
        self._setup = setup
        self._rows = SharedRows(setup.suite, memory)
        self._places: list[Place] = []

    def serve(self, request: Request) -> Reply:
        """Steps the rows of a request one after the other; an error ends it."""
        rows = self._rows
        faults: list[tuple[int, Fault]] = []
        self._add_places()
        actions = [None] * len(request.rows) if request.actions is None else rows.read_actions(request.rows, *request.actions)
        for row, action in zip(request.rows.tolist(), actions, strict=True):
            rows.current = row
            place = self._places[row]
            place.level = self._level(row)
            try:
                result = place.attempt(action)
                rows.write_result(row, result)
            except BaseException as error:
                return Reply(faults, _with_traceback(error), row)
            finally:
                rows.current = -1
            rows.set_history(row, place.history)
            if result.fault is not None:
                faults.append((row, result.fault))
        return Reply(faults)

    def close(self) -> None:
        """Closes every environment."""
        for place in self._places:
            place.close()

    def _level(self, row: int) -> Level | None:
        """The level that the parent wants an environment to play from its next reset on."""
        space = self._setup.suite.tasks[self._places[row].task].level_parameters
        return self._rows.level(row, 0 if space is None else len(space.names))

    def _add_places(self) -> None:
        """Places for rows that the parent has added."""
        self._rows.look()
        setup = self._setup
        for row in range(len(self._places), len(self._rows)):
            task, number = self._rows.identity(row)
            self._places.append(Place(setup.suite, task, setup.seeds, number, setup.tolerant, self._rows.history(row)))


def _with_traceback(error: BaseException) -> BaseException:
    """The error as it can be sent to the parent, with its traceback as a note."""
    error.add_note(f"in a worker process:\n{''.join(traceback.format_exception(error))}".rstrip())
    return portable(error)


def _leave_signals_to_parent() -> None:
    """Handlers that do nothing, where ignored signals would stay ignored in programs that an environment starts."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # blocked by the parent until now


def _no_debugger(*args: Any, **kwargs: Any) -> None:
    raise SuiteError("breakpoint() was called in a worker process, which has no terminal; set suite.env_workers to 0")


def _end_with(parent: int) -> None:
    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
