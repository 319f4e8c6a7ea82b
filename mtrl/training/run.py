"""A run from start to end: steps of the trainer, with reports, checkpoints and signals between them."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mtrl.evaluation.background import BackgroundEvaluation, evaluated_score, evaluation_metrics
from mtrl.learning.learner import LearnerLostError, NonFiniteError
from mtrl.storage.checkpoint import CheckpointError, mark_best, newest_valid
from mtrl.storage.mirror import Mirror
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.console import Console
from mtrl.training.saving import save, write_decisions
from mtrl.training.trainer import Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)  # the last is what Slurm's jobs ask to be warned with
POLL_SECONDS = 0.2  # between two looks at an evaluation that is waited for


def run_training(trainer: Trainer, directory: RunDirectory, console: Console) -> int:
    """Trains to the experiment's `total_frames`, or until one of `SIGNALS`, and saves a checkpoint at the end.

    Returns:
        the exit code: 0, 130 after SIGINT, 143 after SIGTERM, 138 after SIGUSR1, 1 after too many updates that were not finite or losses of
        learners.
    """
    console.start(trainer.config, trainer.suite, directory.path)
    run = _Run(trainer, directory, console)
    try:
        with _signals() as received:
            return run.to_the_end(received)
    except (NonFiniteError, LearnerLostError) as error:
        console.message(f"error: {error}")
        return 1
    finally:
        run.close()
        directory.close()
        console.close()


class _Run:
    """What lies between the trainer's steps."""

    def __init__(self, trainer: Trainer, directory: RunDirectory, console: Console):
        self.background = BackgroundEvaluation(directory, trainer.config.evaluation)
        self._trainer, self._directory, self._console = trainer, directory, console
        self._config = trainer.config
        self._reported = self._saved = time.monotonic()
        self._reported_frames = -1
        self._evaluated: dict[str, float] = {}  # not written yet
        checkpoints = trainer.config.checkpoints
        self._mirror = Mirror(checkpoints.copy_to, checkpoints.keep) if checkpoints.copy_to is not None else None
        self._losses = 0  # of learners since the newest checkpoint
        # What to go back to before there is a checkpoint; nobody needs it whose learner lives in this process.
        self._beginning = trainer.state_dict() if trainer.config.learners.num_learners else None

    def to_the_end(self, received: list[int]) -> int:
        """Trains until there are enough frames or `received` holds a signal; returns the exit code."""
        finished = None
        while finished is None:
            try:
                while self._trainer.frames < self._config.total_frames and not received:
                    self._trainer.step()
                    self._between_steps()
                self._hear_of_copy(wait=True)  # so that the last one finds the way free
                if self._trainer.frames > self._reported_frames:
                    self._report()  # before the copy, which takes the curve along
                finished = self._save() and not received
            except LearnerLostError as lost:
                self._recover(lost)
        if self._config.evaluation.every_frames is not None and finished:
            self._evaluated |= _evaluate_last(self.background, self._trainer, self._directory, self._console, received)
        if self._evaluated:
            self._report()
        self._hear_of_copy(wait=True)
        return 128 + received[0] if received else 0

    def close(self) -> None:
        """Ends what goes on beside the training."""
        self.background.close()
        if self._mirror is not None:
            self._mirror.close()

    def _between_steps(self) -> None:
        trainer, now = self._trainer, time.monotonic()
        self._hear_of_copy()
        for message in trainer.messages():
            self._console.message(f"warning: {message}")
        self._evaluated |= _take_in(self.background.poll(), trainer, self._directory, self._console)
        if now - self._reported >= self._config.report_seconds:
            self._reported = now
            self._report()
        if self.background.due(trainer.frames) or now - self._saved >= self._config.checkpoints.every_seconds:
            self._saved = now
            saved_whole = self._save()
            return_free_memory()
            if saved_whole and self.background.due(trainer.frames):
                self.background.start(trainer.frames)

    def _save(self) -> bool:
        saved = save(self._trainer, self._directory, self._console, self.background.running)
        if saved:
            self._losses = 0
            if self._mirror is not None:
                self._mirror.offer(self._directory.path)
        return saved

    def _hear_of_copy(self, *, wait: bool = False) -> None:
        problem = self._mirror.poll(wait=wait) if self._mirror is not None else None
        if problem is not None:
            self._console.message(f"warning: {problem}; training goes on")

    def _report(self) -> None:
        self._reported_frames = self._trainer.frames
        _report(self._trainer, self._directory, self._console, self._evaluated)
        self._evaluated = {}

    def _recover(self, lost: LearnerLostError) -> None:
        """New learners, and everything back to the newest checkpoint.

        Raises:
            LearnerLostError: `lost`, if that has happened too often since then.
        """
        self._losses += 1
        if self._losses > self._config.faults.budget:
            raise LearnerLostError(f"learners were lost {self._losses} times since the newest checkpoint; the last time: {lost}") from lost
        reached = self._trainer.frames
        self._console.message(f"warning: a learner was lost ({str(lost).strip().splitlines()[0]}); all of them are started again")
        loaded, problems = newest_valid(self._directory.checkpoints)
        for problem in problems:
            self._console.message(f"warning: {problem}")
        state = loaded.components if loaded is not None else self._beginning
        if state is None:
            raise lost
        self._trainer.recover(state)
        self._directory.truncate_after(self._trainer.frames)
        self._reported_frames = min(self._reported_frames, self._trainer.frames)
        where = f"checkpoint {loaded.path.name}" if loaded is not None else "the beginning"
        self._console.message(f"went back to {where}: {reached - self._trainer.frames:,} frames are trained on again")


def return_free_memory() -> None:
    """Gives freed memory back to the system: batches differ in size, and glibc keeps the gaps between them (40 MiB per million frames)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


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
    background: BackgroundEvaluation, trainer: Trainer, directory: RunDirectory, console: Console, received: list[int]
) -> dict[str, float]:
    """Waits for the evaluation that is going on, and for one of the last policy; a signal ends the waiting."""
    console.message("evaluating the last policy")
    figures: dict[str, float] = {}
    frames = trainer.frames
    if background.running is None:
        background.start(frames)
    while (step := background.running) is not None and not received:
        time.sleep(POLL_SECONDS)
        figures |= _take_in(background.poll(), trainer, directory, console)
        if background.running is None and step != frames:
            background.start(frames)
    return figures


def _report(trainer: Trainer, directory: RunDirectory, console: Console, evaluated: dict[str, float]) -> None:
    write_decisions(trainer, directory, console)
    metrics = trainer.metrics() | evaluated
    console.update(metrics)
    try:
        directory.write_metrics(metrics, trainer.suite)
    except OSError as error:
        console.message(f"warning: cannot write metrics to {directory.path}: {error.strerror}; training goes on")


@contextmanager
def _signals() -> Iterator[list[int]]:
    """A list that the first of `SIGNALS` is put into; a second one is left to what was there before."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number) for number in SIGNALS}

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
