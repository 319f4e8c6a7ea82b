"""Evaluations beside a training run: they choose `best`, are logged, and neither stop nor outlive the training."""

from __future__ import annotations

import errno
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from helpers import Silent, toy_config
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mtrl.config import EvaluationConfig
from mtrl.evaluation.background import BackgroundEvaluation
from mtrl.runs import go_on
from mtrl.storage.checkpoint import named_step, save_checkpoint, steps
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.run import run_training
from mtrl.training.trainer import build_trainer


def test_a_run_evaluates_on_the_side_and_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(
        total_frames=12_000,
        report_seconds=0.5,
        env_runners__slots=12,
        evaluation__every_frames=5_000,
        evaluation__episodes=3,
        curriculum__evidence="evaluation",
    )
    directory, trainer, console = RunDirectory.create(tmp_path / "run", config), build_trainer(config), Silent()
    states: list[dict[str, Any]] = []
    original = RunDirectory.write_state

    def write_state(self: RunDirectory, state: str, **details: Any) -> None:
        original(self, state, **details)
        states.append(json.loads(self.layout.state.read_text()))

    monkeypatch.setattr(RunDirectory, "write_state", write_state)
    assert run_training(trainer, directory, console) == 0
    # While it waits for its last evaluations it says so: the dashboard tells it from a run that was killed.
    assert [states[0]["state"], states[-1]["state"]] == ["training", "finished"]
    assert states[-2]["state"] == "training" and states[-2]["evaluating"] == trainer.frames
    found = {int(path.parent.name): json.loads(path.read_text()) for path in directory.path.glob("evaluation/*/results.json")}
    assert len(found) >= 2 and trainer.frames in found
    assert not any("warning" in message for message in console.messages)
    # The toy trains thousands of frames while an evaluation starts: those that were due meanwhile are said.
    assert any(message.startswith("no evaluation at") for message in console.messages)
    # `best` is the one that did best, the earliest of equals, and was kept although newer checkpoints came.
    scores = {step: results["score_mean"]["value"] for step, results in sorted(found.items())}
    best = named_step(directory.checkpoints, "best")
    assert best in steps(directory.checkpoints) and best == max(scores, key=lambda step: scores[step])
    # The curriculum has seen each of them.
    assert trainer.statistics.evaluated_episodes.tolist() == [3 * len(found)] * 3
    # The metrics say what was found, and of which policy.
    rows = [row for row in directory.read_metrics() if "evaluation/frames" in row]
    assert [row["summary/evaluation_score"] for row in rows if row["evaluation/frames"] == trainer.frames] == [scores[trainer.frames]]
    assert all(row["evaluation/frames"] in found and "evaluation/corridor/score" in row for row in rows)
    assert sorted(row["evaluation/frames"] for row in rows) == sorted(found), "each evaluation has a line of its own, none is lost"
    # TensorBoard shows each at the frames of its policy.
    events = EventAccumulator(str(directory.path)).Reload().Scalars("summary/evaluation_score")
    assert {event.step: event.value for event in events} == pytest.approx(scores)
    for step, results in found.items():
        assert results["seed"] != 0  # `best` is not chosen by the episodes that `evaluate` reports
        policy = directory.policies / str(step) / "policy.json"
        if policy.exists():
            assert results["policy"]["weights_sha256"] == json.loads(policy.read_text())["values"]["weights_sha256"]


def test_what_is_being_evaluated_is_kept(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40):
        save_checkpoint(tmp_path, step, {"a": 1}, tasks=["x"], keep=1, protected=(10,))
    assert steps(tmp_path) == [10, 40]


def test_a_failure_is_a_sentence(tmp_path: Path) -> None:
    config = toy_config()
    background = BackgroundEvaluation(RunDirectory.create(tmp_path / "run", config), EvaluationConfig(every_frames=100))
    assert not background.due(99) and background.due(100)
    background.start(100)
    assert background.running == 100 and not background.due(1000)
    while (found := background.poll()) is None:
        time.sleep(0.1)
    assert isinstance(found, str) and found.startswith("the evaluation of step 100 failed (") and "has no checkpoint '100'" in found
    assert not background.due(150) and background.due(200)


def test_a_machine_that_refuses_does_not_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where no process can be started, nor where its results cannot be read."""
    config = toy_config()
    background = BackgroundEvaluation(RunDirectory.create(tmp_path / "run", config), EvaluationConfig(every_frames=100))

    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr("mtrl.evaluation.background.subprocess.Popen", refuse)
    assert background.start(100) == "the evaluation of step 100 cannot start: Cannot allocate memory"
    assert background.running is None and not background.due(150)
    monkeypatch.undo()
    background._step, background._process = 100, subprocess.Popen(["true"])
    background._process.wait()
    found = background.poll()
    assert isinstance(found, str) and found.startswith("the results of the evaluation of step 100 cannot be read")


def test_a_run_that_ended_before_its_last_evaluation_gets_it(tmp_path: Path) -> None:
    config = toy_config(total_frames=300, evaluation__every_frames=10**6, evaluation__episodes=1)
    directory = RunDirectory.create(tmp_path / "run", config)
    trainer = build_trainer(config)
    while trainer.frames < 300:
        trainer.step()
    from mtrl.training.saving import save

    assert save(trainer, directory, Silent())
    directory.write_state("training", frames=trainer.frames, evaluating=trainer.frames)  # then its machine was lost
    trainer.close()
    assert go_on(directory.path, config, Silent(), repeated=True) == 0
    assert directory.layout.results(trainer.frames).exists()
    assert json.loads(directory.layout.state.read_text())["state"] == "finished"
    said = Silent()
    assert go_on(directory.path, config, said, repeated=True) == 0 and "nothing to do" in said.messages[-1]


def test_it_ends_with_the_run(tmp_path: Path) -> None:
    config = toy_config(suite__name="minigrid/mt3", total_frames=200, evaluation__every_frames=1)
    directory, trainer = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    from mtrl.training.saving import save

    trainer.step()
    assert save(trainer, directory, Silent())
    background = BackgroundEvaluation(directory, config.evaluation)
    background.start(trainer.frames)
    process = background._process
    assert process is not None and process.poll() is None
    background.close()
    assert process.poll() is not None and background.running is None
