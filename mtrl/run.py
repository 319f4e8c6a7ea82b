"""A run from start to end: steps of the trainer, with reports, checkpoints and signals between them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from envs import TaskSuite
from mtrl.checkpoint import CheckpointError, load_checkpoint, mark_best, newest_valid, resolve, save_checkpoint, save_policy, steps
from mtrl.config import ExperimentConfig
from mtrl.evaluation.aside import EvaluationAside, evaluated_score, evaluation_metrics
from mtrl.learner import NonFiniteError
from mtrl.run_directory import RunDirectory, code_commit
from mtrl.task_change import carry_over
from mtrl.training import Trainer

POLL_SECONDS = 0.2  # between two looks at an evaluation that is waited for


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
    aside = EvaluationAside(directory, config.evaluation)
    evaluated: dict[str, float] = {}  # not written yet
    try:
        with _signals() as received:
            while trainer.frames < config.total_frames and not received:
                trainer.step()
                for message in trainer.messages():
                    console.message(f"warning: {message}")
                evaluated |= _take_in(aside.poll(), trainer, directory, console)
                now = time.monotonic()
                if now - reported >= config.report_seconds:
                    reported, reported_frames = now, trainer.frames
                    _report(trainer, directory, console, evaluated)
                    evaluated = {}
                if aside.due(trainer.frames) or now - saved >= config.checkpoints.every_seconds:
                    saved = now
                    saved_whole = save(trainer, directory, console, aside.running)
                    return_free_memory()
                    if saved_whole and aside.due(trainer.frames):
                        aside.start(trainer.frames)
            code = 128 + received[0] if received else 0
            finished = save(trainer, directory, console, aside.running) and not received
            if config.evaluation.every_frames is not None and finished:
                evaluated |= _evaluate_last(aside, trainer, directory, console, received)
            if trainer.frames > reported_frames or evaluated:
                _report(trainer, directory, console, evaluated)
    except NonFiniteError as error:
        console.message(f"error: {error}")
        code = 1
    finally:
        aside.close()
        directory.close()
        console.close()
    return code


def return_free_memory() -> None:
    """Gives freed memory back to the system: batches differ in size, and glibc keeps the gaps between them (40 MiB per million frames)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def save(trainer: Trainer, directory: RunDirectory, console: Console, evaluating: int | None = None) -> bool:
    """Saves a checkpoint and its policy; a disk that refuses is a message, and training goes on.

    Args:
        trainer: whose state is saved.
        directory: where.
        console: told of a refusal.
        evaluating: a step that is being evaluated, and stays.

    Returns:
        whether it was saved.
    """
    config = trainer.config
    score = trainer.mean_score
    _write_decisions(trainer, directory, console)  # before the checkpoint, so that a resumed run's log has no gap
    try:
        save_checkpoint(
            directory.checkpoints,
            trainer.frames,
            trainer.state_dict(),
            tasks=trainer.suite.names,
            keep=config.checkpoints.keep,
            score=score if config.evaluation.every_frames is None else None,  # else `best` is for evaluations to say
            protected=() if evaluating is None else (evaluating,),
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
        return False
    return True


def resume(trainer: Trainer, directory: RunDirectory, console: Console, which: str = "latest", *, allow_task_change: bool = False) -> bool:
    """Restores every component from the newest whole checkpoint, or from the one that `which` names.

    Args:
        trainer: what is restored.
        directory: the run.
        console: told what was restored.
        which: `latest`, `best` or a number of frames.
        allow_task_change: whether a checkpoint of other tasks will do: what it knows of a task goes to the task of that name.

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
    before, now = loaded.manifest.tasks, trainer.suite.names
    if before == now:
        trainer.load_state_dict(loaded.components)
        directory.forget_after(trainer.frames)
    elif allow_task_change:
        trainer.load_state_dict(carry_over(loaded.components, before, trainer.config, trainer.suite))
        trainer.tasks_changed()
        directory.forget_after(trainer.frames)
        directory.begin_decisions(trainer.frames)
        new, gone = [name for name in now if name not in before], [name for name in before if name not in now]
        console.message(f"tasks have changed: new {', '.join(new) or 'none'}; gone {', '.join(gone) or 'none'}; the others go on")
    else:
        raise CheckpointError(
            f"{loaded.path} was trained on {', '.join(before)}, but this experiment has {', '.join(now)}; "
            "--allow-task-change goes on with the tasks that both have"
        )
    console.message(f"resumed {loaded.path} at {trainer.frames:,} frames")
    return True


def _take_in(found: dict[str, Any] | str | None, trainer: Trainer, directory: RunDirectory, console: Console) -> dict[str, float]:
    """An evaluation's figures, and `best` if they are the best so far."""
    if found is None or isinstance(found, str):
        if found is not None:
            console.message(f"warning: {found}")
        return {}
    trainer.statistics.add_evaluation(found)
    best = evaluated_score(directory.path, (directory.checkpoints / "best").resolve().name)
    value = found["score_mean"]["value"]
    if best is None or value > best:
        try:
            mark_best(directory.checkpoints, found["step"])
        except CheckpointError as error:
            console.message(f"warning: {error}")
    console.message(
        f"evaluated step {found['step']:,}: mean score {value:.3f}" + ("" if best is None or value > best else f", best {best:.3f}")
    )
    return evaluation_metrics(found)


def _evaluate_last(
    aside: EvaluationAside, trainer: Trainer, directory: RunDirectory, console: Console, received: list[int]
) -> dict[str, float]:
    """Waits for the evaluation that is going on, and for one of the last policy; a signal ends the waiting."""
    console.message("evaluating the last policy")
    figures: dict[str, float] = {}
    frames = trainer.frames
    if aside.running is None:
        aside.start(frames)
    while (step := aside.running) is not None and not received:
        time.sleep(POLL_SECONDS)
        figures |= _take_in(aside.poll(), trainer, directory, console)
        if aside.running is None and step != frames:
            aside.start(frames)
    return figures


def _report(trainer: Trainer, directory: RunDirectory, console: Console, evaluated: dict[str, float]) -> None:
    _write_decisions(trainer, directory, console)
    metrics = trainer.metrics() | evaluated
    console.update(metrics)
    try:
        directory.write_metrics(metrics, trainer.suite)
    except OSError as error:
        console.message(f"warning: cannot write metrics to {directory.path}: {error.strerror}; training goes on")


def _write_decisions(trainer: Trainer, directory: RunDirectory, console: Console) -> None:
    try:
        directory.write_decisions(trainer.decisions())
    except OSError as error:
        console.message(f"warning: cannot write the curriculum's decisions to {directory.path}: {error.strerror}; training goes on")


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
