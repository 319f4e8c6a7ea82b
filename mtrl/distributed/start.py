"""Runners that do not start: what they wait for, and what they die of."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from mtrl.config import ConfigError

LOOK_SECONDS = 1.0  # between two looks at runners that start
SILENT_SECONDS = 30.0  # between two lines about what is waited for
ANSWER_SECONDS = 60.0  # for Ray to say what a runner died of
STUCK_SECONDS = 300.0  # for a runner's process to come up where there are cores for it; a node may have to fetch packages first
STOP_SECONDS = 5.0  # for runners to close their environments
RESTARTS = 5  # of one runner by Ray, before it has started once

logger = logging.getLogger("mtrl")


class StartError(ConfigError):
    """Runners do not start. The message has the reason."""


class StartWatch:
    """Watches runners that start."""

    def __init__(self, runners: Callable[[], list[Any]], cores: float):
        self.reason: str | None = None
        """Why the runners were given up."""
        self._runners, self._cores = runners, cores
        self._spoke = self._stuck = time.monotonic()

    def look(self) -> None:
        """Says what is waited for, and ends runners that will not start."""
        now, runners = time.monotonic(), self._runners()
        for runner in runners:
            if int(_state(runner).get("NumRestarts", 0)) >= RESTARTS:
                ray.kill(runner)
        if now - self._spoke >= SILENT_SECONDS:
            self._spoke = now
            logger.warning("waiting for runners to start: Ray has %s", free_resources())
        waiting = [runner for runner in runners if _state(runner).get("State") != "ALIVE"]
        has_cores = ray.available_resources().get("CPU", 0.0) >= self._cores
        if not any(has_cores or _state(runner).get("Pid") for runner in waiting):
            self._stuck = now
        elif now - self._stuck >= STUCK_SECONDS and self.reason is None:
            logs = ray._private.worker._global_node.get_logs_dir_path()
            self.reason = (
                f"its process, which has the cores it needs, was not ready within {STUCK_SECONDS:.0f} s; Ray cannot start processes, or "
                f"what they import waits for something. See Ray's logs in {logs}"
            )
            for runner in waiting:
                ray.kill(runner)


@contextlib.contextmanager
def watched_start(runners: Callable[[], list[Any]], cores: float) -> Iterator[StartWatch]:
    """Watches runners while the block waits for them.

    Ray waits without a word while other jobs use the cores or while nodes come, and starts a process again that ends itself, for ever. A
    line every `SILENT_SECONDS` says what is free. A runner that Ray has started again `RESTARTS` times is ended for good, and so is one
    that has its cores and is not ready within `STUCK_SECONDS`.

    Args:
        runners: gives the actors that there are.
        cores: that each of them needs.
    """
    done, watched = threading.Event(), StartWatch(runners, cores)

    def watch() -> None:
        while not done.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):  # Ray may end meanwhile
                watched.look()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield watched
    finally:
        done.set()
        thread.join()


def death_of(runners: list[Any]) -> str | None:
    """What ended the first of the runners that is dead, in one line; None if all answer."""
    for runner in runners:
        restarts = int(_state(runner).get("NumRestarts", 0))
        try:
            ray.get(runner.assert_healthy.remote(), timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            if restarts >= RESTARTS:
                return f"its process ended {restarts + 1} times before it answered"
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # A traceback says in its last line what happened; Ray's own message needs all of its lines.
            return lines[-1] if any("Traceback" in line or line.startswith("File ") for line in lines) else " ".join(lines)[:600]
    return None


def end_of(runner: Any) -> str | None:
    """What ended a runner that Ray does not start again, in one line; None for one that is alive or is being started."""
    return death_of([runner]) if _state(runner).get("State") == "DEAD" else None


def stop_runners(group: EnvRunnerGroup) -> None:
    """Stops runners, which close their environments, and ends those that do not answer: one that never started, or that hangs."""
    with contextlib.suppress(Exception):  # whatever they say, they are ended
        group.foreach_env_runner(lambda runner: runner.stop(), local_env_runner=False, timeout_seconds=STOP_SECONDS)
    group._worker_manager.clear()


def _state(runner: Any) -> dict[str, Any]:
    return dict(ray._private.state.actors(runner._actor_id.hex()))


def free_resources() -> str:
    """What is free of the cluster's cores and GPUs."""
    have, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in have)
