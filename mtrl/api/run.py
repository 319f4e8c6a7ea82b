"""Runs from Python: `train` begins one, and a `Run` is what was trained."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from mtrl.api.overrides import override, resolve_experiment
from mtrl.cli.shared import check_choice, check_packages
from mtrl.config import ExperimentConfig
from mtrl.errors import UserError
from mtrl.runs import announcement, begin, go_on
from mtrl.storage.run_directory import RunDirectory, read_config

if TYPE_CHECKING:
    from mtrl.api.policy import Policy
    from mtrl.evaluation.results import EvaluationResults
    from mtrl.training.console import Console

PROGRAM = "mtrl-trainer"  # in the commands that are suggested at the end


class TrainingError(RuntimeError):
    """A run has failed: updates that were not finite, lost learners or runners, or no task is left. What was saved can be gone on with."""


def train(
    suite_or_config: str | Path | ExperimentConfig = "minigrid_mt3",
    *,
    run_dir: str | Path | None = None,
    init_experts: str | Path | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Run:
    """Trains one policy on all tasks of a suite, as the command `train` does.

    An interrupt (SIGINT, SIGTERM, SIGHUP) is put off until the run is saved, and has its usual effect then: after Ctrl-C or a notebook's
    stop button that is a `KeyboardInterrupt`, whose note says how to go on. Handlers of signals are set in the main thread only, and
    those from before are restored.

    Args:
        suite_or_config: the name of an experiment in `configs/`, the path of a YAML file, an experiment, or a suite such as
            `gym/CartPole-v1`, which is trained with the settings of the default experiment.
        run_dir: the run's directory; by default a new one in `runs`.
        init_experts: the directory of a run whose newest policy gives the experts to begin with.
        progress: whether the lines of the command are printed.
        overrides: fields of the experiment; those of a section as a mapping: `total_frames=200_000, learner={"epochs": 2}`.
            `num_env_runners` needs no section. It is 0 (everything in this process, without Ray) where neither the experiment nor this
            call says otherwise.

    Returns:
        the run.

    Raises:
        UserError: the experiment cannot start as written; the message is one sentence that says why.
        SuiteError: there are no such tasks, or they cannot be served. Like `UserError` it is a `ValueError`.
        TrainingError: the run has failed.
    """
    config = resolve_experiment(suite_or_config, overrides)
    console = _prepared(config, progress)
    experts = None if init_experts is None else Path(init_experts)
    with _as_before():
        path, code = begin(config, None if run_dir is None else Path(run_dir), console, experts=experts)
    return _concluded(path, code)


def load_run(path: str | Path) -> Run:
    """The run in a directory.

    Raises:
        UserError: there is no such directory, or it is not that of a run.
    """
    return Run(path)


class Run:
    """A run on the disk. Everything is read when it is asked for, so that a run that is being trained elsewhere can be followed.

    Args:
        path: its directory.

    Raises:
        UserError: there is no such directory, or it is not that of a run.
    """

    def __init__(self, path: str | Path):
        self.path = RunDirectory.open(Path(path)).path
        """The run's directory."""

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> ExperimentConfig:
        """The complete experiment."""
        return read_config(self.path)

    @property
    def state(self) -> str:
        """`training`, `finished`, `interrupted` or `failed`; `training` also after a process was killed. Empty if that is not known."""
        return str(_state(self.path).get("state", ""))

    @property
    def metrics(self) -> list[dict[str, float]]:
        """The lines of `metrics.jsonl`, the oldest first; the names are those of the documentation's page on metrics."""
        return RunDirectory.open(self.path).read_metrics()

    def scores(self) -> dict[str, float]:
        """Each task's newest mean score of its last 100 training episodes, 0 to 1; without tasks that have finished none."""
        newest = {name: value for row in self.metrics for name, value in row.items()}
        scores = {name: value for name, value in newest.items() if name.startswith("tasks/") and name.endswith("/score")}
        return {name.removeprefix("tasks/").removesuffix("/score"): value for name, value in scores.items()}

    def evaluate(
        self,
        *,
        checkpoint: str | int = "latest",
        episodes: int | None = None,
        tasks: Sequence[str] = (),
        backend: Literal["envpool", "gymnasium"] | None = None,
        actions: Literal["sampled", "greedy"] | None = None,
        seed: int = 0,
        workers: int = 1,
        progress: bool = True,
    ) -> EvaluationResults:
        """Scores a policy of the run by its suite's protocol, as the command `evaluate` does, and writes the results into the run.

        Args:
            checkpoint: `latest`, `best` or a number of frames.
            episodes: of each task; by default the protocol's number.
            tasks: names of those to play; all if empty.
            backend: what steps the environments; by default the protocol's.
            actions: drawn from the policy, or the most likely ones; by default the protocol's.
            seed: of environments and actions.
            workers: processes that play; 1 plays in this one. With more, a script needs its `if __name__ == "__main__":`.
            progress: whether the number of episodes is shown in a terminal.

        Raises:
            UserError: an argument is not allowed, or there is no such checkpoint.
            SuiteError: there is no such task.
        """
        if backend is not None:
            check_choice("backend", backend, ("envpool", "gymnasium"))
        if actions is not None:
            check_choice("actions", actions, ("sampled", "greedy"))
        for name, value, least in (("episodes", episodes, 1), ("workers", workers, 1), ("seed", seed, 0)):
            if value is not None and value < least:
                raise UserError(f"{name}: must be {least} or more, got {value}")
        from mtrl.cli.progress import counting
        from mtrl.evaluation.jobs import in_processes
        from mtrl.evaluation.runner import evaluate_run

        shown: Any = counting("episodes") if progress else contextlib.nullcontext(lambda done, total: None)
        with shown as tell:
            return evaluate_run(
                RunDirectory.open(self.path),
                checkpoint=str(checkpoint),
                tasks=tuple(tasks),
                episodes=episodes,
                backend=backend,
                actions=actions,
                seed=seed,
                players=in_processes(workers),
                progress=tell,
            )

    def policy(self, checkpoint: str | int = "latest", *, seed: int = 0) -> Policy:
        """A saved policy of the run, to act with.

        Args:
            checkpoint: `latest`, `best` or a number of frames.
            seed: of sampled actions.

        Raises:
            UserError: there is no such checkpoint, or its policy is damaged.
        """
        from mtrl.api.policy import load_policy

        return load_policy(self.path, checkpoint, seed=seed)

    def resume(self, *, allow_task_change: bool = False, progress: bool = True, **overrides: Any) -> Run:
        """Goes on with the run from its newest checkpoint, as `train --resume` does: `run.resume(total_frames=400_000)`.

        Args:
            allow_task_change: whether `suite` may be changed: what is known of a task goes to the task of that name.
            progress: whether the lines of the command are printed.
            overrides: fields of the experiment to change, as for `train`.

        Returns:
            this run.

        Raises:
            UserError: there is nothing to go on from or to do, the run is being trained, or a change is not possible.
            TrainingError: the run has failed.
        """
        config = override(self.config, overrides)
        console = _prepared(config, progress)
        with _as_before():
            code = go_on(self.path, config, console, allow_task_change=allow_task_change)
        _concluded(self.path, code)
        return self


def _prepared(config: ExperimentConfig, progress: bool) -> Console:
    """Checks what can be checked before anything starts, and gives the console of the run."""
    from mtrl.cli.console import PlainConsole
    from mtrl.storage.trackers import check_trackers
    from mtrl.training.console import SilentConsole

    check_packages()
    check_trackers(config)
    if config.env_runners.num_env_runners and threading.current_thread() is not threading.main_thread():
        raise UserError("runners need Ray, which has to be started in the main thread: call this there, or set num_env_runners=0")
    console: Console = PlainConsole(PROGRAM) if progress else SilentConsole()
    console.message(announcement(config))
    return console


@contextmanager
def _as_before() -> Iterator[None]:
    """Gives the caller's tensor operations back their threads, which a training takes for its learner, and a signal its handler."""
    import torch

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGUSR1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGUSR1, handler)  # which a training leaves ignored, since jobs get it more than once


def _concluded(path: Path, code: int) -> Run:
    """The run; what ended it is raised.

    Raises:
        TrainingError: it has failed.
    """
    if code == 1:
        raise TrainingError(str(_state(path).get("reason", "the run has failed; its messages.log says why")))
    if code:
        with _noted(f"the run is saved; to go on with it: mtrl.load_run({str(path)!r}).resume()"):
            signal.raise_signal(code - 128)
            if signal.getsignal(code - 128) is signal.SIG_IGN:
                raise TrainingError(f"the training was ended by {signal.Signals(code - 128).name}")
    return Run(path)


@contextmanager
def _noted(note: str) -> Iterator[None]:
    """Adds a note to an exception that passes through."""
    try:
        yield
    except BaseException as error:
        error.add_note(note)
        raise


def _state(path: Path) -> dict[str, Any]:
    """The content of `state.json`; nothing if it is missing or cut off."""
    try:
        values = json.loads(RunDirectory.open(path).layout.state.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
