"""The driver's side of learners that are Ray actors."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.rllib.core.learner.learner_group import LearnerGroup

from envs.vector import Arrays
from mtrl.distributed.learner import PolicyLearner
from mtrl.distributed.start import free_resources
from mtrl.learning.interface import LearnerLostError, UpdateResult
from mtrl.learning.learner import Learner
from mtrl.learning.level_signals import LevelSignals, merged
from mtrl.rollouts.rollout import Rollout, take_slots
from mtrl.rollouts.stored import RolloutsLostError, StoredBatch

SECONDS_TO_BLAME = 10.0  # after a learner's error: how long to look for one that died, which is then the reason
LOST = (RayActorError, ObjectLostError)  # what Ray says of an actor that died, and of its results where its node died with it
POLL_SECONDS = 0.5  # between two looks at whether the run was interrupted
INTERRUPTED_SECONDS = 20.0  # for learners to end what they are at then
SILENT_SECONDS = 30.0  # between two lines about new learners that are waited for

logger = logging.getLogger("mtrl")


class Updated(NamedTuple):
    """The report of one of several learners after an update. Only the first one's is whole."""

    result: UpdateResult | None
    actor_weights: Arrays | None
    levels: LevelSignals | None  # of its own slots


class RemoteLearners:
    """Learner actors with equal states. Each takes its part of a batch's slots, whole unrolls, and all make the same step."""

    def __init__(self, group: LearnerGroup, build: Callable[[], LearnerGroup], seconds: float):
        """`seconds` is the longest time of an update, after which learners count as lost."""
        self._build, self._seconds = build, seconds
        self.interrupted: Callable[[], bool] = lambda: False
        """Asked while learners are waited for, which count as lost soon after it says so."""
        self.version = 0
        self._actor_weights: Arrays | None = None
        self._take(group)

    def update(self, rollout: Rollout, progress: float) -> UpdateResult:
        """One batch's optimiser steps, as `Learner.update`.

        Raises:
            LearnerLostError: an actor died.
            ValueError: there are fewer slots than learners.
        """
        count = len(self._actors)
        self._check_slots(rollout.num_slots)
        # Every n-th slot: slots are sorted by task, so that each learner gets its part of every task.
        slots = [np.arange(rank, rollout.num_slots, count) for rank in range(count)]
        parts = [ray.put(take_slots(rollout, own)) for own in slots]
        return self._take_in(self._everywhere(_update, [(part, progress) for part in parts]), slots)

    def update_stored(self, batch: StoredBatch, progress: float) -> UpdateResult:
        """The same, with rollouts that learners take from Ray's store themselves.

        Raises:
            LearnerLostError: an actor died.
            RolloutsLostError: rollouts are lost; no learner has made a step.
            ValueError: there are fewer slots than learners.
        """
        count = len(self._actors)
        self._check_slots(batch.outline.num_slots)
        parts = [batch.part(rank, count) for rank in range(count)]
        taken = [([batch.references[position] for position in part.positions], None if part.whole else part.slots) for part in parts]
        calls = [actor.apply.remote(PolicyLearner.take, *own) for actor, own in zip(self._actors, taken, strict=True)]
        lost = self._results(calls)
        missing = {part.positions[position] for part, own in zip(parts, lost, strict=True) for position in own}
        if missing:
            raise RolloutsLostError(sorted(missing))
        updates = self._results([actor.apply.remote(_update_taken, progress) for actor in self._actors])
        return self._take_in(updates, [part.slots for part in parts])

    def _check_slots(self, slots: int) -> None:
        if slots < len(self._actors):
            raise ValueError(f"a batch of {slots} slots cannot be divided among {len(self._actors)} learners")

    def _take_in(self, updated: list[Updated], slots: list[np.ndarray]) -> UpdateResult:
        """The result of an update, in which each learner had these slots."""
        self.version += 1
        self._actor_weights = updated[0].actor_weights
        result = updated[0].result
        assert result is not None
        signals = [each.levels for each in updated if each.levels is not None]
        return result._replace(levels=merged(signals, slots)) if signals else result

    def actor_weights(self) -> Arrays:
        """The actor's weights, which the newest update has brought along."""
        weights: Arrays = self._actor_weights or self._first(lambda core: core.actor_weights())
        self._actor_weights = weights
        return weights

    def policy_weights(self) -> Arrays:
        """Actor and critic."""
        weights: Arrays = self._first(lambda core: core.policy_weights())
        return {name: array.copy() for name, array in weights.items()}  # what comes from Ray's store cannot be written to

    def load_experts(self, weights: Arrays) -> None:
        """Begins with the experts of another policy."""
        self._actor_weights = None
        self._everywhere(lambda core, given: core.load_experts(given), [(ray.put(weights),)] * len(self._actors))

    def state_dict(self) -> dict[str, Any]:
        """The state of one, which is everybody's; on the CPU."""
        state: dict[str, Any] = self._first(lambda core: _on_cpu(core.state_dict()))
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`, of any number of learners."""
        self.version, self._actor_weights = state["version"], None
        self._everywhere(lambda core, given: core.load_state_dict(given), [(ray.put(state),)] * len(self._actors))

    def restart(self) -> None:
        """Ends all actors, those too that still wait for one that died, and starts as many with initial weights.

        Raises:
            LearnerLostError: they do not start, or the run was interrupted meanwhile.
        """
        for actor in self._actors:
            ray.kill(actor)
        self.group._backend_executor.shutdown(graceful_termination=False)
        self.group._is_shut_down = True
        self._take(self._built())

    def _built(self) -> LearnerGroup:
        """New learners, which may have to wait for a node. RLlib does so without a limit, so that a thread waits."""
        groups: list[LearnerGroup] = []
        errors: list[Exception] = []

        def build() -> None:
            try:
                groups.append(self._build())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=build, daemon=True)
        thread.start()
        spoke = time.monotonic()
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            if thread.is_alive() and self.interrupted():
                raise LearnerLostError("the run was interrupted while new learners were waited for")
            if time.monotonic() - spoke >= SILENT_SECONDS:
                spoke = time.monotonic()
                logger.warning("waiting for new learners to start: Ray has %s", free_resources())
        if errors and isinstance(errors[0], RayError | RuntimeError):
            raise LearnerLostError(f"new learners do not start: {errors[0]}")
        if errors:
            raise errors[0]
        return groups[0]

    def _take(self, group: LearnerGroup) -> None:
        self.group, self._actors = group, list(group._workers)
        self.version, self._actor_weights = 0, None

    def _first(self, function: Callable[[Learner], Any]) -> Any:
        return self._results([self._actors[0].apply.remote(_on_core, function)])[0]

    def _everywhere(self, function: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
        """`function(core, *arguments)` in every actor, with references replaced by what they stand for."""
        return self._results([actor.apply.remote(_on_core, function, *own) for actor, own in zip(self._actors, arguments, strict=True)])

    def _results(self, waiting: list[Any]) -> list[Any]:
        """Results in order. Not `ray.get` of all: when one dies the others may wait for it for half an hour."""
        pending = list(waiting)
        begun, interrupted = time.monotonic(), math.inf
        try:
            while pending:
                ready, pending = ray.wait(pending, num_returns=1, timeout=POLL_SECONDS)
                now = time.monotonic()
                if ready:
                    ray.get(ready[0])
                    begun = now
                elif now - begun > self._seconds:
                    raise LearnerLostError(f"a learner has not answered for {self._seconds:g} s (faults.update_seconds)")
                elif self.interrupted():
                    interrupted = min(interrupted, now)
                    if now - interrupted > INTERRUPTED_SECONDS:
                        raise LearnerLostError(f"a learner has not answered for {INTERRUPTED_SECONDS:g} s after the signal")
            return list(ray.get(waiting))
        except LOST as error:
            raise LearnerLostError(str(error)) from None
        except LearnerLostError:
            raise
        except Exception as error:
            # Learners with a broken exchange may report before the one that died.
            finished, _ = ray.wait(pending, num_returns=len(pending), timeout=SECONDS_TO_BLAME) if pending else ([], [])
            if any(_died(reference) for reference in finished):
                raise LearnerLostError(str(error)) from None
            raise


def _update(core: Learner, rollout: Rollout, progress: float) -> Updated:
    result = core.update(rollout, progress)
    return Updated(result, core.actor_weights(), result.levels) if core.rank == 0 else Updated(None, None, result.levels)


def _update_taken(learner: PolicyLearner, progress: float) -> Updated:
    """An update on what the learner has taken."""
    rollout, learner.taken = learner.taken, None
    assert rollout is not None
    return _update(learner.core, rollout, progress)


def _on_core(learner: PolicyLearner, function: Callable[..., Any], *arguments: Any) -> Any:
    return function(learner.core, *arguments)


def _died(reference: Any) -> bool:
    try:
        ray.get(reference)
    except LOST:
        return True
    except Exception:
        return False
    return False


def _on_cpu(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _on_cpu(value) for name, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state
