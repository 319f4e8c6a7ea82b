"""Runs from start to end, as the command line starts them."""

from __future__ import annotations

import json
import resource
import signal

import pytest
from helpers import Silent, fingerprint, toy_config

from mtrl.config import override
from mtrl.evaluation.runner import evaluate_run
from mtrl.storage.checkpoint import CheckpointError, steps
from mtrl.storage.run_directory import RunDirectory, RunDirectoryError
from mtrl.training.run import run_training
from mtrl.training.saving import resume, save, write_decisions
from mtrl.training.trainer import build_trainer


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    config = toy_config(total_frames=4000, report_seconds=0.2, env_runners__slots=12)
    directory = RunDirectory.create(tmp_path_factory.mktemp("runs") / "run", config)
    trainer = build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    return directory, trainer


def test_a_run_leaves_what_is_needed(finished):
    directory, trainer = finished
    assert trainer.frames >= 4000
    assert {"config.yaml", "versions.json", "metrics.jsonl", "checkpoints", "policy"} <= {p.name for p in directory.path.iterdir()}
    assert list(directory.path.glob("events.out.tfevents.*"))
    rows = directory.read_metrics()
    assert rows[-1]["summary/frames"] == trainer.frames
    assert RunDirectory.open(directory.path).config == trainer.config
    assert steps(directory.policies) == steps(directory.checkpoints) == [trainer.frames]


def test_tensorboard_shows_the_same_numbers(finished):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    directory, trainer = finished
    events = EventAccumulator(str(directory.path))
    events.Reload()
    last = directory.read_metrics()[-1]
    for name in ("summary/score_mean", "tasks/cue/return"):
        assert events.Scalars(name)[-1].value == pytest.approx(last[name], rel=1e-5)
        assert events.Scalars(name)[-1].step == trainer.frames
    assert "custom_scalars__config__" in str(events.Tags())


def test_a_resumed_run_has_every_component(finished):
    directory, trainer = finished
    other = build_trainer(trainer.config)
    assert resume(other, directory, Silent())
    for component in ("learner", "statistics", "curriculum"):
        assert fingerprint(other.state_dict()[component]) == fingerprint(trainer.state_dict()[component])


def test_a_run_without_a_checkpoint_begins_again(tmp_path):
    """One that was killed before its first: what it has logged is of no policy that goes on."""
    config = toy_config(total_frames=400, report_seconds=0.001)
    directory, trainer = RunDirectory.create(tmp_path, config), build_trainer(config)
    for _ in range(3):
        trainer.step()
        directory.write_metrics(trainer.metrics(), trainer.suite)
    directory.write_decisions(trainer.decisions())
    trainer.close()
    assert directory.read_metrics() and list(directory.read_decisions())
    again = build_trainer(config)
    assert not resume(again, directory, Silent())
    assert not directory.read_metrics() and not list(directory.read_decisions())
    assert run_training(again, directory, Silent()) == 0
    frames = [row["summary/frames"] for row in directory.read_metrics()]
    assert frames == sorted(frames)


def test_other_tasks_are_refused(finished):
    directory, _ = finished
    with pytest.raises(CheckpointError, match="trained on corridor, constant, cue, but this experiment has cue, constant"):
        resume(build_trainer(toy_config("toy/cue,constant")), directory, Silent())


def test_evaluation_is_repeatable_and_complete(finished):
    directory, trainer = finished
    first, second = (evaluate_run(directory) for _ in range(2))
    assert first.episodes == second.episodes
    assert {name: task.n for name, task in first.tasks.items()} == dict.fromkeys(trainer.suite.names, 5)
    assert first.tasks["constant"].score.value == 1.0
    interval = first.score_mean
    assert interval.low <= interval.value <= interval.high
    assert first.changed == {}
    assert evaluate_run(directory, episodes=2).changed == {"episodes": 2}
    written = json.loads((directory.path / "evaluation" / str(trainer.frames) / "results.json").read_text())
    assert written["protocol"] == "toy-v1"


def test_folders_that_are_no_runs(tmp_path):
    with pytest.raises(RunDirectoryError, match="there is no run directory"):
        RunDirectory.open(tmp_path / "missing")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunDirectoryError, match=r"has no config\.yaml"):
        RunDirectory.open(tmp_path)
    with pytest.raises(RunDirectoryError, match="--resume"):
        RunDirectory.create(tmp_path, toy_config())
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_unfinished_line_of_metrics_is_passed_over_and_resumed_frames_are_dropped(tmp_path):
    directory = RunDirectory.create(tmp_path / "run", toy_config())
    rows = [{"summary/frames": frames} for frames in (100, 200, 300)]
    (directory.path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"summary/fra')
    assert directory.read_metrics() == rows
    directory.truncate_after(200)
    assert directory.read_metrics() == rows[:2]


def test_a_run_without_its_last_checkpoint_has_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("mtrl.training.run.RETRY_SECONDS", 0.01)
    config = toy_config(total_frames=400)
    directory, console = RunDirectory.create(tmp_path / "run", config), Silent()
    directory.checkpoints.write_text("a file where the folder should be")
    assert run_training(build_trainer(config), directory, console) == 1
    assert json.loads(directory.layout.state.read_text())["state"] == "failed"
    assert any("is lost" in message for message in console.messages) and not any("training goes on" in m for m in console.messages)


def test_a_last_checkpoint_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr("mtrl.training.run.RETRY_SECONDS", 0.01)
    config = toy_config(total_frames=400)
    directory, console = RunDirectory.create(tmp_path / "run", config), Silent()
    directory.checkpoints.write_text("a file where the folder should be")
    monkeypatch.setattr("mtrl.training.run.time.sleep", lambda seconds: directory.checkpoints.unlink(missing_ok=True))
    assert run_training(build_trainer(config), directory, console) == 0
    assert steps(directory.checkpoints) and json.loads(directory.layout.state.read_text())["state"] == "finished"


def test_a_disk_that_is_full_for_a_moment_costs_no_decision(tmp_path):
    """A file system of 64 KiB would need root: the limit of a file's size refuses as a full disk does."""
    config = toy_config(total_frames=10**9)
    directory, trainer, console = RunDirectory.create(tmp_path / "run", config), build_trainer(config), Silent()
    for _ in range(8):
        trainer.step()
    made = len(trainer._decisions)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (700, hard))
        write_decisions(trainer, directory, console)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert "cannot write the curriculum's decisions" in console.messages[0] and not directory.layout.decisions.read_text()
    trainer.step()
    write_decisions(trainer, directory, console)
    decisions = list(directory.read_decisions())
    assert len(decisions) == made + 1 and [d.version for d in decisions] == sorted(d.version for d in decisions)


def test_what_was_put_aside_stays_what_was_trained(tmp_path):
    """A resumption with other settings may end before it has trained anything, and another one follows at the same frames."""
    config = toy_config()
    directory = RunDirectory.create(tmp_path / "run", config)
    directory.layout.decisions.write_text("history\n")
    for seed in (1, 2):
        directory.archive_config(override(config, {"seed": seed}), 500)
        directory.archive_decisions(500)
        directory.layout.decisions.write_text("of a process that has trained nothing\n")
    assert "seed: 1" in directory.layout.archived_config(500).read_text()
    assert directory.layout.archived_decisions(500).read_text() == "history\n"


def test_a_disk_that_refuses_is_a_warning(tmp_path):
    config = toy_config()
    directory = RunDirectory.create(tmp_path / "run", config)
    directory.checkpoints.write_text("a file where the folder should be")
    console = Silent()
    save(build_trainer(config), directory, console)
    assert "cannot save" in console.messages[0]
    assert "training goes on" in console.messages[0]
