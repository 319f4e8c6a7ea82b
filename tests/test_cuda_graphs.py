"""Updates by operations that can be recorded as CUDA graphs: here they are started one by one, on the CPU; `test_cuda.py` records them."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import STEADY, collect, fingerprint, toy_config
from torch.utils._python_dispatch import TorchDispatchMode

from envs import make_suite
from mtrl.config import load_config
from mtrl.learning.cuda_graphs import can_record
from mtrl.learning.division import Division
from mtrl.learning.interface import NonFiniteError
from mtrl.learning.learner import MAX_SKIPPED, Learner
from mtrl.models.policy import build_policy
from mtrl.models.rows import arrange, rows_of_all

CONFIGS = Path(__file__).parent.parent / "configs"

# Each kind of update: one step or several for a batch, with and without minibatches, a trunk of its own for the critic, PopArt.
KINDS = {
    "plain V-trace": {},
    "shared trunk": {"model__trunks": "shared"},
    "several steps of actor and critic": {"learner__actor_updates": 3, "learner__critic_updates": 2},
    "more steps of the critic": {"learner__critic_updates": 3},
    "clipped passes": {"learner__surrogate": "clipped", "learner__epochs": 2, "model__trunks": "shared"},
    "popart": {"model__popart": True, "learner__surrogate": "clipped"},
    "clipped gradients": {"learner__actor": {"max_grad_norm": 0.05}, "learner__critic": {"max_grad_norm": 0.05}},
    "falling entropy and rate": {
        "learner__entropy_decay": True,
        "learner__actor": {"decay": True},
        "learner__critic": {"decay": True},
    },
    "entropy target": {"learner__entropy_target": 0.9, "learner__entropy_target_rate": 0.1, "learner__epochs": 2},
    "private branches": {"model__gate": "safe", "model__experts": 3},
    "grid": {"suite": "minigrid/mt3", "env_runners__slots": 9, "model__experts": 3},
    "normalised vectors": {"suite": "context/pendulum", "env_runners__slots": 20, "model__normalize_observations": True},
}
MINIBATCHES = {"learner__surrogate": "clipped", "learner__minibatches": 4, "learner__epochs": 2, "learner__minibatch_of": "steps"}


def pair(**changes):
    """A learner that starts the usual operations, one that starts the recordable ones, and rollouts."""
    config = toy_config(**(STEADY | changes))
    suite = make_suite(config.suite.name)
    usual, recordable = Learner(config, suite), Learner(config, suite)
    recordable.use_graphs(record=False)
    return usual, recordable, collect(config, 4)


def figures(result):
    """Of an update, in one dictionary."""
    with_costs = result.entropies is not None and result.entropies.costs is not None  # without, recorded updates do not compute them
    of_tasks = result.task_values._asdict() | (result.entropies._asdict() if with_costs else {})
    return result.means | {f"{name} {task}": x for name, of in of_tasks.items() for task, x in enumerate(of)}


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_is_the_usual_one(kind):
    """To rounding: the usual update evaluates each distinct observation once, and this one evaluates all."""
    usual, recordable, rollouts = pair(**KINDS[kind])
    start = usual.policy_weights()
    for number, rollout in enumerate(rollouts):
        expected, found = (figures(learner.update(rollout, 0.2 * number)) for learner in (usual, recordable))
        assert found == pytest.approx(expected, rel=2e-3, abs=2e-5, nan_ok=True)
    ends = [learner.policy_weights() for learner in (usual, recordable)]
    moved = np.sqrt(sum(np.square(ends[0][name] - start[name]).sum() for name in start))
    apart = np.sqrt(sum(np.square(ends[0][name] - ends[1][name]).sum() for name in start))
    assert apart < 2e-3 * moved


@pytest.mark.parametrize("kind", ["shared trunk", "grid", "popart", "normalised vectors"])
def test_minibatches_have_the_losses_of_the_batch(kind):
    """With steps too small to matter, means over a pass of minibatches are the batch's, whatever the division was."""
    still = {"learner__actor": {"learning_rate": 1e-12}, "learner__critic": {"learning_rate": 1e-12}}
    usual, recordable, rollouts = pair(**(KINDS[kind] | MINIBATCHES | still))
    expected, found = (figures(learner.update(rollouts[0], 0.0)) for learner in (usual, recordable))
    expected.pop("grad_norm"), found.pop("grad_norm")  # of each minibatch
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5, nan_ok=True)


def test_a_pass_makes_each_step_once_and_spreads_every_task():
    config = toy_config(env_runners__slots=7, env_runners__unroll_length=9)
    learner = Learner(config, make_suite(config.suite.name))
    learner.use_graphs(record=False)
    batch = learner.make_batch(collect(config)[0])
    targets = learner.compute_targets(batch, learner.evaluate(batch))
    numbered = batch._replace(rewards=torch.arange(63.0).view(9, 7), weights=torch.ones(9, 7))
    division, parts = Division(batch, 4, 3), 4
    orders = []
    for seed in (1, 1, 2):
        order = division.draw(torch.Generator().manual_seed(seed))
        orders.append(order.tolist())
        seen, by_task = [], []
        for number in range(parts):
            division.select(order, number)
            part = division.minibatch(numbered, targets, updates_critic=True).batch
            counted = part.weights > 0
            assert part.weights[counted].unique().tolist() == [parts]
            steps = part.rewards[counted].long()
            seen += steps.tolist()
            tasks = part.observations.task_ids.unsqueeze(0)
            assert torch.equal(tasks[counted], batch.observations.task_ids[steps % 7])
            by_task.append(tasks[counted].bincount(minlength=3).tolist())
            # What the networks read is the observation of that step.
            for name, array in part.observations.rows.obs.items():
                whole = batch.observations.rows.obs[name][batch.observations.inverse]
                assert torch.equal(array[counted[0]], whole.flatten(0, 1)[steps])
        assert sorted(seen) == list(range(63))
        assert (np.ptp(by_task, axis=0) <= 1).all()
    assert orders[0] == orders[1] != orders[2]


def test_division_differs_from_update_to_update_and_repeats_with_the_seed():
    changes = MINIBATCHES | {"model__trunks": "shared"}
    ends = []
    for _ in range(2):
        _, recordable, rollouts = pair(**changes)
        for rollout in rollouts:
            recordable.update(rollout, 0.0)
        ends.append(fingerprint(recordable.state_dict()))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("changes", [{}, {"model__trunks": "shared"}, MINIBATCHES])
def test_a_batch_that_is_not_finite_is_never_applied(changes):
    _, learner, (good, *_) = pair(**changes)
    rewards = good.rewards.copy()
    rewards[2, good.task_ids == 1] = np.nan
    bad = good._replace(rewards=rewards)
    learner.update(good, 0.0)
    before = fingerprint(learner.state_dict()["policy"]), fingerprint(learner.state_dict()["optimizers"])
    result = learner.update(bad, 0.0)
    steps = 1 + 8 if changes is MINIBATCHES else 1  # a critic of its own, and the actor's
    assert result.skipped_steps == learner.skipped_steps == steps
    assert all(np.isfinite(value) for value in result.means.values())
    after = learner.state_dict()
    assert before == (fingerprint(after["policy"]), fingerprint(after["optimizers"]))
    for _ in range(MAX_SKIPPED - 2):
        learner.update(bad, 0.0)
    with pytest.raises(NonFiniteError, match="constant"):
        learner.update(bad, 0.0)


class Waits(TorchDispatchMode):
    """Counts the operations for which the CPU would have to wait for a GPU: results with a size or a number that depends on data."""

    NAMES = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "item", "equal", "bincount", "repeat_interleave.Tensor")

    def __init__(self):
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        indices = args[1] if name.startswith("aten.index.") else ()
        if any(part in name for part in self.NAMES) or any(index is not None and index.dtype == torch.bool for index in indices):
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [*KINDS.values(), MINIBATCHES, MINIBATCHES | KINDS["popart"]])
def test_no_operation_makes_the_cpu_wait(changes):
    usual, recordable, rollouts = pair(**changes)
    recordable.update(rollouts[0], 0.0)  # the first update of a shape counts the slots of each task
    batch = recordable.make_batch(rollouts[1])
    with Waits() as waits:
        recordable._graphs.run(batch, recordable._coefficients(0.0), 0.0, 0)
    assert not waits.found  # the figures, which `tolist` reads at the end, are copied by no operation
    with Waits() as waits:
        usual.update(rollouts[1], 0.0)
    assert waits.found, "the counter sees the usual update's waits"


def test_experiments_that_compare_tasks_or_remember_are_not_recorded():
    def recordable(**changes):
        config = toy_config(**changes)
        return can_record(config, build_policy(config.model, make_suite(config.suite.name), 0))

    assert recordable()
    for changes in (
        {"model__memory": True},
        {"learner__combiner": "pcgrad"},
        {"learner__balancing": "uncertainty"},
        {"learner__target_kl": 0.1},
        {"curriculum__scheduler": "camrl"},
        {"model__gate": "skills"},
        {"model__heads": "single"},
        {"model__heads": "single", "model__conditioning": "sentence"},
        {"learner__actor": {"name": "rmsprop"}},
    ):
        assert not recordable(**changes), changes


@pytest.mark.parametrize(
    "name", ["minigrid_mt3", "minigrid_mt5", "minigrid_mt7", "minigrid_mt7_fast", "metaworld_mt10", "metaworld_mt50", "toy"]
)
def test_the_configs_for_gpus_are_recorded(name):
    config = load_config(CONFIGS / f"{name}.yaml")
    assert can_record(config, build_policy(config.model, make_suite(config.suite.name), 0))


def test_a_resumed_learner_follows_its_new_moments():
    """Graphs know the memory of the moments that were there when they were recorded."""
    _, recordable, rollouts = pair(model__trunks="shared")
    for rollout in rollouts[:2]:
        recordable.update(rollout, 0.0)
    state = copy.deepcopy(recordable.state_dict())
    recordable.update(rollouts[2], 0.0)
    once = fingerprint(recordable.state_dict())
    recordable.load_state_dict(state)
    assert not recordable._graphs._shapes
    recordable.update(rollouts[2], 0.0)
    assert fingerprint(recordable.state_dict()) == once


def test_rows_laid_out_by_a_gpu_are_those_laid_out_by_the_cpu():
    rng = np.random.default_rng(0)
    obs = {"image": rng.integers(0, 9, (5, 6, 7, 7, 3), dtype=np.uint8), "vector": rng.normal(size=(5, 6, 4)).astype(np.float32)}
    task_ids, counts = np.array([0, 0, 2, 2, 2, 3]), [2, 0, 3, 1]
    expected, row_tasks, places = arrange(obs, task_ids, share_repeats=False)
    rows, inverse = rows_of_all({name: torch.from_numpy(array) for name, array in obs.items()}, torch.from_numpy(task_ids), counts)
    assert rows.counts == tuple(np.bincount(row_tasks, minlength=4)) and rows.task_ids.tolist() == row_tasks.tolist()
    assert inverse.tolist() == places.tolist()
    assert all(np.array_equal(rows.obs[name], expected[name]) for name in obs)
