"""Gymnasium environments stepped by several processes, with the results of the plain loop.

Each worker has a share of the environments; what it does with them is what `GymnasiumBackend` does. Gymnasium's own `AsyncVectorEnv` steps
all of its environments or none, and closes all when one fails, so it can neither pause a slot nor replace an environment.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import NamedTuple

import gymnasium
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper

from envs.backends.rows import SharedRows
from envs.backends.worker import SIGNALS, Reply, Request, Setup
from envs.errors import SuiteError, TaskFault
from envs.levels import Level
from envs.seeds import SeedSequences
from envs.task import TaskSuite
from envs.vector import Arrays, BackendStep, Fault

LOOK_SECONDS = 0.05  # between two looks at the task that is being stepped
CLOSE_SECONDS = 3.0  # for a worker to close its environments
IDLE_DEATHS = 3  # of a worker between two steps, in a row, which something else than its environments has ended
START = "from envs.backends.worker import main; main(*map(int, sys.argv[2:]))"


class WorkerBackend:
    """Steps environments in worker processes.

    A worker that dies in an environment's step is a fault of that task. A tolerant backend starts another worker with new environments in
    place of all that the dead one had: their steps are lost.

    Args:
        suite: the tasks.
        seeds: of their environments.
        num_workers: processes.
        tolerant: whether environments that fail are replaced.

    Raises:
        SuiteError: the suite cannot be used in another process.
    """

    def __init__(self, suite: TaskSuite, seeds: SeedSequences, num_workers: int, tolerant: bool = False):
        self._suite = suite
        self._tolerant = tolerant
        self._homes: list[list[tuple[int, int]]] = [[] for _ in suite.tasks]  # of each environment: its worker, and its row there
        self._new_levels: dict[tuple[int, int], Level] = {}  # of environments that are not there yet, by task and number
        self._plan: list[_Part] = []  # for the newest counts
        self._planned = np.empty(0, np.int64)
        self._earlier: list[Fault] = []  # faults since the last step
        self.marker = np.full(1, -1, np.int64)
        self._workers: list[_Worker] = []
        nothing = np.empty(0, np.int64)
        try:
            setup = packed(suite, seeds, tolerant)
            self._workers += [_Worker(suite, setup) for _ in range(num_workers)]
            for worker in self._workers:  # all of them start at the same time
                worker.send(Request(nothing, None))
            self._finish([_Part(worker, nothing, nothing) for worker in self._workers])
        except Exception as error:
            self.close()
            raise SuiteError(f"{suite.name} cannot be stepped in another process ({error}); set suite.env_workers to 0") from error

    def grow(self, task: int, count: int) -> Arrays:
        """Adds environments of a task, spread over the workers, and gives their first observations."""
        homes = self._homes[task]
        own = np.bincount([worker for worker, _ in homes], minlength=len(self._workers))
        total = np.array([len(worker.rows) for worker in self._workers])
        numbers: list[list[int]] = [[] for _ in self._workers]
        for number in range(len(homes), len(homes) + count):
            chosen = int(np.lexsort((total, own))[0])  # the fewest of this task, then the fewest of all
            numbers[chosen].append(number)
            homes.append((chosen, int(total[chosen])))
            own[chosen] += 1
            total[chosen] += 1
        self._planned = np.empty(0, np.int64)
        first = len(homes) - count
        parts = []
        for worker, given in zip(self._workers, numbers, strict=True):
            if given:
                rows = worker.rows.append([task] * len(given), given)
                for row, number in zip(rows.tolist(), given, strict=True):
                    if (task, number) in self._new_levels:
                        worker.rows.set_level(row, self._new_levels.pop((task, number)))
                parts.append(_Part(worker, rows, np.array(given) - first))
                worker.send(Request(rows, None))
        self._earlier += self._finish(parts)
        return self._observations(parts, count)

    def set_level(self, task: int, place: int, level: Level) -> None:
        """The level of an environment's episodes from its next reset on."""
        if place < len(self._homes[task]):
            worker, row = self._homes[task][place]
            self._workers[worker].rows.set_level(row, level)
        else:
            self._new_levels[task, place] = level

    def step(self, counts: np.ndarray, actions: np.ndarray) -> BackendStep:
        """Steps the first `counts[task]` environments of each task, or resets those whose episode has ended."""
        if not np.array_equal(counts, self._planned):
            self._plan, self._planned = self._parts(counts), counts.copy()
        parts, actions, total = self._plan, np.asarray(actions), int(counts.sum())
        for worker, rows, places in parts:
            worker.rows.write_actions(rows, actions[places])
            worker.send(Request(rows, (actions.dtype, actions.shape[1:])))
        faults = self._finish(parts)
        earlier, self._earlier = self._earlier, []
        rewards = np.empty(total, np.float32)
        flags = {name: np.empty(total, bool) for name in ("terminated", "truncated", "success", "lost")}
        for worker, rows, places in parts:
            rewards[places] = worker.rows.read("reward", rows)
            for name, array in flags.items():
                array[places] = worker.rows.read(name, rows)
        return BackendStep(self._observations(parts, total), rewards, **flags, faults=earlier + faults)

    def close(self) -> None:
        """Ends the workers, which close their environments."""
        for worker in self._workers:
            worker.hang_up()
        end = time.monotonic() + CLOSE_SECONDS
        for worker in self._workers:
            worker.end(end)

    def _parts(self, counts: np.ndarray) -> list[_Part]:
        """The active rows of each worker, and their places in the order of tasks."""
        active = [home for task, count in enumerate(counts.tolist()) for home in self._homes[task][:count]]
        owners, rows = np.array(active).T
        found = [(worker, np.flatnonzero(owners == number)) for number, worker in enumerate(self._workers)]
        return [_Part(worker, rows[places], places) for worker, places in found if len(places)]

    def _finish(self, parts: list[_Part]) -> list[Fault]:
        """Waits for the replies of all parts' workers, and gives the faults in the order of places.

        Raises:
            Exception: the first environment's error that is not tolerated.
            TaskFault: a worker died in an environment, and that is not tolerated.
            RuntimeError: workers die of something else.
        """
        faults: dict[int, Fault] = {}
        errors: dict[int, BaseException] = {}
        waiting = {part.worker.connection: part for part in parts}
        while waiting:
            ready = wait(list(waiting), LOOK_SECONDS)
            self.marker[0] = next((task for part in waiting.values() if (task := part.worker.task) >= 0), -1)
            for connection in ready:
                part = waiting.pop(connection)  # type: ignore[call-overload]
                place_of = dict(zip(part.rows.tolist(), part.places.tolist(), strict=True))
                try:
                    reply = part.worker.receive()
                except (EOFError, OSError):
                    row, reason = part.worker.bury()
                    task = part.worker.rows.identity(row)[0] if row >= 0 else -1
                    if not self._tolerant and row >= 0:
                        errors[place_of[row]] = TaskFault(task, self._suite.names[task], reason)
                    elif not self._tolerant or part.worker.idle_deaths > IDLE_DEATHS:
                        errors[-1] = RuntimeError(reason)
                    else:
                        if row >= 0:
                            faults[place_of[row]] = Fault(task, reason, "")
                        part.worker.replace(row)
                        waiting[part.worker.connection] = part
                    continue
                faults |= {place_of[row]: fault for row, fault in reply.faults}
                if reply.error is not None:
                    errors[place_of.get(reply.row, -1)] = reply.error
        self.marker[0] = -1
        if errors:
            raise errors[min(errors)]
        return [faults[place] for place in sorted(faults)]

    def _observations(self, parts: Iterable[_Part], count: int) -> Arrays:
        obs = {name: np.empty((count, *(space.shape or ())), space.dtype) for name, space in self._suite.observation_space.items()}
        for worker, rows, places in parts:
            for name, array in worker.rows.read_obs(rows).items():
                obs[name][places] = array
        return obs


def packed(suite: TaskSuite, seeds: SeedSequences, tolerant: bool) -> bytes:
    """What a worker has to know, for `pickle.loads(...).fn` in another process.

    Raises:
        Exception: something in the suite cannot leave this process.
    """
    return pickle.dumps(CloudpickleWrapper(Setup(dict(gymnasium.registry), suite, seeds, tolerant)))  # type: ignore[arg-type]


def python(code: str, *arguments: int) -> list[str]:
    """The command that runs code in a new interpreter, which finds modules where this one does; the arguments begin at `sys.argv[2]`."""
    folders = json.dumps([str(folder) for folder in sys.path])
    return [sys.executable, "-P", "-c", f"import json, sys; sys.path[:] = json.loads(sys.argv[1]); {code}", folders, *map(str, arguments)]


class _Part(NamedTuple):
    """What one worker does in a step."""

    worker: _Worker
    rows: np.ndarray
    places: np.ndarray  # of these rows in the step


class _Worker:
    """A process with a share of the environments, or the next one in its place."""

    def __init__(self, suite: TaskSuite, setup: bytes):
        self.rows = SharedRows(suite)
        self.idle_deaths = 0
        self.connection: Connection
        self._process: subprocess.Popen[bytes]
        self._setup = setup
        self._new = True  # not set up
        self._requests = 0  # without a reply
        self._start()

    @property
    def task(self) -> int:
        """The task that is being stepped, -1 between steps."""
        row = self.rows.current
        return self.rows.identity(row)[0] if row >= 0 else -1

    def send(self, request: Request) -> None:
        """Asks for a step. Replies to earlier requests that nobody waited for, after an interrupt, are dropped."""
        with contextlib.suppress(EOFError, OSError):  # of a process that has died, which `receive` will tell
            while self._requests:
                self.connection.recv()
                self._requests -= 1
        self._request = request
        self._ask()

    def receive(self) -> Reply:
        """The reply to the last request.

        Raises:
            EOFError, OSError: the process has died.
        """
        reply = self.connection.recv()
        self._requests -= 1
        self.idle_deaths = 0
        return reply

    def bury(self) -> tuple[int, str]:
        """The row in which the process died, -1 if in none, and of what."""
        row = self.rows.current
        self.idle_deaths = self.idle_deaths + 1 if row < 0 else 0
        self.connection.close()
        code = self._ended(CLOSE_SECONDS)  # it has closed its connection, or is gone
        self.rows.current = -1
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return row, f"the worker process that stepped it {how}" if row >= 0 else f"a worker process {how} between steps of environments"

    def replace(self, row: int) -> None:
        """Starts another process, with new environments everywhere, and repeats the last request.

        Args:
            row: where the last one died, which rests as a `Place` does after failures in a row.
        """
        for each in range(len(self.rows)):
            history = self.rows.history(each)
            if each == row:
                history.failed()
                history.resting = history.rest + 1 if history.in_a_row > 1 else 0  # the repeated step is the first of them
            else:
                history.replaced += 1
            self.rows.set_history(each, history)
        self._start()
        self._ask()

    def hang_up(self) -> None:
        """Lets the process close its environments and end."""
        self.connection.close()

    def end(self, latest: float) -> None:
        """Waits for the process until a time, and kills it then."""
        self._ended(max(0.0, latest - time.monotonic()))
        self.rows.close()

    def _ended(self, seconds: float) -> int:
        """The exit code of the process, which is killed after some seconds."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def _ask(self) -> None:
        with contextlib.suppress(OSError):  # of a process that has died, which `receive` will tell
            if self._new:
                self.connection.send_bytes(self._setup)
                self._new = False
            self.connection.send(self._request)
        self._requests += 1

    def _start(self) -> None:
        """Starts the process. Until it can leave signals to this one, they are blocked there."""
        self._new, self._requests = True, 0
        self.connection, theirs = Pipe()
        files = (theirs.fileno(), self.rows.file)
        command = python(START, *files, os.getpid())
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=files)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            theirs.close()
