"""Several seeds as one Tune experiment, on real Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mtrl.cli.dispatch import main
from mtrl.storage.run_directory import RunDirectory


@pytest.fixture
def ray_stopped() -> Iterator[None]:
    ray = pytest.importorskip("ray")
    ray.shutdown()
    yield
    ray.shutdown()


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
    assert "holds another experiment" in capsys.readouterr().err
    assert main(["sweep", "toy", "--seeds", "none"]) == 2
