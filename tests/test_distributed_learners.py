"""Learners in real Ray actors: equal to one, and started again when one dies."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import ray
from helpers import STEADY, assert_equal_states, collect, fingerprint, toy_config
from ray.exceptions import ObjectLostError

from envs import make_suite
from mtrl.config import override
from mtrl.distributed import MultiTaskIMPALAConfig, ResourceError
from mtrl.distributed.cluster import check_resources, start_ray
from mtrl.distributed.remote_learners import RemoteLearners
from mtrl.learning.interface import LearnerLostError
from mtrl.learning.learner import Learner
from mtrl.rollouts.rollout import concatenate
from mtrl.rollouts.stored import StoredRollout, stored_batch
from mtrl.storage.checkpoint import load_checkpoint, resolve, steps
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.run import TrainingRun, run_training
from mtrl.training.trainer import build_trainer

UPDATES = 20
SHARED = {
    "env_runners__num_env_runners": 1,
    "env_runners__num_cpus_per_env_runner": 0.5,
    "learners__num_learners": 2,
    "learners__num_cpus_per_learner": 0.5,
}


@pytest.fixture(scope="module", autouse=True)
def cluster():
    start_ray()
    yield
    ray.shutdown()


@dataclass
class Listener:
    """A console that keeps what it hears."""

    said: list[str] = field(default_factory=list)

    def start(self, config, suite, directory) -> None: ...

    def update(self, metrics) -> None: ...

    def close(self) -> None: ...

    def message(self, text: str) -> None:
        self.said.append(text)


def test_two_actors_are_one_learner_and_their_checkpoint_is_its(tmp_path):
    config = toy_config(model__popart=True, learner__popart_rate=0.1, **STEADY, **SHARED)
    suite = make_suite(config.suite.name)
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    try:
        learners, alone = algorithm.trainer.learner, Learner(config, suite)
        assert isinstance(learners, RemoteLearners)
        collected = collect(toy_config(), UPDATES + 1)
        for rollout in collected[:UPDATES]:
            expected, said = alone.update(rollout, 0.0), learners.update(rollout, 0.0)
            for name in ("value_loss", "entropy"):
                assert said.means[name] == pytest.approx(expected.means[name], rel=1e-3, abs=1e-5)
            np.testing.assert_allclose(said.task_values.errors, expected.task_values.errors, rtol=1e-3, atol=1e-5)
        assert learners.version == UPDATES
        state = learners.state_dict()
        assert_equal_states(alone.state_dict(), state)

        resumed = Learner(config, suite)  # one learner goes on with the state of two, and two with the state of one
        resumed.load_state_dict(state)
        learners.load_state_dict(alone.state_dict())
        resumed.update(collected[-1], 0.0), alone.update(collected[-1], 0.0), learners.update(collected[-1], 0.0)
        for other in (resumed, learners):
            assert_equal_states(alone.state_dict(), other.state_dict())
        path, saved = algorithm.save_to_path(str(tmp_path / "checkpoint")), learners.state_dict()  # as Tune does
        learners.update(collected[0], 0.0)
        algorithm.restore_from_path(path)
        assert fingerprint(learners.state_dict()) == fingerprint(saved)
        with pytest.raises(ValueError, match="1 slots cannot be divided among 2 learners"):
            learners.update(collect(toy_config("toy/cue", env_runners__slots=1), 1)[0], 0.0)
    finally:
        algorithm.stop()


def test_rollouts_go_from_the_store_to_learners_and_make_the_same_step():
    """Dealt out whole where their number allows, else slot by slot; one learner that has all of them is the measure."""
    config = toy_config(model__popart=True, learner__popart_rate=0.1, **STEADY, **SHARED)
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    try:
        learners, alone = algorithm.trainer.learner, Learner(config, make_suite(config.suite.name))
        collected = collect(toy_config(), 25)
        while collected:
            rollouts = [collected.pop() for _ in range(min(len(collected), 1 + len(collected) % 4))]
            expected = alone.update(concatenate(rollouts), 0.0)
            said = learners.update_stored(stored_batch([StoredRollout([ray.put(each)], each.outline) for each in rollouts]), 0.0)
            assert said.means["value_loss"] == pytest.approx(expected.means["value_loss"], rel=1e-3, abs=1e-5)
        assert_equal_states(alone.state_dict(), learners.state_dict())
    finally:
        algorithm.stop()


def test_rollouts_that_died_with_their_runner_are_left_out_of_the_batch():
    """The training loop has their outlines; the rollouts themselves are the runner's until learners have taken them."""
    config = toy_config(**{**SHARED, "env_runners__num_env_runners": 2, "learner__rollouts_per_update": 1})
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    trainer = algorithm.trainer
    try:
        while trainer.updates < 3:
            trainer.step()
        while len({each.runner for each in trainer._arrived}) < 2:
            trainer._receive(1.0)
        gone, there = (next(each.rollout for each in trainer._arrived if each.runner == runner) for runner in (1, 2))
        (pid,) = algorithm.env_runner_group.foreach_env_runner(lambda runner: os.getpid(), remote_worker_ids=[1], local_env_runner=False)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(ObjectLostError):
            for _ in range(100):
                ray.get(gone.references)
                time.sleep(0.1)
        frames, lost = trainer.frames, trainer._source.lost
        assert trainer._train_on([there, gone, there])
        assert trainer.frames == frames + 2 * there.outline.num_frames
        assert trainer._source.lost == lost + 1
        assert any("1 of the rollouts of a batch were lost" in message for message in trainer.messages())
        assert not trainer._train_on([gone])
        trainer._arrived.clear()
        updates, end = trainer.updates, time.monotonic() + 60
        while trainer.updates < updates + 5 and time.monotonic() < end:
            trainer.step()
        assert trainer.updates >= updates + 5
    finally:
        algorithm.stop()


def test_learners_that_are_lost_again_while_they_are_started_are_started_once_more(tmp_path, monkeypatch):
    trainer = build_trainer(toy_config(faults__budget=3))
    run = TrainingRun(trainer, RunDirectory.create(tmp_path / "run", trainer.config), console := Listener())
    run._initial_state, tries = trainer.state_dict(), []

    def recover(state):
        tries.append(state)
        if len(tries) < 3:
            raise LearnerLostError(f"try {len(tries)}")

    monkeypatch.setattr(trainer, "recover", recover)
    run._recover(LearnerLostError("at first"))
    assert len(tries) == 3 and [line for line in console.said if "try 2" in line]
    tries.clear()
    with pytest.raises(LearnerLostError, match="lost 4 times"):
        run._recover(LearnerLostError("too often"))
    trainer.close()


def test_a_signal_ends_the_waiting_for_new_learners():
    learners = object.__new__(RemoteLearners)
    learners._build, learners.interrupted = lambda: time.sleep(60), lambda: True
    before = time.monotonic()
    with pytest.raises(LearnerLostError, match="interrupted"):
        learners._built()
    assert time.monotonic() - before < 5
    learners._build = lambda: {}["no group"]
    with pytest.raises(KeyError):
        learners._built()


def test_a_killed_learner_costs_the_frames_since_the_checkpoint(tmp_path):
    larger = {"env_runners__slots": 48, "env_runners__unroll_length": 32, "total_frames": 60_000}
    config = toy_config(checkpoints__every_seconds=0.5, report_seconds=0.2, **larger, **SHARED)
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    directory, console = RunDirectory.create(tmp_path / "run", config), Listener()
    killed: list[int] = []  # the newest checkpoint then

    def kill_when_saved() -> None:
        while not steps(directory.checkpoints):
            time.sleep(0.05)
        time.sleep(0.7)
        learner = algorithm.trainer.learner.group._workers[1]
        pid = ray.get(learner.apply.remote(lambda _: os.getpid()))
        killed.append(steps(directory.checkpoints)[-1])
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_when_saved)
    killer.start()
    try:
        assert run_training(algorithm.trainer, directory, console) == 0
    finally:
        killer.join()
        algorithm.stop()
    lost, back = [next(text for text in console.said if part in text) for part in ("a learner was lost", "went back to")]
    assert lost.startswith("warning: ")
    checkpoint = int(back.split("checkpoint ")[1].split(":")[0])
    assert checkpoint >= killed[0]
    frames = [row["summary/frames"] for row in directory.read_metrics()]
    assert frames == sorted(frames) and frames[-1] >= 60_000
    # The frames of the last checkpoint are those that the policy was trained on: nothing counted twice.
    saved = load_checkpoint(resolve(directory.checkpoints, "latest")).components
    assert saved["statistics"]["frames"].sum() == frames[-1]


def test_a_learner_that_hangs_is_lost():
    """`_results` on real references: one that is ready, and one that will not be for a minute."""
    quick, hanging = ray.remote(num_cpus=0)(lambda: 1), ray.remote(num_cpus=0)(lambda: time.sleep(60))
    learners = RemoteLearners.__new__(RemoteLearners)
    learners._seconds = 5.0
    assert learners._results([quick.remote()]) == [1]
    learners._seconds = 0.5
    reference = hanging.remote()
    with pytest.raises(LearnerLostError, match=r"has not answered for 0.5 s \(faults.update_seconds\)"):
        learners._results([reference])
    ray.cancel(reference, force=True)


def test_cores_of_learners_are_counted():
    with pytest.raises(ResourceError, match=r"num_env_runners 1 and learners.num_learners 999 need 1000 CPU"):
        check_resources(override(toy_config(), {"env_runners.num_env_runners": 1, "learners.num_learners": 999}))
