"""Real rollouts of the initial policy, as input of the measurements of a learner or a collector."""

from __future__ import annotations

import numpy as np
import torch

from envs import TaskSuite
from mtrl.config import ExperimentConfig
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import Collector, build_collector
from mtrl.rollouts.rollout import Rollout


def warm_collector(config: ExperimentConfig, suite: TaskSuite) -> Collector:
    """A collector with the initial policy and equal shares of the tasks, after one unroll."""
    threads = torch.get_num_threads()
    torch.set_num_threads(config.env_runners.inference_threads)
    collector = build_collector(config, suite, runner=0)
    collector.set_weights(0, Learner(config, suite).actor_weights())
    collector.set_shares(np.full(suite.num_tasks, 1 / suite.num_tasks))
    collector.collect()
    torch.set_num_threads(threads)
    return collector


def initial_rollout(config: ExperimentConfig, suite: TaskSuite) -> Rollout:
    """The second unroll of the initial policy; the first one starts all episodes at once."""
    collector = warm_collector(config, suite)
    rollout = collector.collect().rollout
    collector.close()
    return rollout
