"""How Ray starts the processes of a node on this machine: whom it listens to, which processes there are, and where workers come from.

Ray has no options for any of it, so these blocks change its functions while it starts.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from typing import Any

from ray._private import node, parameter, ray_constants, services

from mtrl.distributed.fork_server import ForkServer
from mtrl.distributed.termination import without_block

WORKER_COMMAND = "--python_worker_command"  # an option of a node's process


@contextlib.contextmanager
def as_ours(forks: ForkServer | None) -> Iterator[None]:
    """For Ray that is started for one run on this machine.

    Args:
        forks: where workers come from; None lets Ray start them.
    """
    with _on_loopback(), _without_monitors(), _in_own_sessions(), workers_from(forks):
        yield


@contextlib.contextmanager
def workers_from(forks: ForkServer | None) -> Iterator[None]:
    """Lets the workers of the node that is started in the block be forked.

    Args:
        forks: where workers come from; None lets Ray start them.
    """

    def start(original: Callable[..., Any], command: list[str], options: dict[str, Any]) -> Any:
        return original(command if forks is None else [_forking(argument, forks) for argument in command], **options)

    with _processes_started_by(start):
        yield


@contextlib.contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Gives each process that Ray starts a session of its own.

    `timeout`, Slurm, systemd and a terminal that is closed send their signal to our whole process group. Ray's processes would end before
    the checkpoint is written. They end with this process in any case: Ray has the kernel kill them when it dies.
    """

    def start(original: Callable[..., Any], command: list[str], options: dict[str, Any]) -> Any:
        with without_block():
            return original(command, **options, start_new_session=True)

    with _processes_started_by(start):
        yield


@contextlib.contextmanager
def _processes_started_by(start: Callable[[Callable[..., Any], list[str], dict[str, Any]], Any]) -> Iterator[None]:
    """Lets Ray start its processes by `start`, which is given what starts them now, the command and its options."""
    original: Any = services.ConsolePopen
    services.ConsolePopen = lambda command, **options: start(original, command, options)
    try:
        yield
    finally:
        services.ConsolePopen = original


def _forking(argument: str, forks: ForkServer) -> str:
    name, mark, command = argument.partition("=")
    return f"{name}={forks.worker_command(command)}" if name == WORKER_COMMAND and mark else argument


@contextlib.contextmanager
def _without_monitors() -> Iterator[None]:
    """Lets Ray start neither its autoscaler, nor the process that copies logs to the driver, nor the server of its dashboard. We ask for
    none of them, and each takes half a second of a core.
    """
    parameters, serve = parameter.RayParams, node.Node.start_api_server
    parameter.RayParams = functools.partial(parameters, no_monitor=True, include_log_monitor=False)
    node.Node.start_api_server = lambda *arguments, **options: None
    try:
        yield
    finally:
        parameter.RayParams, node.Node.start_api_server = parameters, serve


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray listen on 127.0.0.1 alone.

    It would replace that address by one that others can reach, and listen on all of them, unless it takes this for a platform without
    clusters, whose firewall it spares. It has read the variable when it was imported; its processes read it when they start.
    """
    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    os.environ[variable], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[variable]
        ray_constants.ENABLE_RAY_CLUSTER = before
