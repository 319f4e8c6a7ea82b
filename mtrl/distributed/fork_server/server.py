"""The fork server's process.

python -m mtrl.distributed.fork_server.server SOCKET PARENT MODULES...
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import random
import runpy
import signal
import socket
import sys
from typing import Any, NamedTuple

WAITING = 1024  # requests; Ray starts as many workers at once as there are cores
REQUEST_SECONDS = 10.0  # for a request to arrive as a whole
PR_SET_PDEATHSIG = 1
STANDARD = 3  # standard input, output and error


class Request(NamedTuple):
    """A worker to be forked."""

    command: list[str]  # its script and options
    folder: str
    variables: dict[str, str]
    badness: str  # for the kernel's choice of a victim when memory runs out
    files: list[int]  # its standard input, output and error


def main() -> None:
    """Imports the modules and forks workers until the parent ends.

    Requests that arrive before have to wait: with this process everything is imported once, also on two cores.
    """
    path, parent, *modules = sys.argv[1:]
    _end_with(int(parent))
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):  # the parent is asked to end; this process ends with it
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{path}.new")
        listening.listen(WAITING)
        os.rename(f"{path}.new", path)
        _import(modules)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel forgets processes that have ended
        if _draws_are_alike():
            sys.exit(1)  # workers with the same identities would take each other's objects; so each has to import by itself
        gc.collect()
        gc.freeze()  # or the collector would write to all pages, and none would be shared
        request = _serve(listening)
    _become(request)


def _import(modules: list[str]) -> None:
    """Imports the modules without a draw from the generator of Ray's core, which cannot be seeded anew after a fork.

    A class that is made an actor draws an identity, and RLlib's imports have such classes.
    """
    with contextlib.suppress(Exception):  # a worker will say it, where it is needed
        importlib.import_module("ray._private.workers.default_worker")
        import ray.actor

        core = ray.actor.ActorClassID
        ray.actor.ActorClassID = type("ActorClassID", (), {"from_random": lambda: core(os.urandom(core.size()))})
        from envs.deferred_imports import import_package

        for module in modules:
            with contextlib.suppress(Exception):
                import_package(module)
        ray.actor.ActorClassID = core


def _draws_are_alike() -> bool:
    """Whether two forks of this process would draw the same identity from Ray's core."""
    import ray

    drawn = []
    for _ in range(2):
        ours, theirs = os.pipe()
        if os.fork() == 0:
            os.write(theirs, ray.UniqueID.from_random().binary())
            os._exit(0)
        os.close(theirs)
        drawn.append(os.read(ours, 1024))
        os.close(ours)
    return drawn[0] == drawn[1]


def _serve(listening: socket.socket) -> Request:
    """Forks a worker for each request, and returns in the worker."""
    while True:
        connection, _ = listening.accept()
        with connection:
            try:
                request = _receive(connection)
            except (OSError, ValueError):
                continue
            worker = os.fork()
            if worker == 0:
                return request
            for file in request.files:
                os.close(file)
            with contextlib.suppress(OSError):
                connection.sendall(b"1")


def _receive(connection: socket.socket) -> Request:
    """Reads one request.

    Raises:
        ValueError: it does not hold what a request holds.
        OSError: it does not arrive.
    """
    connection.settimeout(REQUEST_SECONDS)
    text, files, _, _ = socket.recv_fds(connection, 1 << 16, STANDARD)
    while not text.endswith(b"\n"):
        more = connection.recv(1 << 16)
        if not more:
            raise ValueError("the request ends too early")
        text += more
    request: dict[str, Any] = json.loads(text)
    return Request(**request, files=files)


def _become(request: Request) -> None:
    """Makes this process what Ray would have started, and runs the worker's script."""
    os.setpgid(0, 0)  # Ray signals a worker together with what it has started
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for standard, file in enumerate(request.files):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.variables)
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write(request.badness)
    _seed_generators()
    _follow_assigned_cores()
    sys.argv = request.command
    sys.path[0] = os.path.dirname(request.command[0])
    runpy.run_path(request.command[0], run_name="__main__")


def _seed_generators() -> None:
    """Draws new states of random generators, which would be alike in all workers."""
    import numpy as np
    import torch

    random.seed()
    np.random.seed()
    torch.seed()


def _follow_assigned_cores() -> None:
    """Lets PyTorch take as many threads as Ray assigns cores to the worker's first task or actor.

    Ray says it by a variable that is read when PyTorch is loaded, which it is already here.
    """
    import ray._private.utils
    import torch

    set_variable = ray._private.utils.set_omp_num_threads_if_unset

    def set_threads() -> bool:
        changed: bool = set_variable()
        if changed:
            torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
            ray._private.utils.set_omp_num_threads_if_unset = set_variable
        return changed

    ray._private.utils.set_omp_num_threads_if_unset = set_threads


def _end_with(parent: int) -> None:
    """Lets the kernel end this process with its parent."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it has ended already
        sys.exit(1)


if __name__ == "__main__":
    main()
