"""Evaluations beside a training run: one process at a time, of the lowest priority, that plays a saved policy while training goes on."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from mtrl.config import EvaluationConfig
from mtrl.evaluation.results import EvaluationResults, ResultsError, read_results
from mtrl.evaluation.runner import evaluate_run
from mtrl.machine import child_environment
from mtrl.storage.run_directory import RunDirectory

SELECTION_SEED = 1
"""Of environments and actions. `best` is chosen by these evaluations, and the largest of many means is a lucky one; `evaluate` plays other
episodes, with seed 0, so that its figures of the chosen policy are not those by which it was chosen."""
LOWEST_PRIORITY = 19
STALLED_SECONDS = 3600.0  # without a finished job, before an evaluation is ended
LOOK_SECONDS = 10.0  # between two looks at what it has finished
SESSION_PRIORITY = 16  # of its session: a fortieth of a busy core, so that an evaluation ends even where no core is ever free


class BackgroundEvaluation:
    """Says when an evaluation is due, starts it, and hands out what it found."""

    def __init__(self, directory: RunDirectory, config: EvaluationConfig):
        self._directory = directory
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._step = 0
        self._looked = self._advanced = 0.0  # when its folder was looked at, and when that has changed
        self._finished: set[str] = set()  # the files in it
        self._missed = False  # whether it was said that another one was due meanwhile
        self._last = max((int(path.parent.name) for path in directory.layout.all_results()), default=0)

    @property
    def running(self) -> int | None:
        """The step that is being evaluated now."""
        return self._step if self._process is not None else None

    def due(self, frames: int) -> bool:
        """Whether a policy of `frames` frames should be saved and evaluated."""
        every = self._config.every_frames
        return every is not None and self._process is None and frames - self._last >= every

    def overdue(self, frames: int) -> bool:
        """Whether the next evaluation is due while one is still going on; true once for each that is going on."""
        every = self._config.every_frames
        overdue = not self._missed and every is not None and self._process is not None and frames - self._last >= every
        self._missed |= overdue
        return overdue

    def left_out(self, frames: int) -> int:
        """The number of evaluations that were due since the newest one began, and for which there will be no policy any more."""
        every = self._config.every_frames
        return 0 if every is None else max(0, (frames - self._last) // every - 1)

    def start(self, step: int) -> str | None:
        """Begins to evaluate the policy saved at `step`; a sentence if that is not possible now."""
        self._step, self._last, self._missed = step, step, False
        command = [
            sys.executable,
            "-m",
            "mtrl.evaluation.background",
            str(self._directory.path),
            str(step),
            str(self._config.episodes or 0),
        ]
        environment = child_environment(OMP_NUM_THREADS="1")
        self._looked = self._advanced = time.monotonic()
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with self._log.open("wb") as log:
                # Its standard input is a pipe that nothing is written to: when this process is gone, it ends, and the evaluation with it.
                self._process = subprocess.Popen(
                    command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            return f"the evaluation of step {step} cannot start: {error.strerror}"
        return None

    def poll(self) -> EvaluationResults | str | None:
        """The results of an evaluation that has ended since, or a sentence about why there are none; None while nothing is new."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return self._check_progress() if self._process is not None else None
        self._process = None
        try:
            if code:
                lines = self._log.read_text(errors="replace").strip().splitlines()
                return f"the evaluation of step {self._step} failed ({lines[-1] if lines else f'exit code {code}'}); see {self._log}"
            self._log.unlink(missing_ok=True)
            return read_results(self._directory.layout.results(self._step))
        except (OSError, ResultsError) as error:
            return f"the results of the evaluation of step {self._step} cannot be read: {error}"

    def close(self) -> None:
        """Ends an evaluation that is still going on; what it has played is kept."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _check_progress(self) -> str | None:
        """Ends an evaluation that hangs, so that later policies are evaluated; the sentence about it."""
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return None
        self._looked = now
        finished = {path.name for path in self._log.parent.glob("*/*.json")}
        if finished != self._finished:
            self._finished, self._advanced = finished, now
        if now - self._advanced < STALLED_SECONDS:
            return None
        self.close()
        return f"the evaluation of step {self._step} was ended: none of its jobs has ended for {STALLED_SECONDS / 60:.0f} minutes"

    @property
    def _log(self) -> Path:
        return self._directory.layout.evaluation_log(self._step)


def _step_back() -> None:
    """Leaves the cores to whoever else wants them."""
    os.nice(LOWEST_PRIORITY)
    # Linux shares cores out among sessions first, where the lowest priority in one is worth as much as the highest in another.
    with contextlib.suppress(OSError):  # another system, or a kernel without it
        Path("/proc/self/autogroup").write_text(str(SESSION_PRIORITY))


def _main(path: str, step: str, episodes: str) -> None:
    _step_back()

    def end_with_parent() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read(), whose lock a daemon thread would hold at exit
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    evaluate_run(RunDirectory.open(Path(path)), checkpoint=step, episodes=int(episodes) or None, seed=SELECTION_SEED)


if __name__ == "__main__":
    _main(*sys.argv[1:])
