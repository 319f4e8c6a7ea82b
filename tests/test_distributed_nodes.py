"""A run on several nodes: real raylets of a local cluster, one of which is killed."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
import ray
from helpers import collect, steps_until, toy_config
from ray.cluster_utils import Cluster
from ray.exceptions import RayActorError

from mtrl.distributed import MultiTaskIMPALAConfig
from mtrl.distributed.cluster import start_ray
from mtrl.distributed.learner import PolicyLearner
from mtrl.distributed.surroundings import ENVIRONMENT
from mtrl.machine import python_path

RUNNERS = {"env_runners__num_env_runners": 2, "env_runners__slots": 12, "total_frames": 10_000_000}


@pytest.fixture
def cluster(monkeypatch):
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", python_path())
    small = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize(("slots", "idle"), [pytest.param(12, 0.0, marks=pytest.mark.slow), (3000, 4.0)])
def test_a_node_that_is_lost_takes_its_unrolls_and_one_that_joins_is_used(cluster, slots, idle):
    """Also unrolls that were ready and lay in the node's store, which small ones do not."""
    other = cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    start_ray()
    assert ray.cluster_resources()["CPU"] == 2
    algorithm = MultiTaskIMPALAConfig.from_experiment(toy_config(**RUNNERS | {"env_runners__slots": slots})).build_algo()
    trainer, acting = algorithm.trainer, algorithm.trainer._versions._last
    try:
        steps_until(trainer, lambda said: set(acting) == {1, 2})
        assert trainer._source.local_cores == 0  # with other nodes, this one's cores are the learner's
        nodes = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: (runner.worker_index, ray.get_runtime_context().get_node_id()), local_env_runner=False
        )
        here = ray.get_runtime_context().get_node_id()
        (lost,) = [index for index, node in nodes if node != here]

        time.sleep(idle)  # for all runners to have done what they were asked for
        cluster.remove_node(other, allow_graceful=False)
        told = ("died", "a rollout was lost")
        steps_until(trainer, lambda said: any(f"runner {lost}: {what}" in message for message in said for what in told))
        acting.clear()
        frames = trainer.frames
        steps_until(trainer, lambda said: trainer.frames > frames + max(5000, 40 * slots))
        assert set(acting) == {3 - lost}  # the other one goes on
        assert trainer._source.lost == 1 or (idle and trainer._source.lost <= 3)

        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)
        version = trainer.updates
        steps_until(trainer, lambda said: lost in acting)
        assert acting[lost] >= version
        assert int(trainer.statistics.frames.sum()) == trainer.frames
    finally:
        algorithm.stop()


def test_rollouts_of_a_node_that_is_lost_are_named(cluster):
    """Learners get from Ray's store what is still there, and say what is not."""
    other = cluster.add_node(num_cpus=1, resources={"other": 1}, object_store_memory=100 * 2**20)
    cluster.wait_for_nodes()
    start_ray()
    (rollout,) = collect(toy_config(env_runners__slots=600), 1)

    @ray.remote(num_cpus=0, resources={"other": 1})
    class Holder:
        def put(self, value):
            return [ray.put(value)]

    holder = Holder.remote()
    there, here = ray.get(holder.put.remote(rollout)), ray.put(rollout)
    learner = SimpleNamespace(taken=None)
    assert PolicyLearner.take(learner, [here], None) == []
    np.testing.assert_array_equal(learner.taken.rewards, rollout.rewards)
    cluster.remove_node(other, allow_graceful=False)
    with pytest.raises(RayActorError):
        ray.get(holder.put.remote(None))
    learner.taken = None
    assert PolicyLearner.take(learner, [here, there[0], here], None) == [1]
    assert learner.taken is None
