"""Searches over settings, on real Ray Tune with real training runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mtrl.cli.dispatch import main
from mtrl.config import ConfigError, ExperimentConfig, load_config
from mtrl.dashboard.search import frontier, spent_until_best, write_search_page
from mtrl.errors import UserError
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.search_record import FILE, TrialRecord, read_search

ROOT = Path(__file__).parents[1]
# The first value of the rate learns the toy tasks within the budget, the second one cannot.
SPACE = "learner.actor.learning_rate: {choice: [3.0e-3, 1.0e-7]}\nlearner.epochs: {int: [1, 2]}\n"


@pytest.fixture
def space(tmp_path: Path) -> Path:
    path = tmp_path / "space.yaml"
    path.write_text(SPACE)
    return path


def arguments(space: Path, folder: Path, *more: str) -> list[str]:
    return ["search", "toy", "--space", str(space), "--run-dir", str(folder), "--trials", "4", *more]


def test_every_trial_is_a_run_and_a_row(
    tmp_path: Path, space: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ray_stopped: None
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "search"
    options = ["--trials", "2", "--budget", "4_000", "--method", "random"]
    assert main(arguments(space, folder, *options)) == 0
    out = capsys.readouterr().out
    trials = read_search(folder)
    assert len(trials) == 2 and all(trial.state == "finished" and trial.curve[-1][0] >= 4000 for trial in trials)
    for trial in trials:
        run = RunDirectory.open(folder / trial.name)
        assert (run.config.learner.epochs, run.config.total_frames) == (trial.values["learner.epochs"], 4000)
        assert json.loads((folder / trial.name / "state.json").read_text())["state"] == "finished"
    assert f"{trials[0].name}/config.yaml" in out and "2 trials: 2 finished" in out
    page = (folder / "search.html").read_text()
    assert "learner.actor.learning_rate" in page and all(trial.name in page for trial in trials)
    assert main(arguments(space, folder, *options, "--learner.discount", "0.9")) == 2
    assert "holds another search (other experiment)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_search_finds_the_rate_that_learns_and_stops_the_other(
    tmp_path: Path, space: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, ray_stopped: None
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    folder = tmp_path / "search"
    assert main(arguments(space, folder, "--budget", "30_000", "--trials", "6")) == 0
    out = capsys.readouterr().out
    trials = read_search(folder)
    assert len(trials) == 6 and {trial.state for trial in trials} <= {"finished", "stopped"}
    by_rate = {rate: [trial for trial in trials if trial.values["learner.actor.learning_rate"] == rate] for rate in (3e-3, 1e-7)}
    assert trials[0].values["learner.actor.learning_rate"] == 3e-3 and trials[0].best is not None and trials[0].best > 0.9
    # ASHA looks first after a sixteenth of the budget, and lets one of four go on.
    assert any(trial.state == "stopped" and trial.curve[-1][0] < 15_000 for trial in trials)
    assert all(trial.best is not None and trial.best < 0.9 for trial in by_rate[1e-7])
    assert f"{trials[0].name}/config.yaml" in out and "6 trials: " in out
    for trial in trials:
        run = RunDirectory.open(folder / trial.name)
        assert run.config.learner.epochs == trial.values["learner.epochs"]
        assert run.read_metrics()[-1]["summary/frames"] >= trial.curve[-1][0]
        state = json.loads((folder / trial.name / "state.json").read_text())
        assert (state["state"], "search" in state.get("reason", "")) == (
            ("finished", False) if trial.state == "finished" else ("interrupted", True)
        )
    page = (folder / "search.html").read_text()
    assert "learner.actor.learning_rate" in page and all(trial.name in page for trial in trials)
    # Another search does not mix with this one.
    assert main(arguments(space, folder, "--budget", "40_000", "--trials", "6")) == 2
    assert "holds another search (other experiment, budget)" in capsys.readouterr().err


@pytest.mark.slow
def test_a_population_goes_on_from_its_best(tmp_path: Path, space: Path, ray_stopped: None) -> None:
    """Those with the rate that learns nothing take over the weights and a rate near that of one that learns."""
    folder = tmp_path / "search"
    assert main(arguments(space, folder, "--budget", "40_000", "--method", "pbt", "--search-seed", "1")) == 0
    logs = [path.read_text() for path in folder.glob("tune/**/pbt_global.txt")]
    assert logs and logs[0].strip(), "no trial went on from another"
    trials = read_search(folder)
    assert len(trials) == 4 and all(trial.best is not None and trial.best > 0.8 for trial in trials)


@pytest.mark.slow
def test_optuna_draws_the_values(tmp_path: Path, space: Path, ray_stopped: None) -> None:
    pytest.importorskip("optuna")
    folder = tmp_path / "search"
    assert main(arguments(space, folder, "--budget", "8s", "--method", "optuna")) == 0
    trials = read_search(folder)
    assert len(trials) == 4 and all(trial.values.keys() == {"learner.actor.learning_rate", "learner.epochs"} for trial in trials)
    assert all(trial.curve[-1][1] < 8 + 6 for trial in trials), "seconds are the budget"


@pytest.mark.slow
def test_an_interrupted_search_goes_on(tmp_path: Path, space: Path) -> None:
    folder = tmp_path / "search"
    command = [
        sys.executable,
        str(ROOT / "launch.py"),
        *arguments(space, folder, "--budget", "60_000", "--method", "random", "--trials", "3"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | {"COLUMNS": "160"})
    deadline = time.monotonic() + 120
    while (time.monotonic() < deadline and not (folder / FILE).exists()) or not any(trial.curve for trial in read_search(folder)):
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=90)
    assert process.returncode == 128 + signal.SIGTERM and "the same command goes on from there" in out and "Traceback" not in out
    assert f"--run-dir {folder}" in out and "search.html" in out and "trials have reported" in (folder / "search.html").read_text()
    before = {trial.name: trial.curve[0] for trial in read_search(folder) if trial.curve}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    trials = read_search(folder)
    assert len(trials) == 3 and all(trial.state == "finished" and trial.curve[-1][0] >= 60_000 for trial in trials)
    assert all(next(trial for trial in trials if trial.name == name).curve[0] == first for name, first in before.items())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("learner.lambda_: {uniform: [0.9]}", "learner.lambda_: uniform takes two numbers, the smaller one first, got [0.9]"),
        ("learner.lambda_: {uniform: [1.0, 0.9]}", "the smaller one first"),
        ("learner.entropy_cost: {log: [0, 1]}", "log takes two numbers above 0"),
        ("learner.epochs: {int: [1, 2.5]}", "int takes two whole numbers"),
        ("learner.epochs: {choice: []}", "choice takes a list of values, got []"),
        ("learner.epochs: [1, 2]", "learner.epochs: must be one of {uniform: [...]}, {log: [...]}"),
        ("learner.epoch: {int: [1, 2]}", "learner.epoch: unknown field; did you mean epochs?"),
        ("learner.discount: {uniform: [0.9, 1.1]}", "learner.discount: must be less than or equal to 1, got 1.1"),
        ("[1, 2]", "must have a line for each field"),
        ("a: {b: [", "is not YAML: line 1, column 9: "),
    ],
)
def test_a_space_that_does_not_fit_is_one_sentence(tmp_path: Path, text: str, complaint: str) -> None:
    search_space = pytest.importorskip("mtrl.distributed.search_space")
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        search_space.check_space(search_space.load_space(path), ExperimentConfig())
    assert complaint in str(error.value)


@pytest.mark.parametrize("name", ["minigrid", "metaworld"])
def test_the_spaces_that_come_with_the_program_fit(name: str) -> None:
    search_space = pytest.importorskip("mtrl.distributed.search_space")
    config = load_config(ROOT / "configs" / {"minigrid": "minigrid_mt3.yaml", "metaworld": "metaworld_mt10.yaml"}[name])
    search_space.check_space(search_space.load_space(ROOT / "configs" / "spaces" / f"{name}.yaml"), config)


def test_a_frontier_is_what_nothing_cheaper_has_reached() -> None:
    trials = [
        TrialRecord("trial-0", {}, "finished", [(10.0, 1.0, 0.2), (20.0, 2.0, 0.5)]),
        TrialRecord("trial-1", {}, "stopped", [(5.0, 4.0, 0.3)]),
    ]
    assert frontier(trials, "frames") == [(5.0, 0.3), (20.0, 0.5)]
    assert frontier(trials, "seconds") == [(1.0, 0.2), (2.0, 0.5)]
    assert spent_until_best(trials, "frames") == [(10.0, 0.2), (20.0, 0.5), (25.0, 0.5)]


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read the search"):
        write_search_page(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match="cannot read the search"):
        read_search(tmp_path)


def test_numbers_of_a_space_are_written_as_those_of_an_experiment(tmp_path):
    """YAML takes 1e-5 for a string."""
    search_space = pytest.importorskip("mtrl.distributed.search_space")
    (tmp_path / "space.yaml").write_text("learner.actor.learning_rate: {log: [1e-5, 1e-3]}\n")
    (domain,) = search_space.load_space(tmp_path / "space.yaml").values()
    assert domain.values == (1e-5, 1e-3)
