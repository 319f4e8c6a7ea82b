"""The log of decisions: complete, exact, and enough to make every decision again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import Silent, toy_config

from mtrl.cli.dispatch import main
from mtrl.curriculum import SCHEDULERS
from mtrl.curriculum.decisions import Decision, from_line, to_line
from mtrl.curriculum.evidence import Evidence
from mtrl.errors import UserError
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.explain import explain_run
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

OPTIONS = {"fixed": {"weights": {"corridor": 2.0}}, "mastering_rate": {"graph": {"cue": ["corridor"]}}, "smt": {"frames": 3000}}


def trained(path: Path, scheduler: str, frames: int = 4000) -> RunDirectory:
    config = toy_config(
        curriculum__scheduler=scheduler, curriculum__options=OPTIONS.get(scheduler, {}), total_frames=frames, env_runners__slots=12
    )
    directory, trainer = RunDirectory.create(path, config), build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    return directory


@pytest.mark.parametrize("scheduler", sorted(SCHEDULERS))
def test_every_decision_comes_out_again(tmp_path: Path, scheduler: str) -> None:
    """Also those before and after a run was killed: what it had logged after its checkpoint is trained and logged anew."""
    directory = trained(tmp_path / "run", scheduler, frames=2000)
    add_lines_after_the_checkpoint(directory)
    longer = directory.config.model_copy(update={"total_frames": 4000})
    trainer = build_trainer(longer)
    assert resume(trainer, directory, Silent()) and run_training(trainer, RunDirectory(directory.path, longer), Silent()) == 0
    replayed = explain_run(directory)
    assert replayed.differing is None
    rows = directory.read_metrics()
    assert replayed.decisions >= 40 and replayed.shown[-1].decision.frames == rows[-1]["summary/frames"] >= 4000
    for index, name in enumerate(replayed.names):
        assert replayed.shown[-1].shares[index] == pytest.approx(rows[-1][f"tasks/{name}/share_wanted"])


@pytest.mark.parametrize("sampler", ["uniform", "plr", "plr_robust", "accel", "clutr"])
def test_every_decision_about_levels_comes_out_again(tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same for the levels of a task."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clutr = {"autoencoder_updates": 20, "latent_size": 4, "teacher_batch": 8} if sampler == "clutr" else {}
    levels = {"sampler": sampler, "training_levels": 40, "buffer_size": 30, **clutr}
    changes = {f"curriculum__levels__{name}": value for name, value in levels.items()}
    config = toy_config("context/cartpole:all", suite__env_workers=0, total_frames=1500, **changes)
    directory, first = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(first, directory, Silent()) == 0
    add_lines_after_the_checkpoint(directory)
    longer = config.model_copy(update={"total_frames": 3000})
    trainer = build_trainer(longer)
    assert resume(trainer, directory, Silent()) and run_training(trainer, RunDirectory(directory.path, longer), Silent()) == 0
    replayed = explain_run(directory)
    assert replayed.differing is None and replayed.decisions >= 30
    (summary,) = replayed.shown[-1].levels
    assert summary.episodes > 60 and (sampler == "uniform" or summary.rated > 20)


def add_lines_after_the_checkpoint(directory: RunDirectory) -> None:
    """As if the run was killed: a decision of frames that will be trained on again, and half a line."""
    path = directory.path / "curriculum.jsonl"
    lines = path.read_text().splitlines()
    last = json.loads(lines[-1])
    late = last | {"version": last["version"] + 1, "trained": last["trained"] + 90, "frames": [9000.0] * len(last["frames"])}
    path.write_text("\n".join([*lines, json.dumps(late), lines[-1][:30]]))


def test_a_resumed_runs_log_has_no_gap_and_no_repetition(tmp_path: Path) -> None:
    directory = trained(tmp_path / "run", "learning_progress", frames=3000)
    add_lines_after_the_checkpoint(directory)
    config = directory.config.model_copy(update={"total_frames": 6000})
    trainer = build_trainer(config)
    assert resume(trainer, directory, Silent()) and run_training(trainer, RunDirectory(directory.path, config), Silent()) == 0
    frames = [decision.frames for decision in directory.read_decisions()]
    assert frames == sorted(frames) and frames[-1] == trainer.frames > 6000 - 1
    versions = [decision.version for decision in directory.read_decisions()]
    assert sorted(set(versions)) == list(range(trainer.updates + 1))
    assert explain_run(directory).differing is None


def test_a_line_gives_back_the_very_numbers() -> None:
    rng = np.random.default_rng(0)
    arrays = [rng.random(3) for _ in range(7)]
    arrays[2][1] = np.nan
    decision = Decision(7, 3000, Evidence(*arrays, similarity=rng.random((3, 3))), rng.random(3))
    again = from_line(to_line(decision))
    for ours, theirs in zip((*decision.evidence, decision.shares), (*again.evidence, again.shares), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    for line in ("", "[]", "{}", '{"version": 1}', "7", to_line(decision)[:-9]):
        with pytest.raises(ValueError):
            from_line(line)


def test_a_changed_share_is_found(tmp_path: Path) -> None:
    directory = trained(tmp_path / "run", "success_gap")
    lines = (directory.path / "curriculum.jsonl").read_text().splitlines()
    forged = json.loads(lines[20])
    forged["shares"] = [0.2, 0.3, 0.5]
    lines[20] = json.dumps(forged)
    (directory.path / "curriculum.jsonl").write_text("\n".join(lines) + "\n")
    differing = explain_run(directory).differing
    assert differing is not None and differing.decision.shares.tolist() == [0.2, 0.3, 0.5]


def test_the_command_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    directory = trained(tmp_path / "run", "success_gap")
    assert main(["explain", str(directory.path)]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("corridor", "constant", "cue")) and "all as they were logged" in out
    assert main(["explain", str(directory.path), "--task", "cue", "--at", "2_000"]) == 0
    out = capsys.readouterr().out
    assert len([line for line in out.splitlines() if line.startswith(("0 ", *"123456789"))]) >= 15
    for arguments, said in (
        ([], "explain needs the directory of a run"),
        ([str(directory.path), "--task", "cues"], "did you mean cue?"),
        ([str(directory.path), "--at", "soon"], "--at: must be a whole number"),
    ):
        assert main(["explain", *arguments]) == 2
        assert said in capsys.readouterr().err
    shutil.rmtree(directory.path / "checkpoints")
    (directory.path / "curriculum.jsonl").unlink()
    with pytest.raises(UserError, match="has no decisions"):
        explain_run(directory)
