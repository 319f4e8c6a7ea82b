"""Rollouts from RLlib's group of runner actors."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.exceptions import ObjectLostError, RayActorError, RayError
from ray.rllib.env.env_runner_group import EnvRunnerGroup

from envs.vector import Arrays
from mtrl.curriculum.levels import LevelPlan
from mtrl.distributed.env_runner import Failure
from mtrl.distributed.start import end_of
from mtrl.distributed.weight_server import Published
from mtrl.rollouts.collector import Collected
from mtrl.rollouts.rollout import Rollout
from mtrl.rollouts.source import RunnerLostError, SourceFault, restarts_after, source_state
from mtrl.rollouts.stored import StoredRollout

FETCH_SECONDS = 0.003  # how long one look at the outstanding requests may block
TAG = "sample"
RECENT = 32  # unrolls, the lengths of which are known
PUBLISH_SECONDS = 5.0  # for the server of weights to take them
PROBE_SECONDS = 0.2  # between two looks at runners that have died
PING_SECONDS = 0.05  # for one that is back to answer; it has nothing else to do
EXAMINE_SECONDS = 2.0  # between two questions to Ray about runners that are not back

LATE = 2.0  # median lengths of an unroll, after which, and `GRACE_SECONDS`, a runner counts as missing
GRACE_SECONDS = 1.0


class RaySource:
    """Keeps `rollouts_in_flight` requests at every runner. A runner that died is restarted by Ray and taken in again; until then, and while
    it hangs, others get one request more each, so that there are always as many rollouts on their way.
    """

    asynchronous = True

    def __init__(
        self, group: EnvRunnerGroup, server: Any, rollouts_in_flight: int, runner_cores: float = 0.0, deaths_allowed: int = sys.maxsize
    ):
        self._group = group
        self._server = server
        self._rollouts_in_flight = rollouts_in_flight
        if group is not None:
            group._worker_manager._max_remote_requests_in_flight_per_actor = rollouts_in_flight + 1
        # Where there are several nodes, this one is the learner's as far as Ray can arrange it.
        self.local_cores = runner_cores if len(ray.nodes()) == 1 else 0.0
        self.lost = 0  # unrolls that died with their runner
        self._serial = 0
        self._published: Published | None = None  # the newest publication
        self._publishing: Any = None  # its answer, as long as nobody has waited for it
        self._given: Arrays | None = None  # the weights that were published last
        self._weights: list[Any] = []  # the reference to them
        self._plans: Sequence[LevelPlan] | None = None  # that were published last
        self._levels: list[Any] = []  # the reference to them
        self._faults: list[SourceFault] = []
        self._dead: set[int] = set()  # runners from which nothing has come since they died
        self._gone: set[int] = set()  # those of them that Ray does not start again
        self._deaths: Counter[int] = Counter()  # of each runner since something came from it
        self._deaths_allowed = deaths_allowed
        self._restarts = 0  # processes that have run this experiment before
        self._probed = self._examined = time.monotonic()
        self._sent: defaultdict[int, deque[float]] = defaultdict(deque)  # by runner: when each request that waits was sent
        self._heard: dict[int, float] = {}  # by runner: when something came from it last
        self._unrolls: deque[float] = deque(maxlen=RECENT)  # lengths in seconds
        self._held: list[tuple[int, Collected[Rollout | StoredRollout]]] = []  # arrived before anybody asked; with their runners
        self._held_of: Counter[int] = Counter()  # by runner
        self._untrained: Counter[int] = Counter()  # by runner: rollouts that were taken, in place of which it is not asked

    def publish(self, version: int, weights: Arrays, shares: np.ndarray, levels: Sequence[LevelPlan] | None = None) -> None:
        """One copy into the object store, however many runners there are."""
        self._serial += 1
        if weights is not self._given:
            self._given, self._weights = weights, [ray.put(weights)]
        if levels is not None and levels is not self._plans:
            self._plans, self._levels = levels, [ray.put(levels)]
        self._published = Published(self._serial, version, self._weights, shares, self._restarts, self._levels)
        self._publishing = self._server.publish.remote(self._published)

    def collect(self, timeout: float, untrained: Sequence[int] | None = None) -> list[Collected[Rollout | StoredRollout]]:
        """Rollouts that have arrived; asks every runner for more."""
        deadline = time.monotonic() + timeout
        self._untrained = Counter(untrained or ())
        if untrained is not None:
            self._wait_until_published()
        while True:
            self._request()
            if not self._held and not any(self._sent.values()):
                self._untrained.clear()  # a batch of more rollouts than there are runners: all of them are asked again
                self._request()
            held, self._held = self._held, []
            self._held_of.clear()
            # RLlib waits for all outstanding requests or the time-out, whichever is first, so the time-out is short.
            arrived = [*held, *self._fetch()]
            if arrived or time.monotonic() >= deadline:
                return [rollout for _, rollout in arrived]
            self._probe()

    def tend(self, untrained: Sequence[int]) -> None:
        """Looks after runners that died or hang, and asks others in their place; what arrives meanwhile is kept for `collect`."""
        self._untrained = Counter(untrained)
        arrived = self._fetch()
        self._held += arrived
        self._held_of.update(runner for runner, _ in arrived)
        self._probe()
        self._request()

    def faults(self) -> list[SourceFault]:
        """Faults of environments that could not be replaced, and of runners."""
        faults, self._faults = self._faults, []
        return faults

    def remarks(self) -> list[str]:
        """None: runners write theirs to their own logs."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """The number of processes that have run this experiment; rollouts in flight are not saved."""
        return source_state(self._restarts)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Runners that have not begun yet take streams of random numbers that no earlier process has used."""
        self._restarts = restarts_after(state)

    def close(self) -> None:
        """The algorithm stops its runners."""

    def _wait_until_published(self) -> None:
        """Waits for the server to have the newest weights: a runner that is asked before may fetch those before them."""
        publishing, self._publishing = self._publishing, None
        if publishing is not None:
            with contextlib.suppress(RayError):  # the server died, and the next publication fills it; or it takes too long
                ray.get(publishing, timeout=PUBLISH_SECONDS)

    def _request(self) -> None:
        """Asks for rollouts: every runner for its number, and runners that are there for those of others."""
        healthy = self._group.healthy_worker_ids()
        for runner in healthy:
            for _ in range(self._rollouts_in_flight - self._waiting(runner)):
                self._send(runner)
        limit = LATE * statistics.median(self._unrolls) + GRACE_SECONDS if self._unrolls else math.inf
        present = [runner for runner in healthy if not self._is_late(runner, limit)]
        missing = self._rollouts_in_flight * self._group.num_remote_env_runners() - sum(map(self._waiting, present))
        for runner in present:
            if missing > 0 and self._waiting(runner) == self._rollouts_in_flight:
                self._send(runner)
                missing -= 1

    def _send(self, runner: int) -> None:
        if self._group.foreach_env_runner_async("sample", tag=TAG, remote_worker_ids=[runner]):
            self._sent[runner].append(time.monotonic())

    def _waiting(self, runner: int) -> int:
        """A runner's requests without an answer, its rollouts that nobody has taken, and those that the next weights wait for."""
        return len(self._sent[runner]) + self._held_of[runner] + self._untrained[runner]

    def _is_late(self, runner: int, limit: float) -> bool:
        if not self._sent[runner]:
            return False
        begun = max(self._sent[runner][0], self._heard.get(runner, 0.0))
        return time.monotonic() - begun > limit

    def _fetch(self) -> list[tuple[int, Collected[Rollout | StoredRollout]]]:
        """The rollouts that are ready, with their runners. Ray restarts a runner that died; an error of a runner's code would repeat, so it
        is raised.
        """
        results = self._group._worker_manager.fetch_ready_async_reqs(tags=TAG, timeout_seconds=FETCH_SECONDS)
        arrived, dropped = [], set()
        for result in results:
            value = result.get()
            runner = result.actor_id
            seconds = self._hear_from(runner)
            if isinstance(value, RayActorError):
                dropped.add(runner)
                self._note_death(runner, value)
                continue
            if isinstance(value, ObjectLostError):
                dropped.add(runner)
                self.lost += 1
                self._faults.append(SourceFault(runner, None, "a rollout was lost with the node that held it", str(value)))
                continue
            self._dead.discard(runner)
            if not isinstance(value, SourceFault) or value.task is not None:  # of a task's faults the quarantine keeps count
                del self._deaths[runner]
            if isinstance(value, SourceFault):
                self.lost += value.lost_unroll
                self._faults.append(value)
            elif isinstance(value, Failure):
                raise value.error from RuntimeError(f"in runner {result.actor_id}:\n{value.traceback}")
            elif not result.ok:
                raise value
            else:
                arrived.append((runner, value))
                self._unrolls.append(seconds)
        for runner in dropped:
            self._sent[runner].clear()  # with the first error RLlib forgets all requests of a runner
        return arrived

    def _note_death(self, runner: int, error: RayActorError) -> None:
        """Takes in that a request has failed with its runner. All of its requests fail, but it was at one of them."""
        if runner not in self._dead:
            self.lost += 1
            self._faults.append(SourceFault(runner, None, "died, and is started again", str(error)))
            self._count_death(runner, error)
        self._dead.add(runner)

    def _hear_from(self, runner: int) -> float:
        """Takes in that a request has been answered; returns the seconds that the runner was at it."""
        now, sent = time.monotonic(), self._sent[runner]
        begun = max(sent.popleft() if sent else now, self._heard.get(runner, 0.0))
        self._heard[runner] = now
        return now - begun

    def _count_death(self, runner: int, error: RayActorError) -> None:
        """Ends a run whose runner cannot live, such as one whose code does not import on its node.

        Raises:
            RunnerLostError: it has died too often without an unroll in between.
        """
        self._deaths[runner] += 1
        if self._deaths[runner] > self._deaths_allowed:
            raise RunnerLostError(f"runner {runner} died {self._deaths[runner]} times without an unroll in between; the last time: {error}")

    def _probe(self) -> None:
        now = time.monotonic()
        if now - self._probed > PROBE_SECONDS:
            self._probed = now
            self._dead -= set(self._group.probe_unhealthy_env_runners(PING_SECONDS))  # alive again, so that another death is another one
        if now - self._examined > EXAMINE_SECONDS:
            self._examined = now
            if self._published is not None:
                self._server.publish.remote(self._published)  # a server that was started again knows nothing, and runners wait for it
            self._examine_dead()

    def _examine_dead(self) -> None:
        """Looks for runners that Ray has given up.

        Raises:
            RunnerLostError: none is left.
        """
        actors = self._group._worker_manager.actors() if self._dead else {}
        for runner in sorted(self._dead - self._gone):
            reason = end_of(actors[runner])
            if reason is not None:
                self._gone.add(runner)
                self._faults.append(SourceFault(runner, None, f"does not come back: {reason}", "", lost_unroll=False))
                if len(self._gone) == self._group.num_remote_env_runners():
                    raise RunnerLostError(f"no runner is left; the last one, {runner}, does not come back: {reason}")
