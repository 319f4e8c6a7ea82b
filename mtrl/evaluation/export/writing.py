"""Writes the folder of an exported policy: its files, each compared with the policy, the model card and the script."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from envs import TaskSuite
from mtrl.errors import UserError
from mtrl.evaluation.export.card import model_card
from mtrl.evaluation.export.checking import checked, largest_difference, microseconds
from mtrl.evaluation.export.examples import arguments, make_example
from mtrl.evaluation.export.exported import SPEED_ROWS, Exported
from mtrl.evaluation.export.formats import ONNX, ONNX_HINT, Format, files_of, has_onnx, read, trace, write
from mtrl.evaluation.export.play import play_script
from mtrl.evaluation.export.portable import PortableActor
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.results import EvaluationResults, ResultsError, read_results
from mtrl.models.policy import Actor
from mtrl.storage.checkpoint import load_policy, resolve_policy
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.sealed import TEMPORARY


def export_run(
    directory: RunDirectory,
    *,
    checkpoint: str = "latest",
    task: str | None = None,
    output: Path | None = None,
    format: Format | None = None,
) -> Exported:
    """Writes `policy.pt2`, `policy.onnx`, a model card `README.md` and `play.py` for a run's policy.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        task: the name of the one task to fold the policy for; None keeps all.
        output: a folder that is made; by default `export/STEP` or `export/STEP-TASK` in the run.
        format: the files; None for both, or for `pt2` where the packages that write ONNX are not installed.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
        SuiteError: there is no such task.
        UserError: the folder exists and is not empty, or cannot be written; a part of the policy has no form in a file, or the file would
            differ from the policy; or the packages for the format are missing.
    """
    files = files_of(format)
    if ONNX in files and not has_onnx():
        raise UserError(f"--format {format} needs packages that are not installed: {ONNX_HINT}")
    step = resolve_policy(directory.checkpoints, directory.policies, checkpoint).name
    _, description = load_policy(directory.policies / step)
    suite, actor = load_actor(directory.policies / step)
    actor.eval()
    index = None if task is None else suite.index(task)
    folder = output or directory.path / "export" / (step if task is None else f"{step}-{task}")
    portable = PortableActor(actor, suite, index).eval()
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not an empty folder; choose another one with -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir()
        try:
            exported = Exported(
                folder,
                _write_files(temporary, files, portable, suite, actor, index),
                portable.num_experts,
                int(actor.trunk.gate.task_weights().shape[1]),
                _speed(portable, suite, actor, index),
                None if index is None else _speed(PortableActor(actor, suite).eval(), suite, actor, None),
            )
            evaluation = _evaluation_of(directory, step, description["weights_sha256"])
            (temporary / "README.md").write_text(model_card(description, suite, portable, task, exported, evaluation))
            (temporary / "play.py").write_text(play_script(suite, actor, index, files[0]))
            if folder.exists():
                folder.rmdir()
            shutil.move(temporary, folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    return exported


def _write_files(
    folder: Path, files: tuple[str, ...], portable: PortableActor, suite: TaskSuite, actor: Actor, task: int | None
) -> dict[str, float]:
    """Writes the files, and reads them again for their differences from the policy."""
    try:
        program = trace(portable, arguments(portable, make_example(suite, actor, task, rows=2)))
        for name in files:
            write(program, portable, folder / name)
    # What torch raises for operations that depend on the data has many classes: errors of its tracer, of guards, of missing operators.
    except (RuntimeError, ValueError, NotImplementedError, TypeError, AttributeError) as error:
        parts = f"its encoder {type(actor.trunk.encoder).__name__}"
        reason = " ".join(str(error).split("\n")[0].split())
        raise UserError(f"the policy cannot be exported: torch has no form in a file for {parts}: {reason}") from error
    return {name: checked(name, largest_difference(read(folder / name), portable, suite, actor, task)) for name in files}


def _speed(portable: PortableActor, suite: TaskSuite, actor: Actor, task: int | None) -> float:
    return microseconds(portable, arguments(portable, make_example(suite, actor, task, SPEED_ROWS)))


def _evaluation_of(directory: RunDirectory, step: str, weights: str) -> EvaluationResults | None:
    """The evaluation of exactly these weights; None if there is none."""
    try:
        results = read_results(directory.layout.results(step))
    except ResultsError:
        return None
    return results if results.policy.get("weights_sha256") == weights else None
