"""RLlib's own IMPALA on the same tasks: what this trainer is compared with."""

from __future__ import annotations

import time
import warnings
from typing import Any

import gymnasium
import numpy as np
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.tune.registry import register_env

from envs import make_suite
from envs.suites.minigrid_view import with_own_view
from mtrl.distributed.cluster import start_ray

RUNNERS, ENVS_PER_RUNNER = 2, 16


class FlatView(gymnasium.ObservationWrapper):
    """The view as a vector of floats in 0 … 1, which RLlib's default network reads."""

    def __init__(self, env: gymnasium.Env):
        super().__init__(env)
        size = int(np.prod(env.observation_space["image"].shape))  # type: ignore[index]
        self.observation_space = gymnasium.spaces.Box(0.0, 1.0, (size,), np.float32)

    def observation(self, observation: Any) -> np.ndarray:
        """Flattened; MiniGrid's numbers do not exceed 10."""
        return observation["image"].reshape(-1).astype(np.float32) / 10.0


def measure_rllib(suite_name: str, seconds: float, warm_up: float = 20.0) -> float:
    """Frames per second of RLlib's IMPALA with its 2x256 network, two runners of 16 environments, tasks spread over them.

    Args:
        suite_name: a suite whose environments observe an image.
        seconds: how long it is measured.
        warm_up: how long it runs before.
    """
    warnings.simplefilter("ignore")
    start_ray()
    suite = make_suite(suite_name)

    def make_env(context: Any) -> gymnasium.Env:
        number = (context.worker_index - 1) * ENVS_PER_RUNNER + context.vector_index
        # As RLlib's users get it from `gymnasium.make`: MiniGrid's fast view is this project's.
        return FlatView(with_own_view(suite.tasks[number % suite.num_tasks].make_env()))

    register_env("mtrl-peer", make_env)
    config = (
        IMPALAConfig()
        .environment("mtrl-peer")
        .env_runners(num_env_runners=RUNNERS, num_envs_per_env_runner=ENVS_PER_RUNNER, rollout_fragment_length=50)
        .learners(num_learners=0)
        .training(train_batch_size_per_learner=500, num_aggregator_actors_per_learner=0)
        .rl_module(model_config={"fcnet_hiddens": [256, 256], "fcnet_activation": "tanh"})
    )
    algorithm = config.build_algo()
    try:
        _train_for(algorithm, warm_up)
        start, before = time.perf_counter(), _frames(algorithm.train())
        start = time.perf_counter()
        after = _train_for(algorithm, seconds)
        return (after - before) / (time.perf_counter() - start)
    finally:
        algorithm.stop()


def _train_for(algorithm: Any, seconds: float) -> float:
    end, frames = time.perf_counter() + seconds, 0.0
    while time.perf_counter() < end:
        frames = max(frames, _frames(algorithm.train()))
    return frames


def _frames(result: dict[str, Any]) -> float:
    # RLlib leaves the figure out of a result that comes before its first sample.
    return float(result["env_runners"].get("num_env_steps_sampled_lifetime", 0.0))
