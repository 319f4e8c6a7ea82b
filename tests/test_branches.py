"""The gate `safe`: a branch of each task's own beside the shared experts, as Deep Safe Multi-Task Learning has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import Silent, toy_config

from envs import make_suite
from mtrl.config import ConfigError, ModelConfig, override
from mtrl.learning.learner import Learner
from mtrl.models.branches import PrivateBranches
from mtrl.models.policy import build_policy
from mtrl.models.rows import Rows
from mtrl.rollouts.collector import build_collector
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.metrics import update_metrics
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

SAFE = {"gate": "safe", "experts": 3, "width": 0.25}
VECTORS, GRIDS = "toy/three", "minigrid/Empty-5x5,DistShift1"
KINDS = "minigrid/Empty-5x5,DistShift1+toy/corridor"


def rows_of(suite, counts, seed=0):
    """Random observations, `counts[task]` of each task."""
    obs = {}
    for name, space in suite.observation_space.items():
        space.seed(seed)
        obs[name] = torch.from_numpy(np.stack([space.sample() for _ in range(sum(counts))]))
    return Rows(obs, torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts)), tuple(counts))


@pytest.mark.parametrize("counts", [(4, 4, 4), (5, 4, 3), (1, 0, 20)])
def test_a_task_has_its_own_encoder_by_hand(counts):
    """tanh(own layers) and tanh(shared mixture) averaged by the share, each row computed in NumPy."""
    suite = make_suite(VECTORS)
    model = ModelConfig(**SAFE, orthogonal=False)
    trunk = build_policy(model, suite, seed=3).actor.trunk
    with torch.no_grad():
        trunk.gate.share_logit.copy_(torch.tensor([-1.0, 0.0, 2.0]))
    rows = rows_of(suite, counts)
    found = trunk(rows).detach().numpy()
    layers = list(zip(*[iter(dict(trunk.private.branch.encoder.experts[0].named_parameters()).values())] * 2, strict=True))
    experts = [list(zip(*[iter(expert.parameters())] * 2, strict=True)) for expert in trunk.encoder.experts]
    weights, shares = trunk.gate.task_weights().detach().numpy(), 1 / (1 + np.exp([1.0, 0.0, -2.0]))

    def through(parameters, x):
        for place, (matrix, bias) in enumerate(parameters):
            x = matrix @ x + bias
            x = np.tanh(x) if place < len(parameters) - 1 else x
        return x

    for row, (x, task) in enumerate(zip(rows.obs["vector"].double().numpy(), rows.task_ids.tolist(), strict=True)):
        own = through([(m[task].detach().numpy(), b[task].detach().numpy()) for m, b in layers], x)
        shared = sum(
            w * through([(m.detach().numpy(), b.detach().numpy()) for m, b in e], x) for w, e in zip(weights[task], experts, strict=True)
        )
        np.testing.assert_allclose(found[row], shares[task] * np.tanh(own) + (1 - shares[task]) * np.tanh(shared), atol=1e-5)


@pytest.mark.parametrize("name", [VECTORS, GRIDS, KINDS])
def test_without_the_private_share_it_is_the_plain_mixture(name):
    suite = make_suite(name)
    counts = tuple(range(3, 3 + suite.num_tasks))
    safe = build_policy(ModelConfig(**SAFE, private_share=0.0, learn_private_share=False), suite, seed=1)
    plain = build_policy(ModelConfig(**SAFE | {"gate": "linear"}), suite, seed=1)
    rows = rows_of(suite, counts) if name != KINDS else kinds_rows(suite, counts)
    assert torch.equal(safe.actor(rows), plain.actor(rows))


def kinds_rows(suite, counts):
    rows = rows_of(suite, counts)
    kinds = torch.tensor(suite.observation_kinds)[rows.task_ids].to(rows.obs["kind"].dtype)
    return rows._replace(obs=rows.obs | {"kind": kinds})


@pytest.mark.parametrize("name", [VECTORS, GRIDS])
def test_with_the_private_share_alone_tasks_do_not_meet(name):
    suite = make_suite(name)
    policy = build_policy(ModelConfig(**SAFE, private_share=1.0, learn_private_share=False), suite, seed=1)
    counts = (4,) * suite.num_tasks
    policy.actor(rows_of(suite, counts))[:4].square().sum().backward()
    trunk = policy.actor.trunk
    for parameter in trunk.private.parameters():
        assert parameter.grad[0].abs().sum() > 0 and not parameter.grad[1:].any()
    assert not any(parameter.grad.any() for parameter in trunk.encoder.parameters())


def test_a_batched_product_and_one_task_after_the_other_give_the_same():
    suite = make_suite(VECTORS)
    branches: PrivateBranches = build_policy(ModelConfig(**SAFE), suite, seed=1).actor.trunk.private
    for counts in ((6, 6, 6), (7, 5, 6)):
        rows = rows_of(suite, counts)
        batched = branches(rows.obs, rows.task_ids, rows.counts)
        torch.testing.assert_close(batched, branches._one_by_one(rows.obs, rows.task_ids, rows.counts), rtol=1e-5, atol=1e-6)
        own = branches.of(1)({"vector": rows.obs["vector"]}, rows.task_ids)
        torch.testing.assert_close(own[rows.task_ids == 1], batched[rows.task_ids == 1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        (VECTORS, {"popart": True, "normalize_observations": True}),
        (VECTORS, {"heads": "single", "trunks": "shared", "private_width": 0.1}),
        (GRIDS, {"memory": True}),
        (GRIDS, {"share_repeats": False, "trunks": "shared"}),
        (KINDS, {"memory": True, "normalize_observations": True}),
    ],
)
def test_it_is_trained_with_every_other_part(name, changes):
    """The runner's probabilities are the learner's, and every branch and share moves."""
    config = toy_config(name, env_runners__slots=6)
    config = override(config, {f"model.{key}": value for key, value in (SAFE | changes).items()})
    suite = make_suite(name)
    collector, learner = build_collector(config, suite, 0), Learner(config, suite)
    before = {key: parameter.detach().clone() for key, parameter in learner.policy.named_parameters()}
    for version in range(3):
        collector.set_weights(version, learner.actor_weights())
        rollout = collector.collect().rollout
        if version == 0:
            looked = learner.evaluate(learner.make_batch(rollout)).log_probs.detach().numpy()
            np.testing.assert_allclose(looked[rollout.valid], rollout.behaviour_log_probs[rollout.valid], atol=1e-3)
        metrics = update_metrics(suite.names, learner.update(rollout, 0.0))
        if version == 0:
            assert all(metrics[f"tasks/{task}/private_share"] == pytest.approx(0.5, abs=0.1) for task in suite.names)
    collector.close()
    moved = {key: (parameter - before[key]).abs() for key, parameter in learner.policy.named_parameters()}
    of_tasks = [change.flatten(1).sum(1) for key, change in moved.items() if ".private." in key]
    assert (torch.stack(of_tasks) > 0).any(0).all()  # some parameters of each task's branch
    assert all((change > 0).all() for key, change in moved.items() if key.endswith("share_logit"))


def test_a_run_goes_on_with_other_tasks(tmp_path):
    config = override(toy_config("toy/corridor,constant", total_frames=600), {f"model.{key}": value for key, value in SAFE.items()})
    directory, trainer = RunDirectory.create(tmp_path / "run", config), build_trainer(config)
    assert run_training(trainer, directory, Silent()) == 0
    old = dict(trainer.learner.policy.actor.trunk.private.named_parameters())
    other = override(config, {"suite.name": "toy/cue,constant,corridor"})
    trainer = build_trainer(other)
    assert resume(trainer, RunDirectory(directory.path, other), Silent(), allow_task_change=True)
    for name, parameter in trainer.learner.policy.actor.trunk.private.named_parameters():
        assert torch.equal(parameter[1:], old[name][[1, 0]])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model.private_share": 1.0}, "cannot be learned from"),
        ({"learner.combiner": "pcgrad"}, "set learner.combiner to 'sum'"),
        ({"model.conditioning": "embedding", "model.heads": "single"}, "gate"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(changes, said):
    with pytest.raises((ConfigError, ValueError), match=said):
        config = override(toy_config(), {"model.gate": "safe"} | changes)
        build_policy(config.model, make_suite(config.suite.name), seed=0)
