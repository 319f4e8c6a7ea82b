"""Sources of rollouts: the protocol, and the source in this process. `mtrl.distributed.source` has the one with Ray's runners."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from envs import TaskSuite
from envs.vector import Arrays
from mtrl.config import ExperimentConfig
from mtrl.curriculum.levels import LevelPlan
from mtrl.rollouts.collector import Collected, Collector, build_collector
from mtrl.rollouts.rollout import Rollout
from mtrl.rollouts.stored import StoredRollout


class RolloutSource(Protocol):
    """A source of rollouts. Called from one thread only."""

    asynchronous: bool  # whether rollouts arrive while the learner works
    lost: int  # unrolls that never arrived, since this process began
    local_cores: float  # cores of this machine that runners keep busy while the learner works

    def publish(self, version: int, weights: Arrays, shares: np.ndarray, levels: Sequence[LevelPlan] | None = None) -> None:
        """Offers the actor's weights, each task's wanted share [num_tasks], and the plans for its levels, if the curriculum chooses them; a
        runner takes them at the start of its next unroll.
        """

    def collect(self, timeout: float, untrained: Sequence[int] | None = None) -> list[Collected[Rollout | StoredRollout]]:
        """The unrolls that have arrived, after at most `timeout` seconds of waiting for one; asks the runners for more.

        Args:
            timeout: seconds.
            untrained: the runner of each unroll that was taken and not trained on yet, if runners are to wait for the weights that come
                from their unrolls: each is asked for so many less. None: runners act with the weights that there are.
        """

    def tend(self, untrained: Sequence[int]) -> None:
        """Looks after the runners. To be called now and then while the learner works and no rollouts are taken. `untrained` as above."""

    def faults(self) -> list[SourceFault]:
        """The faults since the last call, without those that came with rollouts."""

    def remarks(self) -> list[str]:
        """Sentences about how rollouts are collected, since the last call."""

    def state_dict(self) -> dict[str, Any]:
        """The state besides weights and shares that the next rollouts depend on: a `source_state`, so that every source can load it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`; environments start new episodes, with seeds that no earlier start has used."""

    def close(self) -> None:
        """Stops the runners."""


def source_state(restarts: int, collector: dict[str, Any] | None = None) -> dict[str, Any]:
    """The state of every source.

    Args:
        restarts: how many processes have run this experiment before; it selects streams of random numbers that none of them has used.
        collector: the random state of the one collector of a run without Ray; None for a run with Ray, or with other tasks.
    """
    return {"collector": collector, "restarts": restarts}


def restarts_after(state: dict[str, Any]) -> int:
    """The number of restarts of a process that goes on from a `source_state`. Ray's source once called it `starts`."""
    return int(state.get("restarts", state.get("starts", 0))) + 1


class InProcessSource:
    """A collector in this process: no Ray, repeatable, and with `suite.env_workers` 0 a breakpoint stops everything."""

    asynchronous = False
    lost = 0
    local_cores = 0.0

    def __init__(self, config: ExperimentConfig, suite: TaskSuite):
        self._config = config
        self._suite = suite
        self._restarts = 0
        self._remarks: list[str] = []
        self._collector: Collector | None = build_collector(config, suite, runner=0, say=self._remarks.append)
        self._restored: dict[str, Any] | None = None  # the random state of a collector that is built with the next weights

    def publish(self, version: int, weights: Arrays, shares: np.ndarray, levels: Sequence[LevelPlan] | None = None) -> None:
        """Acts with these weights, shares and levels from the next unroll on."""
        if self._collector is None:
            # Not before the plans are known: environments begin their first episodes when they are made.
            self._collector = build_collector(
                self._config,
                self._suite,
                runner=0,
                restart_count=self._restarts,
                shares=shares,
                plans=levels,
                say=self._remarks.append,
            )
            if self._restored is not None:
                self._collector.load_state_dict(self._restored)
        self._collector.set_weights(version, weights)
        self._collector.set_shares(shares)
        self._collector.set_levels(levels)

    def collect(self, timeout: float, untrained: Sequence[int] | None = None) -> list[Collected[Rollout | StoredRollout]]:
        """One unroll, however long it takes."""
        assert self._collector is not None, "weights come first"
        return [self._collector.collect()]

    def tend(self, untrained: Sequence[int]) -> None:
        """Nothing to look after."""

    def faults(self) -> list[SourceFault]:
        """None: in this process an error is raised where it happens, for a debugger to stop there."""
        return []

    def remarks(self) -> list[str]:
        """Which worker processes step what."""
        remarks, self._remarks[:] = list(self._remarks), []
        return remarks

    def state_dict(self) -> dict[str, Any]:
        """The collector's random state, and how often environments were started."""
        return source_state(self._restarts, self._restored if self._collector is None else self._collector.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the saved random state in new episodes, which differ from the first episodes of the earlier run. They begin when
        weights and levels are published.
        """
        self.close()
        self._collector = None
        self._restarts = restarts_after(state)
        self._remarks.clear()
        self._restored = state.get("collector")  # None: the earlier run had other tasks or ran on Ray

    def close(self) -> None:
        """Closes the environments."""
        if self._collector is not None:
            self._collector.close()


class RunnerLostError(RuntimeError):
    """A runner dies again and again. The message has the reason."""


class SourceFault(NamedTuple):
    """Something that failed while rollouts were collected."""

    runner: int
    task: int | None  # None where it is unknown
    reason: str
    traceback: str  # empty where there is none
    lost_unroll: bool = True  # whether an unroll was lost with it that no other fault counts
