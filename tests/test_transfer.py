"""Experts of one run as the beginning of another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import toy_config

from envs import make_suite
from mtrl.cli.dispatch import main
from mtrl.config import ConfigError, override
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import build_collector
from mtrl.storage.checkpoint import load_policy, steps


def experts(weights):
    return {name: array for name, array in weights.items() if ".encoder.experts." in name}


def test_frozen_experts_stay_and_everything_else_learns():
    source = Learner(toy_config("toy/corridor", seed=5), make_suite("toy/corridor"))
    config = toy_config("toy/cue,constant", model__freeze_experts=True)
    suite = make_suite(config.suite.name)
    learner, collector = Learner(config, suite), build_collector(config, suite, runner=0)
    learner.load_experts(source.policy_weights())
    start = learner.policy_weights()
    collector.set_weights(0, learner.actor_weights())
    for _ in range(3):
        learner.update(collector.collect().rollout, 0.0)
    after = learner.policy_weights()
    assert all(np.array_equal(array, after[name]) for name, array in experts(source.policy_weights()).items())
    others = set(after) - set(experts(after))
    assert {name for name in others if not np.array_equal(start[name], after[name])} == others


@pytest.mark.parametrize("suite", ["babyai/GoToRedBall,PickupLoc", "toy/corridor+minigrid/DoorKey-5x5"])
def test_what_experts_read_through_comes_along_and_is_frozen_with_them(suite):
    """Words, the reader of sentences and the stems of a mixed suite: without them the experts would read noise."""
    config = toy_config(suite, env_runners__slots=2, env_runners__unroll_length=4)
    tasks = make_suite(suite)
    source = Learner(config.model_copy(update={"seed": 7}), tasks)
    learner = Learner(override(config, {"model.freeze_experts": True}), tasks)
    learner.load_experts(source.policy_weights())
    rollout = build_collector(config, tasks, runner=0).collect().rollout
    for _ in range(2):
        learner.update(rollout, 0.0)
    rows = learner.make_batch(rollout).observations.rows
    for ours, theirs in ((learner.policy.actor, source.policy.actor), (learner.policy.critic, source.policy.critic)):
        features = [of.trunk.encoder(rows.obs, rows.task_ids) for of in (ours, theirs)]
        torch.testing.assert_close(*features)


def test_experts_that_do_not_fit_are_refused():
    three = Learner(toy_config(model__experts=3), make_suite("toy/three")).policy_weights()
    wide = Learner(toy_config(model__width=2.0), make_suite("toy/three")).policy_weights()
    learner = Learner(toy_config(), make_suite("toy/three"))
    before = learner.policy_weights()
    for weights in (three, wide, {}):
        with pytest.raises(ConfigError, match="the experts do not fit"):
            learner.load_experts(weights)
    assert all(np.array_equal(array, learner.policy_weights()[name]) for name, array in before.items())


def test_the_command_begins_with_another_runs_experts(tmp_path: Path, capsys):
    common = [
        "--total-frames",
        "600",
        "--report-seconds",
        "0.2",
        "--learner.actor.learning-rate",
        "1e-9",
        "--learner.critic.learning-rate",
        "1e-9",
    ]
    assert main(["train", "toy", *common, "--run-dir", str(tmp_path / "source"), "--seed", "7"]) == 0
    options = ["--suite.name", "toy/cue", "--init-experts", str(tmp_path / "source"), "--model.freeze-experts", "true"]
    assert main(["train", "toy", *common, *options, "--run-dir", str(tmp_path / "target")]) == 0
    saved = []
    for run in ("source", "target"):
        folder = tmp_path / run / "policy"
        saved.append(load_policy(folder / str(steps(folder)[-1]))[0])
    for name, array in experts(saved[0]).items():
        np.testing.assert_allclose(saved[1][name].numpy(), array.numpy(), atol=1e-6)
    assert json.loads((tmp_path / "target" / "metrics.jsonl").read_text().splitlines()[-1])["summary/frames"] >= 600
    assert main(["train", "toy", "--init-experts", str(tmp_path / "nowhere")]) == 2
    assert "there is no run directory" in capsys.readouterr().err
