"""A collector as an RLlib EnvRunner actor."""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NamedTuple

import ray
import torch
from ray.exceptions import RayError
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner

from envs import TaskFault, make_suite
from envs.errors import portable
from mtrl.curriculum.levels import LevelPlan
from mtrl.distributed.watchdog import Watchdog
from mtrl.distributed.weight_server import Published
from mtrl.rollouts.collector import Collected, Collector, build_collector
from mtrl.rollouts.rollout import Rollout
from mtrl.rollouts.source import SourceFault
from mtrl.rollouts.stored import StoredRollout

LONGEST_WAIT = 30.0  # seconds before environments that keep failing are built again


class Failure(NamedTuple):
    """An error of a runner's own code, which would occur again after a restart."""

    error: BaseException
    traceback: str


class MultiTaskEnvRunner(EnvRunner):
    """Steps the slots of all tasks. Before every unroll it pulls newer weights and shares, if there are any."""

    def __init__(self, *, config: Any, **kwargs: Any):
        super().__init__(config=config, **kwargs)
        self._experiment = config.experiment()
        self._suite = make_suite(self._experiment.suite.name)
        torch.set_num_threads(self._experiment.env_runners.inference_threads)
        self._server = ray.get_actor(config.weight_server)
        self._collector: Collector | None = None
        self._serial = -1  # of what was pulled last
        self._watchdog = Watchdog(f"{config.weight_server}-{self.worker_index}", self._experiment.faults.unroll_seconds)
        self._failures_in_a_row = 0

    def sample(self, **kwargs: Any) -> Collected[Rollout | StoredRollout] | SourceFault | Failure:
        """One unroll with the newest weights, or what went wrong.

        Errors are returned: RLlib ends a runner that raises, and what it said is lost with it. After a task's fault the environments are
        built anew for the next unroll, after a wait if that happens again and again.
        """
        hang = self._watchdog.hang()
        if hang is not None:
            reason = f"an unroll took more than {self._experiment.faults.unroll_seconds:g} s; the process was ended"
            return SourceFault(self.worker_index, hang.task, reason, hang.stacks, lost_unroll=False)  # counted when the process died
        died = self._watchdog.died()
        if died is not None:
            reason = "the runner's process ended while an environment of this task was stepped (os._exit, a crash or a kill)"
            return SourceFault(self.worker_index, died, reason, "", lost_unroll=False)
        if self._failures_in_a_row > 1:
            time.sleep(min(0.5 * 2.0 ** (self._failures_in_a_row - 2), LONGEST_WAIT))
        try:
            with self._watchdog.armed():
                collected = self._sample()
        except TaskFault as fault:
            self._failures_in_a_row += 1
            self.stop()
            self._collector = None
            return SourceFault(self.worker_index, fault.task_id, str(fault), traceback.format_exc())
        except (OSError, RayError, torch.AcceleratorError) as error:
            # Of this node, not of the code: a full disk, a GPU in a bad state. Another process, perhaps on another node, may do better.
            traceback.print_exc()
            print(f"the runner ends, and Ray starts it again: {error}", file=sys.stderr, flush=True)
            os._exit(1)
        except Exception as error:
            return Failure(portable(error), traceback.format_exc())
        self._failures_in_a_row = 0
        return _stored(collected) if self._experiment.learners.num_learners else collected

    def _sample(self) -> Collected[Rollout]:
        if self._collector is None:
            # Not before the first unroll, so that a resumed run can still say which streams were used already.
            restarts, newest = self._register()
            self._serial = -1
            self._collector = build_collector(
                self._experiment,
                self._suite,
                runner=self.worker_index,
                restart_count=restarts,
                shares=newest.shares,
                plans=_plans(newest),
                tolerant=True,
                marker=self._watchdog.marker,
                say=print,  # into the log of this actor
            )
        published = ray.get(self._server.newer_than.remote(self._serial))
        if published is not None:
            self._serial = published.serial
            self._collector.set_weights(published.version, ray.get(published.weights[0]))
            self._collector.set_shares(published.shares)
            self._collector.set_levels(_plans(published))
        return self._collector.collect()

    def _register(self) -> tuple[int, Published]:
        """The number of earlier starts of this runner, and what was published last; waits for a publication.

        A server that died in between has forgotten both.
        """
        while True:
            restarts = ray.get(self._server.register.remote(self.worker_index))
            newest = ray.get(self._server.newer_than.remote(-1))
            if restarts is not None and newest is not None:
                return restarts, newest
            time.sleep(0.1)

    def assert_healthy(self) -> None:
        """Succeeds once the constructor has finished."""
        assert self._suite is not None

    def get_spaces(self) -> dict[str, tuple[Any, Any]]:
        """Observation and action space, for RLlib."""
        spaces = (self._suite.observation_space, self._suite.action_space)
        return {INPUT_ENV_SPACES: spaces, DEFAULT_MODULE_ID: spaces}

    def get_metrics(self) -> dict[str, Any]:
        """Empty: episodes travel with the rollouts."""
        return {}

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """Empty: weights come from the weight server, and episodes start anew."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing to restore."""

    def stop(self) -> None:
        """Closes the environments."""
        if self._collector is not None:
            with contextlib.suppress(Exception):
                self._collector.close()


def _stored(collected: Collected[Rollout]) -> Collected[StoredRollout]:
    """With the rollout in Ray's store, for learners in other processes: to this runner's caller go its outline and a reference."""
    rollout = StoredRollout([ray.put(collected.rollout)], collected.rollout.outline)
    return Collected(rollout, collected.episodes, collected.faults, collected.runner, collected.env_seconds, collected.inference_seconds)


def _plans(published: Published) -> Sequence[LevelPlan] | None:
    """The plans for levels that were published, if there are any."""
    plans: Sequence[LevelPlan] | None = ray.get(published.levels[0]) if published.levels else None
    return plans
