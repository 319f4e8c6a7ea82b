"""Runs of the first version go on: its config, policy and checkpoint, with former names of fields, gates and states.

`tests/data/run_v1` was written before modules and names moved: toy/three with the scheduler exp3s, `learner.queue: 1`, an LSTM with
`model.memory_span: 10` and `model.gate: equal`.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from mtrl.cli import main
from mtrl.config import ConfigError, load_config, parse_config
from mtrl.evaluation.policy import load_actor
from mtrl.storage.checkpoint import load_checkpoint
from mtrl.training import build_trainer

RUN = Path(__file__).parent / "data" / "run_v1"
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture
def run(tmp_path) -> Path:
    return Path(shutil.copytree(RUN, tmp_path / "run", symlinks=True))


def test_former_names_are_read_with_a_hint():
    with pytest.warns(FutureWarning, match="queue is now called max_queued_batches"):
        config = load_config(RUN / "config.yaml")
    assert (config.learner.max_queued_batches, config.model.memory_t_max, config.model.gate) == (1, 10, "uniform")
    with pytest.warns(FutureWarning, match="model.gate own is now called one_per_task"):
        assert parse_config({"model": {"gate": "own"}}).model.gate == "one_per_task"
    with pytest.raises(ConfigError, match="quue: unknown field"):
        parse_config({"learner": {"quue": 1}})


def test_its_policy_acts():
    suite, actor = load_actor(RUN / "policy" / "3105")
    assert suite.name == "toy/three" and actor.memory is not None


def test_its_checkpoint_goes_on(run):
    """Every component is restored, and the run trains further by the command line."""
    components = load_checkpoint(run / "checkpoints" / "3105").components
    trainer = build_trainer(load_config(run / "config.yaml"))
    trainer.load_state_dict(components)
    assert trainer.frames == 3105 and trainer.updates == components["learner"]["version"]
    np.testing.assert_array_equal(trainer.scheduler.log_weights, components["curriculum"]["scheduler"]["weights"])
    np.testing.assert_array_equal(trainer.scheduler.num_observations, components["curriculum"]["scheduler"]["looks"])
    trainer.close()
    assert main(["train", "--resume", str(run), "--total-frames", "3_600", "--learner.queue", "2"]) == 0
    assert load_config(run / "config.yaml").learner.max_queued_batches == 2
    assert (run / "curriculum-until-3105.jsonl").exists() and main(["explain", str(run)]) == 0, "decisions by the rule of today"


def test_its_tasks_can_change(run):
    command = ["train", "--resume", str(run), "--suite.name", "toy/cue,corridor", "--allow-task-change", "--total-frames", "3_600"]
    assert main([*command, "--learner.surrogate", "clipped", "--learner.proximal", "average"]) == 0


def test_former_commands_are_understood(run, capsys):
    assert main(["replay", str(run)]) == 1
    said = capsys.readouterr()
    assert "replay is now called explain" in said.err and "another version" in " ".join(said.out.split())
    assert main(["evaluate", str(run), "--actions", "likely", "--episodes", "2", "--workers", "1"]) == 0
    assert "--actions likely is now called greedy" in capsys.readouterr().err
