"""The experiments of configs/ on a GPU: they learn, they compute what the CPU computes, and their states go from one to the other."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import fingerprint, toy_config
from test_task_change import changed, trained

from envs import SuiteError, TaskSuite, make_suite
from mtrl.config import ConfigError, ExperimentConfig, load_config, override
from mtrl.learning.balancers import BALANCERS
from mtrl.learning.combiners import COMBINERS
from mtrl.learning.learner import Learner
from mtrl.models.distributions import TanhNormal
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.rollout import Rollout
from mtrl.storage.checkpoint import load_checkpoint, save_checkpoint
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that torch can use")

CPU, GPU = torch.device("cpu"), torch.device("cuda")
FOLDER = Path(__file__).parent.parent / "configs"
CONFIGS = sorted(path.stem for path in FOLDER.glob("*.yaml"))

# A step of this size changes no weight by more than rounding, so that all steps of an update see the first weights. Else the steps would
# make of a difference in the last digit one in the third.
STANDING_STILL = {"learner.actor.learning_rate": 1e-12, "learner.critic.learning_rate": 1e-12}


def experiment(name: str, **changes: Any) -> tuple[ExperimentConfig, TaskSuite]:
    """A config of `configs/`, but in this process, on the GPU, in float32, with two slots for each task, short rollouts and two passes."""
    config = load_config(FOLDER / f"{name}.yaml")
    if config.suite.name.startswith("atari/") and importlib.util.find_spec("envpool_assets") is None:
        pytest.skip("Atari's games are not installed (envpool-assets)")
    try:
        suite = make_suite(config.suite.name)
    except SuiteError as error:
        pytest.skip(str(error))
    small = {
        "env_runners.num_env_runners": 0,
        "env_runners.slots": max(4, 2 * suite.num_tasks),
        "env_runners.unroll_length": 16,
        "learner.rollouts_per_update": 1,
        "learner.epochs": min(2, config.learner.epochs),
        "learner.device": "cuda",
        "learner.precision": "float32",
        "learner.cuda_graphs": False,
    }
    return override(config, small | {name.replace("__", "."): value for name, value in changes.items()}), suite


def collect(config: ExperimentConfig, suite: TaskSuite, unrolls: int) -> list[Rollout]:
    collector = build_collector(config, suite, runner=0)
    collector.set_weights(0, Learner(config, suite, device=CPU).actor_weights())
    rollouts = [collector.collect().rollout for _ in range(unrolls)]
    collector.close()
    return rollouts


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Of all weights, as one vector."""
    return float(np.sqrt(sum(np.square(one[name].astype(np.float64) - other[name]).sum() for name in one)))


@pytest.fixture(autouse=True)
def exact_convolutions(monkeypatch):
    """float32 without TensorFloat-32, which PyTorch uses for convolutions by default and which has 10 bits of mantissa."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.parametrize("name", CONFIGS)
def test_ten_updates_stay_finite(name):
    """In the precision that a user gets, bfloat16 where the GPU has it."""
    config, _ = experiment(name, learner__precision="auto", learner__cuda_graphs=True)
    trainer = build_trainer(config)
    before = trainer.policy_weights()
    for _ in range(10):
        assert trainer.step()
    metrics, after = trainer.metrics(), trainer.policy_weights()
    trainer.close()
    assert trainer.updates == 10 and metrics["learner/skipped_steps"] == 0
    assert {"learner/policy_loss", "learner/value_loss", "learner/grad_norm"} <= {name for name in metrics if np.isfinite(metrics[name])}
    assert all(np.isfinite(weights).all() for weights in after.values()) and distance(before, after) > 0
    assert {parameter.device.type for parameter in trainer.learner.policy.parameters()} == {"cuda"}


@pytest.mark.parametrize("precision", ["float32", "auto"])
@pytest.mark.parametrize("name", CONFIGS)
def test_recorded_updates_are_those_started_one_by_one(name, precision):
    """Graphs replay the same kernels on other numbers: five updates end at the same weights."""
    config, suite = experiment(name, learner__cuda_graphs=True, learner__precision=precision)
    recorded, started = (Learner(config, suite, device=GPU) for _ in range(2))
    if recorded._graphs is None:
        pytest.skip("has operations that depend on the data")
    started.use_graphs(record=False)
    before = recorded.policy_weights()
    for number, rollout in enumerate(collect(config, suite, 5)):
        found, expected = (learner.update(rollout, 0.1 * number).means for learner in (recorded, started))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    (shape,) = recorded._graphs._shapes.values()
    assert all(step.operations._graph is not None for step in shape.steps.values())
    after = recorded.policy_weights()
    moved, apart = distance(before, after), distance(after, started.policy_weights())
    print(f"{name}: {apart / moved:.1e} of the way apart")
    assert apart < 0.02 * moved


def test_a_recorded_learner_goes_on_from_a_file(tmp_path):
    """With other memory for its moments than the one that was recorded."""
    config, suite = experiment("minigrid_mt3", learner__cuda_graphs=True)
    rollouts = collect(config, suite, 6)
    first = Learner(config, suite, device=GPU)
    for rollout in rollouts[:3]:
        first.update(rollout, 0.0)
    path = save_checkpoint(tmp_path, 1, {"learner": first.state_dict()}, tasks=suite.names, keep=9)
    ends = []
    for _ in range(2):
        first.load_state_dict(load_checkpoint(path).components["learner"])
        for rollout in rollouts[3:]:
            first.update(rollout, 0.0)
        ends.append(first.policy_weights())
    start = {name: tensor.cpu().numpy() for name, tensor in load_checkpoint(path).components["learner"]["policy"].items()}
    assert distance(*ends) < 1e-3 * distance(start, ends[0])


def test_a_batch_that_is_not_finite_changes_nothing_in_a_recorded_step():
    config, suite = experiment("minigrid_mt3", learner__cuda_graphs=True)
    good = collect(config, suite, 1)[0]
    bad = good._replace(rewards=np.full_like(good.rewards, np.nan))
    learner = Learner(config, suite, device=GPU)
    for _ in range(3):
        learner.update(good, 0.0)
    before = fingerprint(learner.policy_weights()), fingerprint(learner.state_dict()["optimizers"])
    learner.update(bad, 0.0)
    assert learner.skipped_steps > 0
    assert before == (fingerprint(learner.policy_weights()), fingerprint(learner.state_dict()["optimizers"]))
    learner.update(good, 0.0)
    assert before[0] != fingerprint(learner.policy_weights())


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_update_is_the_cpus(name):
    """Losses, the gradient's length and all other figures of an update."""
    config, suite = experiment(name)
    config = override(config, STANDING_STILL)
    (rollout,) = collect(config, suite, 1)
    on_cpu, on_gpu = (Learner(config, suite, device=device).update(rollout, 0.0).means for device in (CPU, GPU))
    # Weights are 1 up to rounding in a first update, and the fraction counts those above 1.
    assert 0 <= on_cpu.pop("rho_clipped_fraction") <= 1 and 0 <= on_gpu.pop("rho_clipped_fraction") <= 1
    assert on_gpu == pytest.approx(on_cpu, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_policy_acts_on_the_gpu_as_on_the_cpu(name):
    """The probabilities of the actions that were taken on the GPU, computed on the CPU."""
    config, suite = experiment(name, env_runners__num_gpus_per_env_runner=1)
    (rollout,) = collect(config, suite, 1)
    learner = Learner(config, suite, device=CPU)
    looked = learner.evaluate(learner.make_batch(rollout)).log_probs.numpy()
    np.testing.assert_allclose(rollout.behaviour_log_probs[rollout.valid], looked[rollout.valid], atol=1e-4)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_state_goes_from_gpu_to_cpu_and_back(name, tmp_path):
    """Through files. Whoever goes on from them arrives where the first learner does that never stopped."""
    config, suite = experiment(name, learner__epochs=1)
    rollouts = collect(config, suite, 4)
    first = Learner(config, suite, device=GPU)
    for rollout in rollouts[:2]:
        first.update(rollout, 0.0)
    state = first.state_dict()
    for step, device in enumerate((CPU, GPU), 2):
        path = save_checkpoint(tmp_path, step, {"learner": state}, tasks=suite.names, keep=9)
        second = Learner(config, suite, device=device)
        second.load_state_dict(load_checkpoint(path).components["learner"])
        assert fingerprint(second.state_dict()) == fingerprint(state)
        before = second.policy_weights()
        first.update(rollouts[step], 0.0)
        second.update(rollouts[step], 0.0)
        moved, apart = distance(before, second.policy_weights()), distance(first.policy_weights(), second.policy_weights())
        print(f"{name} to {device}: {apart / moved:.1e} of the way apart")
        assert moved > 0 and apart < 0.05 * moved
        state = second.state_dict()


VARIANTS = {
    **{f"balancing {name}": {"learner.balancing": name, "model.trunks": "shared"} for name in BALANCERS},
    **{f"combiner {name}": {"learner.combiner": name, "model.trunks": "shared"} for name in COMBINERS},
    **{f"gate {name}": {"model.gate": name, "model.experts": 3} for name in ("softmax", "topk", "dselect_k", "own", "equal")},
    "one head": {"model.heads": "single"},
    "one head with a memory": {"model.heads": "single", "model.memory": True, "model.memory_size": 8},
    "popart": {"model.popart": True},
    "normalised observations": {"model.normalize_observations": True},
    "plain mixture": {"model.orthogonal": False},
    "tasks are compared": {"curriculum.scheduler": "camrl"},
    "clipped gradient": {"learner.actor.max_grad_norm": 0.1},
    "targets for each minibatch": {
        "learner.surrogate": "clipped",
        "learner.minibatches": 2,
        "learner.minibatch_of": "traces",
        "learner.recompute_targets": True,
    },
    "continuous actions": {"suite.name": "context/pendulum", "env_runners.slots": 20},
    "two kinds of tasks": {"suite.name": "toy/cue+context/pendulum:mass=1,2", "model.memory": True, "model.memory_size": 8},
    "frozen experts": {"model.freeze_experts": True},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gradient_is_the_cpus(variant):
    """By an optimiser whose step is proportional to it."""
    steady = {f"learner.{side}.{key}": value for side in ("actor", "critic") for key, value in {"name": "rmsprop", "epsilon": 1.0}.items()}
    config = override(toy_config(), steady | VARIANTS[variant])
    suite = make_suite(config.suite.name)
    try:
        (rollout,) = collect(config, suite, 1)
        learners = [Learner(config, suite, device=device) for device in (CPU, GPU)]
    except ConfigError as error:
        pytest.skip(str(error))
    start = learners[0].policy_weights()
    for learner in learners:
        learner.update(rollout, 0.0)
    on_cpu, on_gpu = (learner.policy_weights() for learner in learners)
    assert distance(start, on_cpu) > 100 * distance(on_cpu, on_gpu)


def test_squashed_actions_are_the_cpus():
    parameters, actions = torch.randn(2, 64, 6).unbind()
    distribution = TanhNormal(3)
    for figure in (lambda p, a: distribution.log_prob(p, a[:, :3]), lambda p, a: distribution.entropy(p)):
        torch.testing.assert_close(figure(parameters.to(GPU), actions.to(GPU)).cpu(), figure(parameters, actions), rtol=1e-4, atol=1e-4)


def test_the_same_seed_makes_the_same_weights_on_both():
    config = toy_config("minigrid/mt3")
    on_cpu, on_gpu = (Learner(config, make_suite(config.suite.name), device=device) for device in (CPU, GPU))
    assert fingerprint(on_cpu.state_dict()) == fingerprint(on_gpu.state_dict())


def test_a_run_goes_on_with_other_tasks(tmp_path):
    class Quiet:
        def message(self, text):
            pass

    directory, old = trained(tmp_path / "run", learner__device="cuda")
    directory, new = changed(directory)
    assert resume(new, directory, Quiet(), allow_task_change=True)
    assert new.frames == old.frames and new.step() and new.learner.skipped_steps == 0
