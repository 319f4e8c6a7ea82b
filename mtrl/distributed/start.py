"""Runners that do not start: what they wait for, and what they die of."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import ray

from mtrl.config import ConfigError

LOOK_SECONDS = 1.0  # between two looks at runners that start
SILENT_SECONDS = 30.0  # between two lines about what is waited for
ANSWER_SECONDS = 60.0  # for Ray to say what a runner died of
RESTARTS = 5  # of one runner by Ray, before it has started once

logger = logging.getLogger("mtrl")


class StartError(ConfigError):
    """Runners do not start. The message has the reason."""


@contextlib.contextmanager
def watched_start(runners: Callable[[], list[Any]]) -> Iterator[None]:
    """Watches runners while the block waits for them.

    Ray waits without a word while other jobs use the cores or while nodes come, and starts a process again that ends itself, for ever. A
    line every `SILENT_SECONDS` says what is free, and a runner that Ray has started again `RESTARTS` times is ended for good.

    Args:
        runners: gives the actors that there are.
    """
    done = threading.Event()

    def watch() -> None:
        said = time.monotonic()
        while not done.wait(LOOK_SECONDS):
            with contextlib.suppress(Exception):  # Ray may end meanwhile
                for runner in runners():
                    if _restarts(runner) >= RESTARTS:
                        ray.kill(runner)
                if time.monotonic() - said >= SILENT_SECONDS:
                    said = time.monotonic()
                    logger.warning("waiting for runners to start: Ray has %s", free_resources())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def death_of(runners: list[Any]) -> str | None:
    """What ended the first of the runners that is dead, in one line; None if all answer."""
    for runner in runners:
        restarts = _restarts(runner)
        try:
            ray.get(runner.assert_healthy.remote(), timeout=ANSWER_SECONDS)
        except (ray.exceptions.RayError, TimeoutError) as error:
            if restarts >= RESTARTS:
                return f"its process ended {restarts + 1} times before it answered"
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            # A traceback says in its last line what happened; Ray's own message needs all of its lines.
            return lines[-1] if any("Traceback" in line or line.startswith("File ") for line in lines) else " ".join(lines)[:600]
    return None


def _restarts(runner: Any) -> int:
    return int(ray._private.state.actors(runner._actor_id.hex()).get("NumRestarts", 0))


def free_resources() -> str:
    """What is free of the cluster's cores and GPUs."""
    have, free = ray.cluster_resources(), ray.available_resources()
    return ", ".join(f"{free.get(kind, 0):g} of {have[kind]:g} {kind} free" for kind in ("CPU", "GPU") if kind in have)
