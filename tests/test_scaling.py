"""Many runners, and the benchmark that counts what they bring."""

from __future__ import annotations

import os

import pytest
import ray
from helpers import toy_config

from mtrl.benchmark import scaling
from mtrl.distributed import MultiTaskIMPALAConfig
from mtrl.distributed.cluster import start_ray

MANY = min(64, 4 * len(os.sched_getaffinity(0)))  # each of them imports torch, which keeps a core busy for six seconds


@pytest.fixture(scope="module", autouse=True)
def cluster():
    start_ray()
    yield
    ray.shutdown()


@pytest.mark.slow
def test_many_tiny_runners_hold():
    config = scaling.waiting(toy_config(env_runners__slots=3, env_runners__unroll_length=8), MANY, 0.02)
    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    trainer = algorithm.trainer
    try:
        heard: set[int] = set()
        while len(heard) < MANY:
            trainer.step()
            heard |= set(trainer._versions._last)
        trainer.metrics()
        scaling._train(trainer, 5.0)
        metrics = trainer.metrics()
        assert metrics["throughput/runners"] == MANY
        assert metrics["throughput/lost_unrolls"] == 0
        assert int(trainer.statistics.frames.sum()) == trainer.frames
    finally:
        algorithm.stop()
