"""The loop: repeatable, resumable, fair to every task, and without Ray."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import fingerprint, toy_config
from hypothesis import given, settings
from hypothesis import strategies as st

from envs import make_suite
from mtrl.config import ConfigError, override
from mtrl.curriculum import with_floor
from mtrl.learning.learner import Learner
from mtrl.rollouts.allocation import Allocator
from mtrl.rollouts.collector import Collected, build_collector
from mtrl.rollouts.source import InProcessSource
from mtrl.training.batch_size import BatchSize
from mtrl.training.trainer import Trainer, build_trainer

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(("suite", "backend"), [("toy/three", "gymnasium"), ("minigrid/mt3", "gymnasium")])
def test_a_seed_repeats_bit_for_bit(suite, backend):
    states = []
    for seed in (0, 0, 1):
        trainer = build_trainer(toy_config(suite, suite__backend=backend, seed=seed))
        for _ in range(4):
            assert trainer.step()
        states.append(fingerprint(trainer.state_dict()))
    assert states[0] == states[1] != states[2]


def test_a_restored_trainer_is_where_the_other_was():
    config = toy_config()
    trainer = build_trainer(config)
    for _ in range(5):
        trainer.step()
    state = trainer.state_dict()
    other = build_trainer(config)
    other.load_state_dict(state)
    restored = other.state_dict()
    for component in ("learner", "curriculum", "statistics"):
        assert fingerprint(restored[component]) == fingerprint(state[component])
    assert fingerprint(restored["source"]["collector"]) == fingerprint(state["source"]["collector"])
    assert restored["source"]["restarts"] == state["source"]["restarts"] + 1
    assert (other.frames, other.updates) == (trainer.frames, trainer.updates)
    other.step()
    assert other.frames > trainer.frames


class Stalled(InProcessSource):
    """Nothing arrives until it is let go."""

    asynchronous = True
    stalled = True

    def collect(self, timeout: float, untrained: Sequence[int] | None = None) -> list[Collected]:
        if not self.stalled:
            return super().collect(timeout)
        time.sleep(timeout)
        return []


def test_all_waiting_is_counted_and_reported():
    """Whether the wait ends with rollouts or with the time-out, and also in an interval without an update."""
    config = toy_config()
    suite = make_suite(config.suite.name)
    source = Stalled(config, suite)
    trainer = Trainer(config, suite, source)
    before = time.perf_counter()
    while time.perf_counter() - before < 0.3:
        assert not trainer.step(0.05)
    waited = time.perf_counter() - before
    assert trainer.metrics()["throughput/queue_wait_seconds"] == pytest.approx(waited, rel=0.1), "without an update"
    before = time.perf_counter()
    assert not trainer.step(0.2)
    source.stalled = False
    assert trainer.step(0.2)
    assert 0.2 < trainer.metrics()["throughput/queue_wait_seconds"] < time.perf_counter() - before, "with one"
    trainer.close()


def test_messages_that_nobody_asks_for_do_not_add_up(monkeypatch):
    monkeypatch.setattr("mtrl.training.trainer.MOST_MESSAGES", 5)
    trainer = build_trainer(toy_config())
    monkeypatch.setattr(trainer.quarantine, "retry", lambda now: [f"at {now}"])
    for _ in range(8):
        trainer.step()
    said = trainer.messages()
    assert len(said) == 5 and said == sorted(said, key=lambda text: float(text.split()[1])), "the newest, in order"
    assert trainer.messages() == []


def test_metrics_have_the_documented_names_and_add_up():
    trainer = build_trainer(toy_config())
    for _ in range(12):
        trainer.step()
    metrics = trainer.metrics()
    assert metrics["summary/frames"] == trainer.frames == sum(metrics[f"tasks/{name}/frames"] for name in trainer.suite.names)
    assert sum(metrics[f"tasks/{name}/share_trained"] for name in trainer.suite.names) == pytest.approx(1)
    assert {"summary/score_mean", "learner/policy_loss", "learner/entropy", "vtrace/rho_mean", "throughput/env_steps"} <= set(metrics)
    assert all(np.isfinite(value) for value in metrics.values())
    assert metrics["tasks/cue/policy_lag"] == 0


def test_ray_is_not_imported_in_process():
    code = (
        "import sys; from mtrl.training.trainer import build_trainer; from mtrl.config import load_config;"
        "build_trainer(load_config('configs/toy.yaml')).step(); print('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_fewer_slots_than_tasks_is_refused():
    with pytest.raises(ConfigError, match="2, but toy/three has 3 tasks"):
        build_trainer(toy_config(env_runners__slots=2))


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 10**6))
def test_shares_come_true_over_time(num_tasks, slots, seed):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(num_tasks, 0.3))
    allocator = Allocator(num_tasks, slots, rng)
    total = np.zeros(num_tasks)
    for unroll in range(1, 201):
        counts = allocator.allocate(shares)
        assert counts.sum() == slots
        assert (counts >= 0).all()
        total += counts
        if unroll == 200:
            assert np.abs(total / (slots * unroll) - shares).max() < 0.02


def test_the_floor_keeps_every_task_alive():
    probabilities = with_floor(np.array([1.0, 0, 0, 0]), 0.2)
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities.min() == pytest.approx(0.2 / 4)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 12), st.integers(12, 60), st.integers(0, 10**6))
def test_no_task_takes_more_slots_than_it_may(num_tasks, slots, seed):
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.full(num_tasks, 0.3))
    most = int(rng.integers(-(-slots // num_tasks), slots + 1))
    allocator = Allocator(num_tasks, slots, rng, most)
    counts = np.array([allocator.allocate(shares) for _ in range(200)])
    assert (counts.sum(1) == slots).all() and (counts >= 0).all() and (counts <= most).all()
    # Whoever is below the bound shares what the others could not have, in proportion.
    given, below = counts.mean(0) / slots, counts.max(0) < most
    if below.sum() > 1 and shares[below].sum() > 0:
        expected = shares[below] / shares[below].sum() * given[below].sum()
        np.testing.assert_allclose(given[below], expected, atol=0.02)


@pytest.mark.parametrize(
    ("shares", "slots", "most"),
    [([1, 0, 0, 0], 10, 3), ([0.25] * 4 + [0] * 6, 120, 24), ([0.5, 0.5, 0, 0], 96, 40), ([0.9, 0.1, 0], 80, 24), ([0, 1, 0], 7, 3)],
)
def test_tasks_without_a_share_are_never_stepped(shares, slots, most):
    """Such as those that are left out since they fail; also where the others are too few for the bound."""
    allocator = Allocator(len(shares), slots, np.random.default_rng(0), most)
    counts = np.array([allocator.allocate(np.array(shares, float)) for _ in range(20)])
    absent = np.array(shares) == 0
    assert (counts.sum(1) == slots).all() and not counts[:, absent].any()
    assert counts.max() <= max(most, -(-slots // int((~absent).sum())))


def test_environments_are_counted_and_bounded():
    config = toy_config(
        env_runners__slots=12,
        env_runners__slots_per_task=6,
        curriculum__scheduler="fixed",
        curriculum__options={"weights": {"cue": 0.9, "corridor": 0.1, "constant": 0.0}},
        curriculum__floor=0.0,
    )
    trainer = build_trainer(config)
    for _ in range(5):
        trainer.step()
    metrics = trainer.metrics()
    kept = {name: metrics[f"tasks/{name}/environments"] for name in trainer.suite.names}
    assert kept["cue"] == 6 and sum(kept.values()) >= 12
    assert metrics["tasks/cue/share_wanted"] == pytest.approx(0.9, abs=0.01)
    assert metrics["tasks/cue/share_trained"] == pytest.approx(0.5, abs=0.1)
    trainer.close()
    with pytest.raises(ConfigError, match="slots_per_task is 3, but toy/three has 3 tasks for 12 slots: set it to 4 or more"):
        build_trainer(override(config, {"env_runners.slots_per_task": 3}))


class EagerSource:
    """A source that has a rollout ready whenever it is asked, as many fast runners have: one real rollout, again and again."""

    asynchronous, lost, local_cores = True, 0, 0.0

    def __init__(self, config, suite):
        collector = build_collector(config, suite, runner=0)
        collector.set_weights(0, Learner(config, suite).actor_weights())
        self._collected = collector.collect()
        collector.close()
        self.handed_out = 0

    def publish(self, version, weights, shares, levels):
        pass

    def collect(self, timeout, untrained=None):
        self.handed_out += 1
        return [self._collected]

    def tend(self, untrained):
        pass

    def faults(self):
        return []

    def remarks(self):
        return []

    def close(self):
        pass


class SlowLearner(Learner):
    """Its update lasts until `expected` rollouts have been handed out, 5 seconds at most, and then a while longer."""

    source: EagerSource
    expected = 0

    def update(self, rollout, progress):
        self.slots = rollout.num_slots
        deadline = time.monotonic() + 5.0
        while self.source.handed_out < self.expected and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(0.1)  # in which twenty more could be taken
        return super().update(rollout, progress)


@pytest.mark.parametrize(("queue", "per_update"), [(0, 1), (1, 1), (2, 1), (1, 3), (2, 3)])
def test_no_more_batches_wait_for_the_learner_than_the_queue_holds(queue, per_update):
    """While the learner works the runners fill the queue and rest; it makes a batch of the stated number of rollouts."""
    config = toy_config(learner__max_queued_batches=queue, learner__rollouts_per_update=per_update, env_runners__slots=3)
    suite = make_suite(config.suite.name)
    learner, source = SlowLearner(config, suite), EagerSource(config, suite)
    learner.source = source
    trainer = Trainer(config, suite, source, learner)
    for update in range(1, 4):
        learner.expected = (update + queue) * per_update  # trained on, and waiting
        assert trainer.step()
        assert source.handed_out == learner.expected
        assert learner.slots == 3 * per_update
    trainer.close()


def test_a_batch_grows_with_the_runners_that_keep_up():
    """So that a policy is about three updates old when it is learned from."""
    size, rollouts = BatchSize("auto"), []
    for runners in (1, 2, 3, 4, 12, 48):
        for _ in range(4):
            for runner in range(runners):
                size.hear_of(runner)
        rollouts.append(size.rollouts)
    assert rollouts == [1, 1, 1, 2, 4, 16]
    for _ in range(40):
        for runner in range(4):  # the others are dead, or take ten times as long
            size.hear_of(runner)
    assert size.rollouts == 2
    assert BatchSize(5).rollouts == 5


@pytest.mark.parametrize(("learners", "expected"), [(1, 4), (2, 4), (3, 6), (4, 4), (8, 8), (16, 4)])
def test_a_batch_can_be_dealt_out_to_learners(learners, expected):
    """Whole rollouts, as many for each, as long as there are so many runners."""
    size = BatchSize("auto", learners)
    for runner in range(12):
        size.hear_of(runner)
    assert size.rollouts == expected


class EqualRunners(EagerSource):
    """Runners that are all as fast as each other. Each acts with the newest weights of the time when it begins."""

    def __init__(self, config, suite, runners):
        super().__init__(config, suite)
        self.version = 0
        self.acting = [0] * runners

    def publish(self, version, weights, shares, levels):
        self.version = version

    def collect(self, timeout, untrained=None):
        runner = self.handed_out % len(self.acting)
        (collected,) = super().collect(timeout)
        versions = np.full(collected.rollout.num_slots, self.acting[runner], np.int64)
        self.acting[runner] = self.version
        return [collected._replace(runner=runner, rollout=collected.rollout._replace(version=versions))]


@pytest.mark.parametrize("runners", [4, 16, 64])
def test_the_lag_does_not_grow_with_the_runners(runners):
    """With one rollout to an update it would be as many updates as there are runners."""
    lags = {}
    for wanted in ("auto", 1):
        config = toy_config(learner__max_queued_batches=0, learner__rollouts_per_update=wanted, env_runners__slots=3)
        suite = make_suite(config.suite.name)
        source = EqualRunners(config, suite, runners)
        trainer = Trainer(config, suite, source)
        while source.handed_out < 5 * runners:
            trainer.step()
            metrics = trainer.metrics()
        lags[wanted] = metrics["summary/policy_lag"]
        trainer.close()
    assert lags["auto"] <= 4 and lags[1] > 0.8 * runners


@pytest.mark.parametrize("per_update", [1, 3])
def test_a_batch_has_the_stated_number_of_rollouts(per_update):
    trainer = build_trainer(toy_config("toy/corridor", learner__rollouts_per_update=per_update))
    for _ in range(2):
        trainer.step()
    steps = 2 * per_update * 6 * 8  # updates, rollouts, slots, steps
    assert trainer.updates == 2 and 5 / 6 * steps <= trainer.frames <= steps  # an episode has five steps or more, and then a reset
    trainer.close()
