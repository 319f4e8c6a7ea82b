"""A run from start to end: steps of the trainer, with reports, checkpoints and signals between them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Protocol

from envs import TaskSuite
from mtrl.checkpoint import CheckpointError, load_checkpoint, newest_valid, resolve, save_checkpoint, save_policy, steps
from mtrl.config import ExperimentConfig
from mtrl.learner import NonFiniteError
from mtrl.run_directory import RunDirectory, code_commit
from mtrl.training import Trainer


class Console(Protocol):
    """Where a person looks."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """The run begins."""

    def update(self, metrics: dict[str, float]) -> None:
        """New figures."""

    def message(self, text: str) -> None:
        """One sentence."""

    def close(self) -> None:
        """The run has ended."""


def run_training(trainer: Trainer, directory: RunDirectory, console: Console) -> int:
    """Trains to the experiment's `total_frames`, or until SIGINT or SIGTERM, and saves a checkpoint at the end.

    Returns:
        the exit code: 0, 130 after SIGINT, 143 after SIGTERM, 1 after too many updates that were not finite.
    """
    config = trainer.config
    console.start(config, trainer.suite, directory.path)
    reported = saved = time.monotonic()
    code, reported_frames = 0, -1
    try:
        with _signals() as received:
            while trainer.frames < config.total_frames and not received:
                trainer.step()
                for message in trainer.messages():
                    console.message(f"warning: {message}")
                now = time.monotonic()
                if now - reported >= config.report_seconds:
                    reported, reported_frames = now, trainer.frames
                    _report(trainer, directory, console)
                if now - saved >= config.checkpoints.every_seconds:
                    saved = now
                    save(trainer, directory, console)
            code = 128 + received[0] if received else 0
            if trainer.frames > reported_frames:
                _report(trainer, directory, console)
            save(trainer, directory, console)
    except NonFiniteError as error:
        console.message(f"error: {error}")
        code = 1
    finally:
        directory.close()
        console.close()
    return code


def save(trainer: Trainer, directory: RunDirectory, console: Console) -> None:
    """Saves a checkpoint and its policy; a disk that refuses is a message, and training goes on."""
    config = trainer.config
    score = trainer.mean_score
    try:
        save_checkpoint(
            directory.checkpoints,
            trainer.frames,
            trainer.state_dict(),
            tasks=trainer.suite.names,
            keep=config.checkpoints.keep,
            score=score,
        )
        description = {
            "suite": trainer.suite.name,
            "tasks": list(trainer.suite.names),
            "model": config.model.model_dump(),
            "backend": config.suite.backend,
            "frames": trainer.frames,
            "version": trainer.updates,
            "training_score": score,
            "config": config.name,
            "commit": code_commit(),
        }
        save_policy(directory.policies, trainer.frames, trainer.policy_weights(), description, keep=steps(directory.checkpoints))
    except CheckpointError as error:
        console.message(f"warning: {error}; training goes on, and the next try is in {config.checkpoints.every_seconds:.0f} s")


def resume(trainer: Trainer, directory: RunDirectory, console: Console, which: str = "latest") -> bool:
    """Restores every component from the newest whole checkpoint, or from the one that `which` names.

    Returns:
        whether there was a checkpoint.

    Raises:
        CheckpointError: the named one is missing or damaged, all are damaged, or it was trained on other tasks.
    """
    if which == "latest":
        loaded, problems = newest_valid(directory.checkpoints)
        for problem in problems:
            console.message(f"warning: {problem}")
        if loaded is None:
            if problems:
                raise CheckpointError(f"no checkpoint in {directory.checkpoints} is whole")
            return False
    else:
        loaded = load_checkpoint(resolve(directory.checkpoints, which))
    if loaded.manifest.tasks != trainer.suite.names:
        raise CheckpointError(
            f"{loaded.path} was trained on {', '.join(loaded.manifest.tasks)}, but this experiment has {', '.join(trainer.suite.names)}"
        )
    trainer.load_state_dict(loaded.components)
    directory.forget_after(trainer.frames)
    console.message(f"resumed {loaded.path} at {trainer.frames:,} frames")
    return True


def _report(trainer: Trainer, directory: RunDirectory, console: Console) -> None:
    metrics = trainer.metrics()
    console.update(metrics)
    try:
        directory.write_metrics(metrics, trainer.suite)
    except OSError as error:
        console.message(f"warning: cannot write metrics to {directory.path}: {error.strerror}; training goes on")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the first SIGINT or SIGTERM is put into; a second one is left to what was there before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        for known, handler in previous.items():
            signal.signal(known, handler)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
