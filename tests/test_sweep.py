"""Several seeds as one Tune experiment, on real Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import toy_config

from mtrl.cli.dispatch import main
from mtrl.distributed.trials import with_threads
from mtrl.machine import whole_cores
from mtrl.storage.checkpoint import named_step
from mtrl.storage.run_directory import RunDirectory


def test_seeds_become_runs_and_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ray_stopped: None
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    command = ["sweep", "toy", "--seeds", "2", "--run-dir", str(tmp_path / "sweep"), "--total-frames", "600", "--num-env-runners", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("mean over seeds", "seed-0", "seed-1", "IQM", "corridor", "toy-v1"))
    runs = [RunDirectory.open(tmp_path / "sweep" / f"seed-{seed}") for seed in (0, 1)]
    assert [run.config.seed for run in runs] == [0, 1] and all(run.config.learner.threads is None for run in runs)
    weights = [next(run.policies.glob("[0-9]*/weights.safetensors")).read_bytes() for run in runs]
    assert weights[0] != weights[1]
    lines = [len(run.read_metrics()) for run in runs]
    # Again: what is finished stays as it is.
    assert main(command) == 0
    assert "seed-1" in capsys.readouterr().out and [len(run.read_metrics()) for run in runs] == lines
    assert main([*command, "--learner.discount", "0.9"]) == 2
    assert "holds another experiment (learner.discount 0.99 there and 0.9 here)" in capsys.readouterr().err
    # Longer: the same runs go on, and keep the experiment until then.
    assert main([*command, "--total-frames", "1200"]) == 0
    out = capsys.readouterr().out
    assert "seed-1: " in out and "of 1,200 frames" in out and "Configuration for experiment" not in out
    assert all(list(run.layout.archived_configs()) and run.read_metrics()[-1]["summary/frames"] >= 1200 for run in runs)
    assert main(["sweep", "toy", "--seeds", "none"]) == 2


@pytest.mark.parametrize(
    ("number", "code", "command", "part"),
    [
        (signal.SIGTERM, 143, ["sweep", "toy"], ""),
        pytest.param(signal.SIGINT, 130, ["bench", "curriculum", "toy", "--schedulers", "uniform"], "uniform/", marks=pytest.mark.slow),
    ],
)
def test_a_signal_saves_every_seed(tmp_path: Path, number: int, code: int, command: list[str], part: str) -> None:
    seeds = whole_cores() + 1  # one of them waits for a core
    command = [sys.executable, str(Path(__file__).parents[1] / "launch.py"), *command, "--seeds", str(seeds), "--run-dir", str(tmp_path)]
    folder = tmp_path / part
    command += ["--total-frames", "100_000_000", "--num-env-runners", "0", "--report-seconds", "1", "--learner.threads", "64"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    assert process.stdout is not None
    seen: set[str] = set()
    for line in process.stdout:
        seen |= {name for name in ("seed-0", "seed-1") if line.startswith(f"{part}{name}: ")}
        if len(seen) == 2:
            break
    assert not (folder / f"seed-{seeds - 1}").exists()
    os.killpg(process.pid, number)  # as a terminal does
    rest = process.communicate(timeout=60)[0]
    assert process.returncode == code, rest
    assert "the same command goes on from there" in rest and "Traceback" not in rest
    assert not (folder / f"seed-{seeds - 1}").exists(), "what has not begun does not begin"
    for seed in (0, 1):
        run = RunDirectory.open(folder / f"seed-{seed}")
        newest = run.read_metrics()[-1]["summary/frames"]
        assert named_step(run.checkpoints, "latest") == newest > 0, "the checkpoint is of the last update"
        assert json.loads(run.layout.state.read_text())["state"] == "interrupted"
        assert {line["throughput/threads"] for line in run.read_metrics()} == {1}, "its share of the cores"


def test_trials_side_by_side_share_the_cores() -> None:
    planned = toy_config(env_runners={"env_threads": 2, "inference_threads": 3}, learner={"threads": 4})
    limited = [with_threads(planned, most) for most in (1, 3, 8)]
    threads = [(config.env_runners.env_threads, config.env_runners.inference_threads, config.learner.threads) for config in limited]
    assert threads == [(1, 1, 1), (2, 3, 3), (2, 3, 4)]
    assert with_threads(toy_config(), 3).learner.threads == 3, "a trial has all threads of its share"


def test_a_run_that_fails_is_a_failed_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_stopped: None) -> None:
    """It must not be evaluated or averaged as if it had been trained."""
    command = ["sweep", "toy", "--seeds", "1", "--run-dir", str(tmp_path / "sweep"), "--num-env-runners", "1", "--total-frames", "600"]
    assert main([*command, "--suite.name", "chaos/toy/three?raise=1"]) == 2
    said = capsys.readouterr().err
    assert "1 of 1 trials failed" in said and "this environment raises" in said


@pytest.mark.slow
def test_trials_have_learners_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str], ray_stopped: None) -> None:
    """Reserved with the runners: Ray would have no core left for them within the trial."""
    half = ["--env-runners.num-cpus-per-env-runner", "0.5", "--learners.num-cpus-per-learner", "0.5"]
    command = ["sweep", "toy", "--seeds", "1", "--run-dir", str(tmp_path / "sweep"), "--num-env-runners", "1", "--total-frames", "600"]
    assert main([*command, *half, "--learners.num-learners", "2"]) == 0
    assert "corridor" in capsys.readouterr().out
