"""Going on with other tasks: what belongs to a task follows its name, what belongs to all stays, and nothing else changes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from helpers import Silent, toy_config

from mtrl.config import ConfigError, override
from mtrl.curriculum.schedulers.success_gap import SuccessGap
from mtrl.storage.checkpoint import CheckpointError
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.explain import explain_run
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.task_change import _moved_optimizers
from mtrl.training.trainer import build_trainer

BEFORE = "minigrid/Empty-5x5,DistShift1,DoorKey-5x5"
AFTER = "minigrid/DoorKey-5x5,LavaGapS5,Empty-5x5,LavaGapS6"  # other order, one gone, two new
OPTIONS = {"mastering_rate": {"graph": {}}, "fixed": {"weights": {"DoorKey-5x5": 2.0}}}


def trained(path: Path, **changes):
    config = toy_config(suite=BEFORE, total_frames=1200, env_runners__slots=12, **changes)
    directory, trainer = RunDirectory.create(path, config), build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    return directory, trainer


def changed(directory: RunDirectory, suite: str = AFTER):
    config = override(directory.config, {"suite.name": suite, "total_frames": 4000})
    return RunDirectory(directory.path, config), build_trainer(config)


@pytest.mark.parametrize("heads", ["single", "multi"])
def test_weights_moments_and_statistics_follow_the_names(tmp_path: Path, heads: str) -> None:
    directory, old = trained(tmp_path / "run", model__heads=heads, model__popart=heads == "multi")
    directory, new = changed(directory)
    fresh = {name: tensor.clone() for name, tensor in new.learner.policy.state_dict().items()}
    assert resume(new, directory, Silent(), allow_task_change=True)
    before, after = old.learner.policy.state_dict(), new.learner.policy.state_dict()
    per_task = [name for name in after if after[name].shape != before[name].shape]
    assert {"actor.trunk.gate.weight", "critic.trunk.gate.weight"} < set(per_task)
    assert any(("head.hidden_weight" if heads == "multi" else "head.task_bias") in name for name in per_task)
    for name in after:
        if name not in per_task:
            assert torch.equal(after[name], before[name]), name
            continue
        assert torch.equal(after[name][[0, 2]], before[name][[2, 0]]), name  # DoorKey and Empty
        assert torch.equal(after[name][[1, 3]], fresh[name][[1, 3]]), name  # the new ones
    gate = next(i for i, p in enumerate(new.learner.optimizers.parameters()["actor"]) if p.shape == after["actor.trunk.gate.weight"].shape)
    moments = [trainer.learner.state_dict()["optimizers"]["actor"]["state"][gate]["exp_avg_sq"] for trainer in (old, new)]
    assert torch.equal(moments[1][[0, 2]], moments[0][[2, 0]]) and not moments[1][[1, 3]].any() and moments[0].any()
    np.testing.assert_array_equal(new.statistics.episodes, old.statistics.episodes[[2, 0, 0, 0]] * [1, 0, 1, 0])
    np.testing.assert_array_equal(new.statistics.returns[[0, 2]], old.statistics.returns[[2, 0]])
    assert new.frames == old.frames and new.statistics.retired_frames == old.statistics.frames[1]
    assert new.updates == old.updates


@pytest.mark.parametrize("scheduler", ["camrl", "exp3s", "fixed", "mastering_rate", "plr", "smt"])  # those with a state of their own
def test_schedulers_go_on(tmp_path: Path, scheduler: str) -> None:
    directory, old = trained(tmp_path / "run", curriculum__scheduler=scheduler, curriculum__options=OPTIONS.get(scheduler, {}))
    directory, new = changed(directory)
    assert resume(new, directory, Silent(), allow_task_change=True)
    if hasattr(old.scheduler, "looks"):
        np.testing.assert_array_equal(
            new.scheduler.num_observations, np.array([*old.scheduler.num_observations])[[2, 0, 0, 0]] * [1, 0, 1, 0]
        )
        np.testing.assert_array_equal(new.scheduler.latest[[0, 2]], old.scheduler.latest[[2, 0]])
    assert run_training(new, directory, Silent()) == 0
    assert new.frames >= 4000
    replayed = explain_run(directory)
    assert not replayed.from_start and replayed.differing is None and replayed.decisions > 5


def test_tasks_and_scheduler_can_change_at_once(tmp_path: Path) -> None:
    directory, old = trained(tmp_path / "run", curriculum__scheduler="exp3s")
    assert "rewards" in old.scheduler.state_dict(), "a state of another shape"
    config = override(directory.config, {"suite.name": AFTER, "total_frames": 2000, "curriculum.scheduler": "success_gap"})
    directory, new = RunDirectory(directory.path, config), build_trainer(config)
    assert resume(new, directory, Silent(), allow_task_change=True)
    assert isinstance(new.scheduler, SuccessGap) and not new.scheduler.num_observations.any() and new.statistics.episodes.any()
    assert run_training(new, directory, Silent()) == 0


def test_refused_unless_it_is_asked_for(tmp_path: Path) -> None:
    directory, _ = trained(tmp_path / "run")
    directory, new = changed(directory)
    with pytest.raises(CheckpointError, match=r"but this experiment has DoorKey-5x5, LavaGapS5.*--allow-task-change"):
        resume(new, directory, Silent())


def test_metrics_and_counters_stay_monotone(tmp_path: Path) -> None:
    directory, old = trained(tmp_path / "run", report_seconds=0.1)
    lines = len(directory.read_metrics())
    directory, new = changed(directory)
    console = Silent()
    assert resume(new, directory, console, allow_task_change=True)
    assert any("new LavaGapS5, LavaGapS6; gone DistShift1" in message for message in console.messages)
    assert run_training(new, directory, Silent()) == 0
    frames = [row["summary/frames"] for row in directory.read_metrics()]
    assert len(frames) > lines and frames == sorted(frames)
    assert (directory.path / f"curriculum-until-{old.frames}.jsonl").exists()


def test_decisions_count_the_frames_of_tasks_that_are_gone(tmp_path: Path) -> None:
    directory, old = trained(tmp_path / "run")
    directory, new = changed(directory)
    assert resume(new, directory, Silent(), allow_task_change=True)
    frames = new.frames
    assert new.statistics.retired_frames > 0
    assert run_training(new, directory, Silent()) == 0
    logged = [decision.frames for decision in directory.read_decisions()]
    assert logged[0] == frames == old.frames and logged[-1] == new.frames
    directory.truncate_after(frames)  # nothing that was trained since the change stays
    assert [decision.frames for decision in directory.read_decisions()] == [frames]


def test_moments_of_new_tasks_are_where_their_rule_begins():
    """RMSProp divides by the root of its moment: from 0 the first steps of a new task were ten times too long."""
    few, many = torch.zeros(2, 3), torch.zeros(3, 3)
    old, new, more = ({"parameters": {"actor": [tensor]}} for tensor in (few, many, torch.zeros(4, 3)))
    state = {"exp_avg": torch.full((2, 3), 0.5), "square_avg": torch.full((2, 3), 0.25), "step": torch.tensor(7.0)}
    moved = _moved_optimizers({"actor": {"state": {0: state}, "param_groups": []}}, old, new, more, [(0, 0), (1, 2)])["actor"]["state"][0]
    assert moved["square_avg"][:, 0].tolist() == [0.25, 1.0, 0.25]
    assert moved["exp_avg"][:, 0].tolist() == [0.5, 0.0, 0.5] and moved["step"] == 7


def test_another_balancing_rule_begins_anew(tmp_path: Path) -> None:
    directory, old = trained(tmp_path / "run")
    config = override(directory.config, {"suite.name": AFTER, "learner.balancing": "gradnorm", "total_frames": 4000})
    new = build_trainer(config)
    assert resume(new, RunDirectory(directory.path, config), Silent(), allow_task_change=True)
    assert new.frames == old.frames and (new.learner.state_dict()["balancer"]["weights"] == 1).all()


class OneOfTwo(gymnasium.Env):
    """Three numbers within ±`bound`, and one of so many actions."""

    def __init__(self, bound: float = 1.0):
        self.observation_space = gymnasium.spaces.Box(-bound, bound, (3,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return np.zeros(3, np.float32), 1.0, True, False, {}


def test_kinds_of_observations_keep_their_numbers(tmp_path: Path) -> None:
    """Their encoders have equal shapes, and would be taken for each other's without a word."""
    for name, bound in (("Near-v0", 1.0), ("Far-v0", 2.0), ("Farther-v0", 3.0), ("AsFar-v0", 2.0)):
        gymnasium.register(name, functools.partial(OneOfTwo, bound))
    config = toy_config("gym/Near-v0,Far-v0", total_frames=200)
    directory, trainer = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    for suite, fits in (("gym/Far-v0,Near-v0", False), ("gym/Far-v0,Farther-v0", False), ("gym/Near-v0,AsFar-v0", True)):
        changed_directory, new = changed(directory, suite)
        if fits:
            assert resume(new, changed_directory, Silent(), allow_task_change=True)
        else:
            with pytest.raises(ConfigError, match="come in another order"):
                resume(new, changed_directory, Silent(), allow_task_change=True)
