"""Saving a run's state, and going on from it."""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from envs import SuiteError, make_suite
from mtrl.curriculum.scheduler import ProgressScheduler
from mtrl.evaluation.policy import check_actions
from mtrl.storage.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_policy,
    newest_valid,
    resolve,
    save_checkpoint,
    save_policy,
    steps,
)
from mtrl.storage.run_directory import RunDirectory, code_commit
from mtrl.training.console import Console
from mtrl.training.task_change import carry_over, check_kinds
from mtrl.training.trainer import Trainer


def save(trainer: Trainer, directory: RunDirectory, console: Console, protected: Collection[int] = (), consequence: str = "") -> bool:
    """Saves a checkpoint and its policy; a disk that refuses is a message, and training goes on.

    Args:
        trainer: the trainer to be saved.
        directory: where.
        console: told of a refusal.
        protected: steps that stay, since they are being evaluated or copied.
        consequence: of a refusal, for the message; that training goes on if empty.

    Returns:
        whether it was saved.
    """
    config = trainer.config
    score = trainer.mean_score
    write_decisions(trainer, directory, console)  # before the checkpoint, so that a resumed run's log has no gap
    try:
        save_checkpoint(
            directory.checkpoints,
            trainer.frames,
            trainer.state_dict(),
            tasks=trainer.suite.names,
            keep=config.checkpoints.keep,
            score=score if config.evaluation.every_frames is None else None,  # else `best` is for evaluations to say
            protected=protected,
        )
        description = {
            "suite": trainer.suite.name,
            "tasks": list(trainer.suite.names),
            "rules": dict(trainer.suite.rules),
            "model": config.model.model_dump(),
            "backend": config.suite.backend,
            "frames": trainer.frames,
            "version": trainer.updates,
            "training_score": score,
            "config": config.name,
            "commit": code_commit(),
        } | ({"training_levels": config.curriculum.levels.count} if config.curriculum.levels.count else {})
        save_policy(directory.policies, trainer.frames, trainer.policy_weights(), description, keep=steps(directory.checkpoints))
    except CheckpointError as error:
        console.message(
            f"warning: {error}; {consequence or f'training goes on, and the next try is in {config.checkpoints.every_seconds:.0f} s'}"
        )
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
        ConfigError: its actions mean something else now.
    """
    if which == "latest":
        loaded, problems = newest_valid(directory.checkpoints)
        for problem in problems:
            console.message(f"warning: {problem}")
        if loaded is None:
            if problems:
                raise CheckpointError(f"no checkpoint in {directory.checkpoints} is whole")
            directory.truncate_after(-1)  # of a process that was killed before its first checkpoint: the run begins again
            return False
    else:
        loaded = load_checkpoint(resolve(directory.checkpoints, which))
    with contextlib.suppress(CheckpointError):  # a policy may be missing where the checkpoint is whole
        policy = directory.policies / loaded.path.name
        description = load_policy(policy)[1]
        check_actions(policy, description, trainer.suite)
        if allow_task_change:
            with contextlib.suppress(SuiteError):  # tasks may have gone for good
                check_kinds(make_suite(description["suite"]), trainer.suite)
    before, now = loaded.manifest.tasks, trainer.suite.names
    if before == now:
        trainer.load_state_dict(loaded.components)
        directory.truncate_after(trainer.frames)
        if isinstance(trainer.scheduler, ProgressScheduler) and "gains" not in loaded.components["curriculum"]["scheduler"]:
            directory.archive_decisions(trainer.frames)
            console.message(
                f"{trainer.config.curriculum.scheduler} has another rule in this version; the decisions until now are put aside"
            )
    elif allow_task_change:
        trainer.load_state_dict(carry_over(loaded.components, before, trainer.config, trainer.suite))
        trainer.tasks_changed()
        directory.truncate_after(trainer.frames)
        directory.archive_decisions(trainer.frames)
        (directory.checkpoints / "best").unlink(missing_ok=True)  # scores of other tasks do not compare
        new, gone = [name for name in now if name not in before], [name for name in before if name not in now]
        console.message(f"tasks have changed: new {', '.join(new) or 'none'}; gone {', '.join(gone) or 'none'}; the others go on")
    else:
        raise CheckpointError(
            f"{loaded.path} was trained on {', '.join(before)}, but this experiment has {', '.join(now)}; "
            "--allow-task-change goes on with the tasks that both have"
        )
    console.message(f"resumed {loaded.path} at {trainer.frames:,} frames; its hashes match: it is whole, whoever wrote it")
    return True


def write_decisions(trainer: Trainer, directory: RunDirectory, console: Console) -> None:
    """Writes the decisions made since the last call; a disk that refuses is a message."""
    decisions = trainer.decisions()
    try:
        directory.write_decisions(decisions)
    except OSError as error:
        trainer.keep_decisions(decisions)
        console.message(f"warning: cannot write the curriculum's decisions to {directory.path}: {error.strerror}; training goes on")
