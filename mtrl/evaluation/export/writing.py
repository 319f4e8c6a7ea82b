"""Writes the folder of an exported policy: the file itself, its model card and the script."""

from __future__ import annotations

import secrets
import shutil
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from mtrl.errors import UserError
from mtrl.evaluation.export.card import model_card
from mtrl.evaluation.export.exported import SPEED_ROWS, Exported
from mtrl.evaluation.export.play import play_script
from mtrl.evaluation.export.portable import PortableActor, example_inputs
from mtrl.evaluation.policy import load_actor
from mtrl.evaluation.results import EvaluationResults, ResultsError, read_results
from mtrl.models.distributions import Either
from mtrl.storage.checkpoint import load_policy, resolve_policy
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.sealed import TEMPORARY

SPEED_SECONDS = 0.5


def export_run(directory: RunDirectory, *, checkpoint: str = "latest", task: str | None = None, output: Path | None = None) -> Exported:
    """Writes `policy.pt2`, a model card `README.md` and `play.py` for a run's policy.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        task: the name of the one task to fold the policy for; None keeps all.
        output: a folder that is made; by default `export/STEP` or `export/STEP-TASK` in the run.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
        SuiteError: there is no such task.
        UserError: the folder exists and is not empty, or cannot be written; or the tasks observe more than one array.
    """
    step = resolve_policy(directory.checkpoints, directory.policies, checkpoint).name
    _, description = load_policy(directory.policies / step)
    suite, actor = load_actor(directory.policies / step)
    actor.eval()
    index = None if task is None else suite.index(task)
    if len(suite.observation_space) > 1 or isinstance(actor.distribution, Either):
        seen = ", ".join(suite.observation_space)
        raise UserError(f"{suite.name} cannot be exported: an exported policy reads one array, and its tasks observe {seen}")
    (observation,) = suite.observation_space
    portable = PortableActor(actor, observation, index).eval()
    inputs = example_inputs(suite, actor, index, rows=2)
    any_rows = {0: torch.export.Dim("batch", min=1)}
    # The inputs after the first one are one argument, `*inputs`.
    shapes = (any_rows, tuple(any_rows for _ in inputs[1:])) if inputs[1:] else (any_rows,)
    with torch.no_grad():
        program = torch.export.export(portable, inputs, dynamic_shapes=shapes)
    whole = None if index is None else _microseconds(PortableActor(actor, observation), example_inputs(suite, actor, None, SPEED_ROWS))
    folder = output or directory.path / "export" / (step if task is None else f"{step}-{task}")
    exported = Exported(
        folder,
        portable.num_experts,
        int(actor.trunk.gate.task_weights().shape[1]),
        _microseconds(portable, example_inputs(suite, actor, index, SPEED_ROWS)),
        whole,
    )
    card = model_card(description, suite, actor, task, exported, _evaluation_of(directory, step, description["weights_sha256"]))
    try:
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder} exists and is not an empty folder; choose another one with -o")
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = folder.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
        temporary.mkdir()
        torch.export.save(program, temporary / "policy.pt2")
        (temporary / "README.md").write_text(card)
        (temporary / "play.py").write_text(play_script(suite, actor, index))
        if folder.exists():
            folder.rmdir()
        shutil.move(temporary, folder)
    except OSError as error:
        raise UserError(f"cannot write {folder}: {error.strerror}") from None
    return exported


def _evaluation_of(directory: RunDirectory, step: str, weights: str) -> EvaluationResults | None:
    """The evaluation of exactly these weights; None if there is none."""
    try:
        results = read_results(directory.layout.results(step))
    except ResultsError:
        return None
    return results if results.policy.get("weights_sha256") == weights else None


@torch.inference_mode()
def _microseconds(module: nn.Module, inputs: tuple[Tensor, ...]) -> float:
    """Time per row, of the fastest of several rounds."""
    module.eval()
    module(*inputs)
    best, end = float("inf"), time.perf_counter() + SPEED_SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        module(*inputs)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / len(inputs[0])
