"""A run from start to end: steps of the trainer, with reports, checkpoints and signals between them."""

from __future__ import annotations

import contextlib
import ctypes
import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from mtrl import signals
from mtrl.evaluation.background import BackgroundEvaluation
from mtrl.evaluation.results import ResultsError, read_results
from mtrl.learning.interface import LearnerLostError, NonFiniteError
from mtrl.rollouts.source import RunnerLostError
from mtrl.signals import Repeats
from mtrl.storage.checkpoint import CheckpointError, mark_best, named_step, newest_valid
from mtrl.storage.mirror import Mirror
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.console import Console, GuardedConsole
from mtrl.training.metrics import evaluation_metrics
from mtrl.training.quarantine import TasksFailedError
from mtrl.training.saving import save, write_decisions
from mtrl.training.trainer import Trainer

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # the last is what Slurm's jobs ask to be warned with
WAIT_SECONDS = 0.2  # for rollouts, before signals and whatever else is due are looked at
POLL_SECONDS = 0.2  # between two checks of an evaluation that is waited for
STATE_SECONDS = 10.0  # between two writings of the state during such an evaluation, which writes no metrics
LAST_TRIES = 3  # to save the last checkpoint
RETRY_SECONDS = 2.0  # between them
COPY_SECONDS = 600.0  # for a copy to another file system to end with the run
SIGNAL_COPY_SECONDS = 1.0  # the same after a signal, when the system may kill this process at any moment


def run_training(trainer: Trainer, directory: RunDirectory, console: Console, received: list[int] | None = None) -> int:
    """Trains to the experiment's `total_frames`, or until one of `SIGNALS`, and saves a checkpoint at the end.

    Args:
        trainer: what is trained.
        directory: where its files go.
        console: shows how it goes.
        received: a list to which another thread may append the number of a signal, where this one gets none.

    Returns:
        the exit code: 0, 128 and the number of the signal that ended the run (129 after SIGHUP, 130 after SIGINT, 138 after SIGUSR1, 143
        after SIGTERM, 141 where the reader of our output has gone), 1 after too many updates that were not finite or losses of learners,
        where every task fails or a runner cannot live, and where the last checkpoint could not be saved.
    """
    with _signals([] if received is None else received) as received:
        guarded = GuardedConsole(console, lambda: received.append(signal.SIGPIPE), directory.write_message)
        guarded.start(trainer.config, trainer.suite, directory.path)
        for remark in trainer.remarks():
            guarded.message(remark)
        run: TrainingRun | None = None
        directory.write_state("training", frames=trainer.frames)
        try:
            run = TrainingRun(trainer, directory, guarded)
            code = run.train(received)
            if not run.saved:
                directory.write_state("failed", frames=trainer.frames, reason="the last checkpoint could not be saved")
                return code or 1
            if received:
                directory.write_state("interrupted", frames=trainer.frames, reason=signal.Signals(received[0]).name)
            else:
                directory.write_state("finished", frames=trainer.frames)
            return code
        except (NonFiniteError, LearnerLostError, TasksFailedError, RunnerLostError) as error:
            for message in trainer.messages():
                guarded.message(f"warning: {message}")
            guarded.message(f"error: {error}")
            directory.write_state("failed", frames=trainer.frames, reason=str(error))
            return 1
        except BaseException as error:
            directory.write_state("failed", frames=trainer.frames, reason=f"{type(error).__name__}: {error}")
            raise
        finally:
            if run is not None:
                run.close()
            directory.close()
            guarded.close()


class TrainingRun:
    """A trainer with everything around it: reports, checkpoints, their copies, evaluations and the loss of learners.

    Args:
        trainer: the training loop.
        directory: where the run's files go.
        console: shows the progress.
    """

    def __init__(self, trainer: Trainer, directory: RunDirectory, console: Console):
        self._trainer, self._directory, self._console = trainer, directory, console
        self._config = trainer.config
        self._background = BackgroundEvaluation(directory, trainer.config.evaluation)
        self._reported = self._saved = time.monotonic()
        self._reported_frames = -1
        self._hours = 0.0  # that were trained before this process
        self._started = time.monotonic()
        checkpoints = trainer.config.checkpoints
        self._mirror = Mirror(checkpoints.copy_to, checkpoints.keep) if checkpoints.copy_to is not None else None
        self.saved = False  # whether the last checkpoint is complete
        self._losses = 0  # of learners since the newest checkpoint
        # The state to go back to before there is a checkpoint; a learner in this process cannot be lost without it.
        self._initial_state = trainer.state_dict() if trainer.config.learners.num_learners else None

    def train(self, received: list[int]) -> int:
        """Trains until there are enough frames or `received` holds a signal; returns the exit code."""
        finished, self._hours, self._started = None, self._directory.hours(), time.monotonic()
        self._trainer.interrupt_with(lambda: bool(received))
        while finished is None:
            try:
                while self._trainer.frames < self._config.total_frames and not received:
                    self._trainer.step(WAIT_SECONDS)
                    self._between_steps()
                self._finish_copy(received)  # so that the last checkpoint can be copied at once
                if self._trainer.frames > self._reported_frames:
                    self._report()  # before the copy, which takes the curve along
                self.saved = self._save_at_last(received)
                finished = self.saved and not received
            except LearnerLostError as lost:
                step = named_step(self._directory.checkpoints, "latest")
                if received and step is not None:
                    reason = _first_line(lost)
                    self._console.message(f"warning: learners were lost at the end ({reason}); the run ends at checkpoint {step}")
                    self.saved = True
                    break
                self._recover(lost)
        if self._config.evaluation.every_frames is not None and finished:
            self._evaluate_last(received)
        self._finish_copy(received)
        return 128 + received[0] if received else 0

    def close(self) -> None:
        """Stops the background evaluation."""
        self._background.close()

    def _between_steps(self) -> None:
        """Messages, evaluations, reports and checkpoints that are due."""
        now = time.monotonic()
        self._check_copy()
        for message in self._trainer.messages():
            self._console.message(f"warning: {message}")
        self._take_in_evaluation()
        if self._background.overdue(self._trainer.frames):
            self._console.message(
                f"no evaluation at {self._trainer.frames:,} frames: that of {self._background.running:,} frames is still playing; "
                "raise evaluation.every_frames or lower evaluation.episodes"
            )
        if now - self._reported >= self._config.report_seconds:
            self._reported = now
            self._report()
        if self._background.due(self._trainer.frames) or now - self._saved >= self._config.checkpoints.every_seconds:
            self._saved = now
            complete = self._save()
            return_free_memory()
            if complete and self._background.due(self._trainer.frames):
                self._start_evaluation(self._trainer.frames)

    def _report(self) -> None:
        """Writes a line of metrics and the decisions since the last one."""
        self._reported_frames = self._trainer.frames
        write_decisions(self._trainer, self._directory, self._console)
        metrics = self._trainer.metrics()
        self._console.update(metrics)
        self._write(metrics | {"summary/hours": self._hours + (time.monotonic() - self._started) / 3600})

    def _write(self, metrics: dict[str, float]) -> None:
        """Appends a line of metrics; a disk that refuses is a message."""
        try:
            self._directory.write_metrics(metrics, self._trainer.suite)
        except OSError as error:
            self._console.message(f"warning: cannot write metrics of {self._directory.path}: {error.strerror}; training goes on")

    def _save_at_last(self, received: list[int]) -> bool:
        """Saves the last checkpoint, by several tries unless there is a signal; returns whether it is complete."""
        for _ in range(1 if received else LAST_TRIES - 1):
            if self._save("the next try is in a few seconds"):
                return True
            time.sleep(RETRY_SECONDS)
        return self._save("it was the last try: what was trained since the newest checkpoint is lost")

    def _save(self, consequence: str = "") -> bool:
        """Saves a checkpoint and offers it to the mirror; returns whether it is complete. `consequence` follows the reason if it is not."""
        kept = [self._background.running, None if self._mirror is None else self._mirror.copying]
        protected = [step for step in kept if step is not None]
        saved = save(self._trainer, self._directory, self._console, protected, consequence)
        if saved:
            self._losses = 0
            if self._mirror is not None:
                self._mirror.offer(self._directory.path)
        return saved

    def _check_copy(self) -> None:
        """Reports a copy that has failed or takes long."""
        problem = self._mirror.poll() if self._mirror is not None else None
        if problem is not None:
            self._console.message(f"warning: {problem}; training goes on")

    def _finish_copy(self, received: list[int]) -> None:
        """Waits for the copy that is on its way."""
        problem = self._mirror.finish(SIGNAL_COPY_SECONDS if received else COPY_SECONDS) if self._mirror is not None else None
        if problem is not None:
            self._console.message(f"warning: {problem}")

    def _start_evaluation(self, frames: int) -> None:
        """Begins to evaluate the policy of these frames; a machine that refuses is a message."""
        problem = self._background.start(frames)
        if problem is not None:
            self._console.message(f"warning: {problem}")

    def _take_in_evaluation(self) -> None:
        """Takes in the evaluation that has ended since the last call, and marks its checkpoint as `best` if no earlier one was better."""
        results = self._background.poll()
        if results is None or isinstance(results, str):
            if results is not None:
                self._console.message(f"warning: {results}")
            return
        self._trainer.statistics.add_evaluation(results)
        best, value = self._best_score(), results.score_mean.value
        if best is None or value > best:
            try:
                mark_best(self._directory.checkpoints, results.step)
            except CheckpointError as error:
                self._console.message(f"warning: {error}")
        comparison = "" if best is None or value > best else f", best {best:.3f}"
        left_out = self._background.left_out(self._trainer.frames)
        meanwhile = f"; {left_out} evaluation{'s' if left_out > 1 else ''} left out meanwhile" if left_out else ""
        self._console.message(f"evaluated step {results.step:,}: mean score {value:.3f}{comparison}{meanwhile}")
        # A line of its own: the frames of its policy are not those of the training now, and two may end between two reports.
        self._write({"summary/frames": self._trainer.frames, **evaluation_metrics(results)})

    def _best_score(self) -> float | None:
        """The evaluated mean score of the checkpoint that is marked as `best`; None if there is none."""
        step = named_step(self._directory.checkpoints, "best")
        if step is None:
            return None
        try:
            return read_results(self._directory.layout.results(step)).score_mean.value
        except ResultsError:
            return None

    def _evaluate_last(self, received: list[int]) -> None:
        """Waits for the evaluation that is running, and for one of the last policy; a signal ends the waiting."""
        self._console.message("evaluating the last policy")
        frames = self._trainer.frames
        if self._background.running is None:
            self._start_evaluation(frames)
        written = -math.inf
        while (step := self._background.running) is not None and not received:
            if time.monotonic() - written >= STATE_SECONDS:
                written = time.monotonic()
                self._directory.write_state("training", frames=frames, evaluating=step)
            time.sleep(POLL_SECONDS)
            self._take_in_evaluation()
            if self._background.running is None and step != frames:
                self._start_evaluation(frames)
                written = -math.inf

    def _recover(self, lost: LearnerLostError) -> None:
        """Starts new learners, and goes back to the newest checkpoint.

        Raises:
            LearnerLostError: that has happened too often since then; those that are lost meanwhile count, too.
        """
        reached = self._trainer.frames
        while True:
            self._losses += 1
            if self._losses > self._config.faults.budget:
                times = f"learners were lost {self._losses} times since the newest checkpoint"
                raise LearnerLostError(f"{times}; the last time: {lost}") from lost
            self._console.message(f"warning: a learner was lost ({_first_line(lost)}); all of them are started again")
            loaded, problems = newest_valid(self._directory.checkpoints)
            for problem in problems:
                self._console.message(f"warning: {problem}")
            state = loaded.components if loaded is not None else self._initial_state
            if state is None:
                raise lost
            try:
                self._trainer.recover(state)
                break
            except LearnerLostError as again:
                lost = again
        self._directory.truncate_after(self._trainer.frames)
        self._reported_frames = min(self._reported_frames, self._trainer.frames)
        where = f"checkpoint {loaded.path.name}" if loaded is not None else "the beginning"
        self._console.message(f"went back to {where}: {reached - self._trainer.frames:,} frames are trained on again")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def return_free_memory() -> None:
    """Gives freed memory back to the system: batches differ in size, and glibc keeps the gaps between them (40 MiB per million frames)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _signals(received: list[int]) -> Iterator[list[int]]:
    """The list, which collects the first of `SIGNALS`, also one that came before and was lost; a later one gets the previous handler."""
    received += signals.received
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    # Under nohup SIGHUP is ignored, and stays so. Shells let their background jobs ignore SIGINT, which is obeyed all the same.
    previous = {number: signal.getsignal(number) for number in SIGNALS}
    if previous[signal.SIGHUP] is signal.SIG_IGN:
        del previous[signal.SIGHUP]

    repeats = Repeats()

    def receive(number: int, frame: FrameType | None) -> None:
        if repeats.repeated():
            return
        if not received:
            received.append(number)
            return
        for known, handler in previous.items():
            signal.signal(known, handler)
        signal.raise_signal(number)

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            # A repeat of the signal that has just been obeyed must not kill the process while it ends.
            keep = number == signal.SIGUSR1 and number in received
            signal.signal(number, signal.SIG_IGN if keep else handler)
