"""Environments that fail: what is lost, what is cut where, who is left out, and who hears of it."""

from __future__ import annotations

import functools

import gymnasium
import numpy as np
import pytest
from helpers import toy_config
from reference import vtrace_advantages, vtrace_targets

from envs import SuiteError, TaskFault, make_suite, make_vector
from mtrl.config import FaultsConfig
from mtrl.distributed.watchdog import Watchdog, forget
from mtrl.rollouts.allocation import Allocator
from mtrl.rollouts.collector import build_collector
from mtrl.rollouts.source import SourceFault
from mtrl.training.quarantine import Quarantine, TasksFailedError, VersionWatch
from mtrl.training.trainer import Trainer


@pytest.mark.parametrize("kind", ["raise", "nan", "shape"])
def test_a_failing_environment_is_replaced_and_its_step_lost(kind):
    suite = make_suite(f"chaos/toy/three?{kind}=0.05&only=corridor")
    tasks = make_vector(suite, 12, seed=3, tolerant=True)
    obs, rng, lost, faults, episodes = tasks.reset()["vector"], np.random.default_rng(0), 0, [], []
    for _ in range(400):
        before = obs
        step = tasks.step(rng.integers(3, size=12))
        obs = step.obs["vector"]
        assert np.isfinite(obs).all() and np.isfinite(step.rewards).all() and obs.shape == before.shape
        assert not (step.lost & step.valid).any() and not step.rewards[step.lost].any()
        assert not (step.lost & (step.terminated | step.truncated)).any()
        # A new environment stands in the corridor's first cell, in the step that was lost.
        assert (obs[step.lost].argmax(1) == 0).all()
        assert set(tasks.task_ids[step.lost]) <= {0}
        lost, faults, episodes = lost + int(step.lost.sum()), faults + step.faults, episodes + step.episodes
    assert len(faults) == pytest.approx(0.05 * 4 * 400, rel=0.4)
    assert len(faults) <= lost < 1.3 * len(faults)  # a place whose new environment fails in its first step rests for two
    assert {fault.task_id for fault in faults} == {0} and all("Traceback" in fault.traceback for fault in faults)
    assert {episode.task_id for episode in episodes} == {0, 1, 2}
    assert all(episode.length <= 30 for episode in episodes)  # what was lost is not counted into the next episode
    with pytest.raises((RuntimeError, TaskFault, ValueError)):
        strict = make_vector(suite, 12, seed=3)
        strict.reset()
        for _ in range(400):
            strict.step(rng.integers(3, size=12))


def test_replaced_environments_have_streams_of_their_own():
    suite = make_suite("chaos/minigrid/DoorKey-5x5?raise=0.2")
    tasks = make_vector(suite, 4, seed=0, tolerant=True)
    tasks.reset()
    firsts = set()
    for _ in range(60):
        step = tasks.step(np.zeros(4, int))
        firsts |= {step.obs["image"][slot].tobytes() for slot in np.flatnonzero(step.lost)}
    assert len(firsts) > 10


def test_a_place_whose_environments_fail_at_once_rests_ever_longer():
    suite = make_suite("chaos/toy/three?raise=1&only=cue")
    tasks = make_vector(suite, 3, seed=0, tolerant=True)
    tasks.reset()
    when = []
    for t in range(300):
        step = tasks.step(np.zeros(3, int))
        when += [t] * len(step.faults)
        assert step.lost.tolist()[:1] == [False] and (step.lost[2] or t == 0 or not step.faults)
        assert step.valid[2] == False  # noqa: E712
    assert 6 < len(when) < 14 and np.all(np.diff(when)[3:] >= np.diff(when)[2:-1])


def test_the_episode_ends_before_the_step_that_was_lost():
    """V-trace over a rollout with faults equals V-trace over the same steps with the episode cut off by hand."""
    config = toy_config("chaos/toy/three?raise=0.1&only=constant", env_runners__slots=9, env_runners__unroll_length=40)
    suite = make_suite(config.suite.name)
    collector = build_collector(config, suite, 0, tolerant=True)
    collected = collector.collect()
    rollout = collected.rollout
    constant = rollout.task_ids == 1
    # In this task episodes last ten steps: every other cut is a fault's.
    cuts = (rollout.truncated & constant) & ~rollout.terminated
    faults = len(collected.faults)
    assert faults > 5
    for t, slot in zip(*np.nonzero(cuts), strict=True):
        assert rollout.valid[t, slot] and (t + 1 == 40 or not rollout.valid[t + 1, slot])
    invalid = np.argwhere(~rollout.valid & constant)
    assert all(t == 0 or rollout.truncated[t - 1, slot] or not rollout.valid[t - 1, slot] for t, slot in invalid)
    # With a value of 1 / (1 - γ) everywhere, which is the truth, nothing is left to correct at any valid step.
    gamma, value = 0.9, 10.0
    shape = rollout.rewards.shape
    values = np.full(shape, value)
    continues = (rollout.valid & ~rollout.terminated & ~rollout.truncated).astype(float)
    known = (np.zeros(shape), rollout.rewards, gamma * ~rollout.terminated, continues, values, values)
    targets = vtrace_targets(*known, 1.0, 1.0, 1.0)
    own = rollout.valid & constant
    np.testing.assert_allclose(targets[own], value, atol=1e-4)
    np.testing.assert_allclose(vtrace_advantages(*known, 1.0, targets)[own], 0.0, atol=1e-4)


def fault(task: int | None = 0) -> SourceFault:
    return SourceFault(1, task, "it broke", "Traceback: here")


class TestQuarantine:
    def quarantine(self, **changes):
        return Quarantine(["a", "b", "c"], FaultsConfig(**{"budget": 3, "retry_seconds": 100.0} | changes))

    def test_a_task_that_keeps_failing_is_left_out_and_tried_again_ever_later(self):
        subject = self.quarantine()
        said = [message for _ in range(3) for message in subject.report(fault(), now=10.0)]
        assert "first traceback" in said[0] and "Traceback: here" in said[0]
        assert "a is left out for 100 s: it failed 3 times" in said[1] and len(said) == 2
        np.testing.assert_allclose(subject.applied(np.array([0.5, 0.3, 0.2])), [0, 0.6, 0.4])
        assert subject.retry(109.0) == [] and subject.out.tolist() == [True, False, False]
        assert subject.retry(110.0) == ["a is tried again"] and not subject.out.any()
        assert "left out for 200 s" in subject.report(fault(), now=111.0)[0]
        subject.retry(311.0)
        subject.finished(np.array([0]))
        assert [len(subject.report(fault(), now=400.0)) for _ in range(3)] == [0, 0, 1]
        assert subject.retry(500.0) == ["a is tried again"]  # after 100 s, as at first

    def test_faults_between_episodes_that_end_are_put_up_with(self):
        subject = self.quarantine()
        for _ in range(50):
            subject.report(fault(), 0.0)
            subject.report(fault(), 0.0)
            subject.finished(np.array([0, 0, 1]))
        assert not subject.out.any() and subject.faults.tolist() == [100, 0, 0]

    def test_somebody_is_always_trained(self):
        subject = self.quarantine(budget=1)
        for task in range(3):
            subject.report(fault(task), 0.0)
        np.testing.assert_allclose(subject.applied(np.full(3, 1 / 3)), 1 / 3)
        only = self.quarantine(budget=1)
        only.report(fault(0), 0.0)
        np.testing.assert_allclose(only.applied(np.array([1.0, 0, 0])), [0, 0.5, 0.5])

    def test_a_runner_nobody_knows_the_task_of_is_only_reported(self):
        assert self.quarantine().report(fault(None), 0.0) == ["runner 1: it broke"]


def test_a_task_without_a_share_gets_no_slot_whatever_it_was_owed():
    for seed in range(20):
        allocator = Allocator(4, 10, np.random.default_rng(seed))
        for _ in range(3):
            allocator.allocate(np.array([0.4, 0.3, 0.2, 0.1]))
        counts = np.array([allocator.allocate(np.array([0.5, 0.0, 0.3, 0.2])) for _ in range(100)])
        assert not counts[:, 1].any() and (counts.sum(1) == 10).all()
        np.testing.assert_allclose(counts.mean(0), [5, 0, 3, 2], atol=0.03)


def test_a_runner_without_new_weights_is_noticed():
    watch = VersionWatch()
    assert watch.check(1, 5, 5) == watch.check(2, 5, 5) == []
    assert watch.check(1, 5, 90) == [] and watch.check(2, 80, 200) == []
    assert "runner 1 still acts with version 5, 195 updates ago" in watch.check(1, 5, 200)[0]
    assert watch.check(1, 5, 300) == [] and watch.check(1, 290, 300) == []
    assert len(watch.check(1, 290, 400)) == 1


class FaultySource:
    """A source in this process that is as tolerant as a runner: beside the real one in test_distributed_faults."""

    asynchronous, lost, local_cores = False, 0, 0.0

    def __init__(self, config, suite):
        self.collector = build_collector(config, suite, 0, tolerant=True)

    def publish(self, version, weights, shares, levels):
        self.collector.set_weights(version, weights)
        self.collector.set_shares(shares)

    def collect(self, timeout, untrained=None):
        return [self.collector.collect()]

    def faults(self):
        return []

    def remarks(self):
        return []

    def close(self):
        self.collector.close()


def test_a_run_goes_on_without_the_task_that_fails():
    config = toy_config("chaos/toy/three?raise=1&only=cue", env_runners__slots=12, faults__budget=3)
    suite = make_suite(config.suite.name)
    trainer = Trainer(config, suite, FaultySource(config, suite))
    for _ in range(40):
        trainer.step()
    metrics, said = trainer.metrics(), trainer.messages()
    assert metrics["tasks/cue/quarantined"] == 1 and metrics["tasks/cue/share_trained"] == metrics["tasks/cue/frames"] == 0
    assert metrics["tasks/corridor/share_wanted"] == pytest.approx(0.5) and metrics["tasks/cue/faults"] >= 3
    assert any("RuntimeError: chaos" in message and "Traceback" in message for message in said)
    assert any("cue is left out" in message for message in said)
    assert all(np.isfinite(value) for value in metrics.values())


def test_a_run_without_a_task_gets_another_try_only_if_it_has_trained():
    def failing(quarantine: Quarantine, now: float) -> None:
        for task in (0, 1):
            for _ in range(2):
                quarantine.report(fault(task), now)

    config = FaultsConfig(budget=2, retry_seconds=5.0)
    fresh = Quarantine(("a", "b"), config)
    fresh.report(fault(0), 0.0), fresh.report(fault(0), 0.0)
    fresh.check(0)  # b is left
    failing(fresh, 0.0)
    with pytest.raises(TasksFailedError, match="every task fails; the first traceback"):
        fresh.check(0)
    trained = Quarantine(("a", "b"), config)
    failing(trained, 0.0)
    trained.check(1000)  # a file server may come back
    assert len(trained.retry(6.0)) == 2
    trained.check(1000)
    failing(trained, 6.0)
    with pytest.raises(TasksFailedError):
        trained.check(1000)
    again = Quarantine(("a", "b"), config)
    failing(again, 0.0)
    again.check(1000)
    again.retry(6.0)
    again.check(1500)  # it did
    failing(again, 7.0)
    again.check(1500)


def test_a_watchdog_remembers_what_was_being_stepped(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    watchdog = Watchdog("mtrl-state-ab12-3", 100.0)
    with watchdog.armed():
        watchdog.marker[0] = 2
        (left,) = tmp_path.glob("*/stacks.txt")
        left.rename(tmp_path / "kept")
    watchdog.marker.flush()
    (tmp_path / "kept").rename(left)
    left.write_text("Thread 0x1: step")  # as the interpreter leaves it
    again = Watchdog("mtrl-state-ab12-3", 100.0)
    assert again.hang() == (2, "Thread 0x1: step") and again.hang() is None
    assert Watchdog("mtrl-state-ab12-4", 100.0).hang() is None
    forget("mtrl-state-ab12", 4)
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("toy/three?raise=2", "raise is a chance from 0 to 1, got '2'"),
        ("toy/three?burn=0.1", "no failure 'burn'"),
        ("toy/three?only=kue", "has no task 'kue'; did you mean cue"),
    ],
)
def test_wrong_chaos_is_one_sentence(name, said):
    with pytest.raises(SuiteError, match=said.replace("?", r"\?")):
        make_suite(f"chaos/{name}")


class Pays(gymnasium.Env):
    """One step, which pays a number."""

    observation_space, action_space = gymnasium.spaces.Box(0, 1, (1,)), gymnasium.spaces.Discrete(2)

    def __init__(self, reward: float = 1.0):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), self.reward, True, False, {}


def test_a_reward_beyond_float32_costs_one_environment():
    gymnasium.register("PaysTooMuch-v0", functools.partial(Pays, 1e39))
    gymnasium.register("PaysOne-v0", Pays)
    tasks = make_vector(make_suite("gym/PaysTooMuch-v0,PaysOne-v0"), 4, seed=0, tolerant=True)
    tasks.reset()
    step = tasks.step(np.zeros(4, np.int64))
    assert step.valid.tolist() == [False, False, True, True] and "1e+39" in step.faults[0].reason
    tasks.close()


@pytest.mark.parametrize("threshold", [0.1, 0.7, 0.9, 0.95, 475.0, -110.3])
def test_a_return_at_the_threshold_succeeds(threshold):
    """Rewards are float32: 0.7 becomes 0.69999999."""
    name = f"PaysItsThreshold{str(threshold).replace('.', '').replace('-', 'm')}-v0"
    gymnasium.register(name, functools.partial(Pays, threshold), reward_threshold=threshold)
    suite = make_suite(f"gym/{name}")
    tasks = make_vector(suite, 1, seed=0)
    tasks.reset()
    (episode,) = tasks.step(np.zeros(1, np.int64)).episodes
    tasks.close()
    assert suite.tasks[0].succeeded(episode.episode_return)
    assert not suite.tasks[0].succeeded(threshold - 1e-3 * max(1, abs(threshold)))
