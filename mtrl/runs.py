"""Begins runs and goes on with them: what the command `train` and the Python API both do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mtrl.config import ExperimentConfig, flatten, without_effect
from mtrl.errors import UserError

if TYPE_CHECKING:
    from mtrl.training.console import Console
    from mtrl.training.trainer import Trainer

FIXED_ON_RESUME = ("model.", "learner.actor.name", "learner.critic.name")  # what a checkpoint's contents depend on


class Outcome(NamedTuple):
    """A run that was begun, and how that ended."""

    path: Path  # of its directory
    code: int  # the exit code, see `mtrl.training.run.run_training`


def named_after_suite(config: ExperimentConfig, default: ExperimentConfig) -> ExperimentConfig:
    """The experiment; of other tasks than those of the default experiment it does not keep that one's name."""
    if config.name != default.name or config.suite.name == default.suite.name:
        return config
    return config.model_copy(update={"name": re.sub(r"[^\w.-]+", "_", config.suite.name)[:60]})


def announcement(config: ExperimentConfig) -> str:
    """What is about to happen, for the seconds in which packages are loaded and processes started."""
    runners = config.env_runners.num_env_runners
    where = "in this process" if runners == 0 else f"on Ray with {runners} runner{'s' if runners > 1 else ''}"
    first = "; its levels' latent space is learned first, for about a minute" if config.curriculum.levels.sampler == "clutr" else ""
    return f"{config.suite.name}: starting {where}{first}"


def prepare_ray(config: ExperimentConfig) -> None:
    """Sets the variables that Ray reads when it is imported, and starts what its workers will be forked from, which imports its packages
    while this process does.
    """
    if config.env_runners.num_env_runners > 0:
        from mtrl.distributed import fork_server
        from mtrl.distributed.surroundings import set_variables

        set_variables()
        fork_server.start(config.suite.name)


def begin(config: ExperimentConfig, path: Path | None, console: Console, *, experts: Path | None = None, profiled: bool = False) -> Outcome:
    """Begins a run and trains it to its end.

    Args:
        config: the experiment.
        path: the run's directory; a new one in `runs` if None.
        console: shows how it goes.
        experts: a run whose newest policy gives the experts to begin with.
        profiled: whether the first updates are measured by torch's profiler.

    Raises:
        UserError: the experiment cannot start, or the directory is not free. Nothing is left behind then.
    """
    prepare_ray(config)
    from mtrl.storage.checkpoint import load_policy, resolve_policy
    from mtrl.storage.lock import run_lock
    from mtrl.storage.mirror import holds_copy
    from mtrl.storage.run_directory import RunDirectory, new_folder
    from mtrl.training.batch_size import few_updates
    from mtrl.training.run import run_training

    if config.model.freeze_experts and experts is None:
        console.message("warning: model.freeze_experts without --init-experts: experts stay as they were drawn at random")
    copies = config.checkpoints.copy_to
    if copies is not None and holds_copy(copies):
        raise UserError(
            f"checkpoints.copy_to {copies} holds another run: choose another address, or go on with that run by --auto-resume --run-dir DIR"
        )
    for sentence in (*without_effect(config), few_updates(config)):
        if sentence is not None:
            console.message(f"warning: {sentence}")
    weights = None
    if experts is not None:
        source = RunDirectory.open(experts)
        tensors, _ = load_policy(resolve_policy(source.checkpoints, source.policies, "latest"))
        weights = {name: tensor.numpy() for name, tensor in tensors.items()}
    # The trainer first: an experiment that cannot start leaves no directory behind.
    with open_trainer(config) as trainer:
        if weights is not None:
            trainer.load_experts(weights)
        folder = new_folder(path, config.name)
        with run_lock(folder):  # before anything is written: another process may have been given the same folder
            directory = RunDirectory.create(folder, config)
            if profiled:
                from mtrl.training.profiling import profile_training

                console.message(profile_training(trainer, directory.layout.profile))
            return Outcome(folder, run_training(trainer, directory, console))


def go_on(path: Path, config: ExperimentConfig, console: Console, *, repeated: bool = False, allow_task_change: bool = False) -> int:
    """Goes on with a run from its newest checkpoint.

    Args:
        path: the run's directory.
        config: its experiment from now on.
        console: shows how it goes.
        repeated: whether nothing to go on from and nothing left to do are no errors: for jobs that are started again.
        allow_task_change: whether the experiment may have other tasks than the checkpoint.

    Returns:
        the exit code, see `mtrl.training.run.run_training`.

    Raises:
        UserError: there is nothing to go on from or to do, the directory is in use, or the change of the experiment is not possible.
    """
    prepare_ray(config)
    from mtrl.storage.lock import PATIENCE_SECONDS, run_lock
    from mtrl.storage.run_directory import RunDirectory, RunDirectoryError, read_config
    from mtrl.training.run import run_training
    from mtrl.training.saving import resume

    before = read_config(path)
    _check_changes(path, before, config)
    # A job that is started again may meet the lock of a machine that was lost; a person who resumes can be asked at once.
    patience = max(PATIENCE_SECONDS, 3 * before.report_seconds) if repeated else 0.0
    with run_lock(path, patience=patience, tell=console.message), open_trainer(config) as trainer:
        directory = RunDirectory(path, config)
        if not resume(trainer, directory, console, allow_task_change=allow_task_change) and not repeated:
            raise UserError(f"{path} has no checkpoint to go on from")
        unevaluated = config.evaluation.every_frames is not None and not directory.layout.results(trainer.frames).exists()
        if trainer.frames >= config.total_frames and not unevaluated:
            finished = f"{path} has trained on {trainer.frames:,} of {config.total_frames:,} frames"
            if not repeated:
                raise UserError(f"{finished}; give a larger --total-frames, or total_frames in Python, to go on")
            console.message(f"{finished}: nothing to do")
            return 0
        if before.learner.balancing != config.learner.balancing:
            console.message(f"learner.balancing is {config.learner.balancing} now; its weights begin anew")
        if before.curriculum != config.curriculum and trainer.frames > 0:
            directory.archive_decisions(trainer.frames)
            console.message(_changed_curriculum(before, config))
        try:
            if before != config and trainer.frames > 0:
                directory.archive_config(before, trainer.frames)
            directory.write_config()
        except OSError as error:
            raise RunDirectoryError(f"cannot write to {path}: {error.strerror}") from None
        return run_training(trainer, directory, console)


@contextmanager
def open_trainer(config: ExperimentConfig) -> Iterator[Trainer]:
    """The experiment's trainer, in this process or on Ray, which is imported for nothing else; closed at the end."""
    if config.env_runners.num_env_runners == 0:
        from mtrl.training.trainer import build_trainer

        trainer = build_trainer(config)
        try:
            yield trainer
        finally:
            trainer.close()
    else:
        from mtrl.distributed import build_ray_trainer

        algorithm, trainer = build_ray_trainer(config)
        try:
            yield trainer
        finally:
            algorithm.stop()


def _check_changes(path: Path, old: ExperimentConfig, new: ExperimentConfig) -> None:
    before, after = flatten(old.model_dump()), flatten(new.model_dump())
    for name, value in before.items():
        if name.startswith(FIXED_ON_RESUME) and value != after[name]:
            raise UserError(f"{name} cannot change when a run is resumed: {path} has {value!r}, the new experiment {after[name]!r}")


def _changed_curriculum(before: ExperimentConfig, after: ExperimentConfig) -> str:
    old, new = before.curriculum.scheduler, after.curriculum.scheduler
    who = f"{new} follows {old} and begins anew" if new != old else f"{new} goes on"
    return f"the curriculum has changed: {who}, with what is known of the tasks; the decisions until now are put aside"
