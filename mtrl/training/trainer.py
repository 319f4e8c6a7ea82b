"""The one training loop: rollouts from a source, updates by a learner, with the curriculum and the statistics between them."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch

from envs import TaskSuite, make_suite
from envs.vector import Arrays
from mtrl.config import ExperimentConfig
from mtrl.curriculum import Scheduler, make_scheduler, needs_similarity
from mtrl.curriculum.decisions import Decider, Decision
from mtrl.curriculum.levels import LevelEpisode, make_level_curriculum
from mtrl.evaluation.statistics import interquartile_mean
from mtrl.learning.interface import LearnerProtocol, RestartableLearner, UpdateResult
from mtrl.learning.learner import Learner
from mtrl.rollouts.collector import Collected
from mtrl.rollouts.rollout import Rollout
from mtrl.rollouts.source import InProcessSource, RolloutSource, SourceFault
from mtrl.rollouts.stored import RolloutsLostError, StoredBatch, StoredRollout, join
from mtrl.training.batch_size import BatchSize
from mtrl.training.level_episodes import LevelEpisodes
from mtrl.training.metrics import Interval, task_metrics
from mtrl.training.quarantine import Quarantine, VersionWatch
from mtrl.training.task_statistics import TaskStatistics
from mtrl.training.threads import learner_threads

MOST_DECISIONS = 10_000  # kept for those who ask seldom
MOST_MESSAGES = 1_000  # likewise
POLL_SECONDS = 0.005  # how long one look at the source may block while the learner works
TEND_SECONDS = 0.2  # between two looks at runners while the learner works and nothing is collected


def leave_threads_to_learner() -> None:
    """Keeps this thread's tensor operations to one core, before the first of them; the learner's thread has all cores.

    OpenMP makes a pool for every thread that asks for one. When two pools have more threads than there are cores, they no longer wait for
    work but sleep, and being woken for each small operation doubles the time of an update (measured: 3.9 s for 1.85 s on two cores).
    """
    torch.set_num_threads(1)


class Trainer:
    """One iteration: rollouts → learner → new weights and shares for the runners.

    With an asynchronous source the update runs in a thread of its own, so that the book-keeping of rollouts that arrive meanwhile costs
    the learner nothing (its tensor operations do not hold the interpreter's lock).
    """

    def __init__(self, config: ExperimentConfig, suite: TaskSuite, source: RolloutSource, learner: LearnerProtocol | None = None):
        self.config = config
        self.suite = suite
        self.learner: LearnerProtocol = learner if learner is not None else Learner(config, suite)
        self.statistics = TaskStatistics(suite)
        self._decider = Decider(config.curriculum, make_scheduler(config.curriculum, suite.names), suite.names)
        self._levels = make_level_curriculum(config, suite)  # None where environments choose their levels themselves
        self._level_episodes = LevelEpisodes()
        self._rated: list[LevelEpisode] = []  # since the last decision
        self._decisions: deque[Decision] = deque(maxlen=MOST_DECISIONS)
        self._messages: deque[str] = deque(maxlen=MOST_MESSAGES)
        self.quarantine = Quarantine(suite.names, config.faults)
        self._versions = VersionWatch()
        self._source = source
        self._arrived: list[Collected[Rollout | StoredRollout]] = []
        self._learning: list[Collected[Rollout | StoredRollout]] = []  # of the batch that the learner is at
        self._batch_size = BatchSize(config.learner.rollouts_per_update, config.learners.num_learners)
        self._threads = learner_threads(config, source)
        self._thread = ThreadPoolExecutor(1, "learner") if source.asynchronous else None
        if self._thread is None:
            self._threads.adjust()  # environments are stepped by this thread, too
        self._interval = Interval(suite)
        # By runner: environments of each task, of which a runner has as many as it once stepped together.
        self._environments: dict[int, np.ndarray] = defaultdict(lambda: np.zeros(suite.num_tasks, np.int64))
        self._publish()

    @property
    def frames(self) -> int:
        """Valid environment steps trained on so far, over all tasks."""
        return int(self.statistics.frames.sum()) + self.statistics.retired_frames

    @property
    def updates(self) -> int:
        """The learner's version."""
        return self.learner.version

    @property
    def asynchronous(self) -> bool:
        """Whether rollouts arrive while the learner works."""
        return self._source.asynchronous

    @property
    def mean_score(self) -> float | None:
        """Mean score of the tasks' recent training episodes; None until every task has one.

        A mean over those that happen to have finished an episode would favour tasks with short ones.
        """
        scores = self.statistics.scores
        return None if np.isnan(scores).any() else float(scores.mean())

    def step(self, timeout: float = 1.0) -> bool:
        """One update, if enough rollouts arrive within `timeout` seconds.

        Returns:
            whether there was an update.

        Raises:
            NonFiniteError: from the learner.
            LearnerLostError: from learners in other processes; `recover` goes on.
            TasksFailedError: no task is left.
        """
        before = time.perf_counter()
        try:
            while len(self._arrived) < self._batch_size.rollouts:
                if self._source.asynchronous and time.perf_counter() - before > timeout:
                    return False
                self._receive(timeout)
        finally:
            self._interval.queue_wait_seconds += time.perf_counter() - before
        needed = self._batch_size.rollouts
        self._learning, self._arrived = self._arrived[:needed], self._arrived[needed:]
        try:
            return self._train_on([collected.rollout for collected in self._learning])
        finally:
            self._learning = []

    def interrupt_with(self, interrupted: Callable[[], bool]) -> None:
        """Ends an update in this process after the minibatch in which `interrupted` says so: one with many takes up to 14 s. Learners in
        other processes end theirs, unless they hang.
        """
        self.learner.interrupted = interrupted

    def metrics(self) -> dict[str, float]:
        """The metrics of `mtrl.training.metrics`. Rates and means cover the time since the last call; unknown figures are left out."""
        numbers = self._summary() | self._interval.metrics() | self._task_metrics()
        self._interval = Interval(self.suite)
        return {name: float(value) for name, value in numbers.items() if not np.isnan(value)}

    def messages(self) -> list[str]:
        """Sentences for a person since the last call, the newest `MOST_MESSAGES` of them.

        They are about tasks that fail, are left out or are being forgotten, and about runners that died or do not get new weights.
        """
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def remarks(self) -> list[str]:
        """Sentences about how the run works, since the last call."""
        return self._source.remarks()

    def decisions(self) -> list[Decision]:
        """The curriculum's decisions since the last call, the newest `MOST_DECISIONS` of them."""
        decisions = list(self._decisions)
        self._decisions.clear()
        return decisions

    def keep_decisions(self, decisions: Sequence[Decision]) -> None:
        """Takes back decisions that could not be written, for the next call of `decisions`."""
        kept = [*decisions, *self._decisions][-MOST_DECISIONS:]
        self._decisions.clear()
        self._decisions.extend(kept)

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler of the curriculum."""
        return self._decider.scheduler

    def load_experts(self, weights: Arrays) -> None:
        """Begins with the experts of a saved policy.

        Raises:
            ConfigError: its experts are not of this experiment's number or shape.
        """
        self.learner.load_experts(weights)
        self._publish()

    def policy_weights(self) -> Arrays:
        """Actor and critic, to be saved as a policy."""
        return self.learner.policy_weights()

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, by component."""
        return {
            "learner": self.learner.state_dict(),
            "curriculum": self._decider.state_dict(),
            "statistics": self.statistics.state_dict(),
            "source": self._source.state_dict(),
        } | ({} if self._levels is None else {"levels": self._levels.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict` of the same configuration. Environments start new episodes."""
        self.learner.load_state_dict(state["learner"])
        self._decider.load_state_dict(state["curriculum"])
        self.statistics.load_state_dict(state["statistics"])
        if self._levels is not None and "levels" in state and not self._levels.load_state_dict(state["levels"]):  # without, it begins anew
            self._messages.append("the run's levels were others or were made in another way: they are rated anew")
        self._level_episodes.forget()
        self._source.load_state_dict(state["source"])
        self._arrived.clear()
        self._decisions.clear()  # made before the state was known
        self._publish()

    def recover(self, state: dict[str, Any]) -> None:
        """After `LearnerLostError`: new learners that go on from a `state_dict`, as everything else does."""
        if not isinstance(self.learner, RestartableLearner):
            raise RuntimeError("a learner in this process cannot have been lost")
        self.learner.restart()
        self.load_state_dict(state)
        self._level_episodes.forget(episodes_go_on=True)

    def tasks_changed(self) -> None:
        """To be called after a state of other tasks was loaded: the scheduler drops whatever depends on the order of tasks."""
        self.scheduler.tasks_changed()
        self._decisions.clear()
        self._publish()

    def close(self) -> None:
        """Stops the source and the learner's thread."""
        if self._thread is not None:
            self._thread.shutdown()
        self._source.close()

    def _train_on(self, rollouts: Sequence[Rollout | StoredRollout]) -> bool:
        """An update on those of the rollouts that are still there; returns whether there was one."""
        while rollouts:
            try:
                self._train(join(rollouts))
                return True
            except RolloutsLostError as error:
                self._source.lost += len(error.positions)
                self._messages.append(str(error))
                rollouts = [rollout for position, rollout in enumerate(rollouts) if position not in error.positions]
        return False

    def _train(self, batch: Rollout | StoredBatch) -> None:
        rollout = batch.outline
        frames = rollout.frames_per_task(self.suite.num_tasks)
        progress = min(1.0, self.frames / self.config.total_frames)
        version = self.learner.version
        before = time.perf_counter()
        if self._thread is None:
            result = self._update(batch, progress)
        else:
            result = self._receive_during(self._thread.submit(self._update, batch, progress))
        self._interval.add_update(result, rollout, frames, version, time.perf_counter() - before)
        self.statistics.add_frames(frames)
        self.statistics.add_values(result.task_values.errors, result.task_values.initial_values)
        if result.similarity is not None and needs_similarity(self.config.curriculum):
            self.statistics.add_similarity(result.similarity)
        if result.levels is not None:
            self._rated = self._level_episodes.add(rollout, result.levels)
        self._publish()

    def _update(self, batch: Rollout | StoredBatch, progress: float) -> UpdateResult:
        """In the learner's thread."""
        self._threads.adjust()
        if isinstance(batch, Rollout):
            return self.learner.update(batch, progress)
        if not isinstance(self.learner, RestartableLearner):
            raise TypeError("a learner in this process takes no stored rollouts")
        return self.learner.update_stored(batch, progress)

    def _receive_during(self, update: Future[UpdateResult]) -> UpdateResult:
        while self.config.learner.max_queued_batches == 0 and wait([update], timeout=TEND_SECONDS).not_done:
            self._source.tend(self._untrained() or [])
        while not update.done():
            if len(self._arrived) < self.config.learner.max_queued_batches * self._batch_size.rollouts:
                self._receive(POLL_SECONDS)
            else:
                # Back-pressure: what has arrived is enough, and runners with two rollouts on their way stop by themselves.
                wait([update], timeout=POLL_SECONDS)
        return update.result()

    def _receive(self, timeout: float) -> None:
        for collected in self._source.collect(timeout, self._untrained()):
            counts = np.bincount(collected.rollout.outline.task_ids, minlength=self.suite.num_tasks)
            self._environments[collected.runner] = np.maximum(counts, self._environments[collected.runner])
            self._batch_size.hear_of(collected.runner)
            self._hear_of(collected)
            self.statistics.add_episodes(collected.episodes)
            self._interval.add_collected(collected)
            self._arrived.append(collected)
        now = time.monotonic()
        for fault in self._source.faults():
            self._messages += self.quarantine.report(fault, now)
        self.quarantine.check(self.frames)
        self._messages += self.quarantine.retry(now)
        if not np.array_equal(self.quarantine.out, self._left_out):
            self._share_out()  # at once: without the task that fails there may be no other update

    def _untrained(self) -> list[int] | None:
        """The runner of each rollout that is not trained on yet, where no batch may wait: it pauses until there are new weights."""
        waits = self.config.learner.max_queued_batches == 0
        return [collected.runner for collected in (*self._learning, *self._arrived)] if waits else None

    def _hear_of(self, collected: Collected[Rollout | StoredRollout]) -> None:
        """Takes in the faults and the version of a runner's rollout."""
        now = time.monotonic()
        for fault in collected.faults:
            self._messages += self.quarantine.report(SourceFault(collected.runner, fault.task_id, fault.reason, fault.traceback), now)
        self.quarantine.finished(np.array([episode.task_id for episode in collected.episodes], np.int64))
        self._messages += self._versions.check(collected.runner, int(collected.rollout.outline.version.min()), self.learner.version)

    def _publish(self) -> None:
        evidence = self.statistics.evidence(evaluated=self.config.curriculum.evidence == "evaluation")
        evidence = evidence._replace(total_frames=np.array(float(self.config.total_frames)))
        verdict = self._decider.decide(evidence)
        self._messages += verdict.messages
        self._decided = verdict.shares
        self._plans, record = None, None
        if self._levels is not None:
            record, self._rated = self._levels.decide(self._rated), []
            self._plans = self._levels.plans()
        self._decisions.append(Decision(self.learner.version, self.frames, evidence, verdict.shares, record))
        self._published_version, self._actor_weights = self.learner.version, self.learner.actor_weights()
        self._share_out()

    def _share_out(self) -> None:
        """Gives the runners the newest shares, without the tasks in quarantine."""
        self._left_out = self.quarantine.out.copy()
        self._shares = self.quarantine.applied(self._decided)
        self._source.publish(self._published_version, self._actor_weights, self._shares, self._plans)

    def _summary(self) -> dict[str, float]:
        mean = self.mean_score
        return {
            "summary/frames": self.frames,
            "summary/score_mean": np.nan if mean is None else mean,
            "summary/score_iqm": np.nan if mean is None else float(interquartile_mean(self.statistics.scores)),
            "throughput/lost_unrolls": self._source.lost,
            "throughput/threads": self._threads.count,
        }

    def _task_metrics(self) -> dict[str, float]:
        statistics = {
            "return": self.statistics.returns,
            "score": self.statistics.scores,
            "success_rate": self.statistics.success_rates,
            "episode_length": self.statistics.episode_lengths,
            "episodes": self.statistics.episodes,
            "frames": self.statistics.frames,
            "value_error": self.statistics.value_errors,
            "initial_value": self.statistics.initial_values,
            "share_wanted": self._shares,
            "environments": np.sum(list(self._environments.values()), axis=0) if self._environments else np.zeros(self.suite.num_tasks),
            "forgotten": self._decider.watch.forgotten,
            "faults": self.quarantine.faults,
            "quarantined": self.quarantine.out,
        }
        if self._levels is not None:
            summaries = self._levels.summaries()
            statistics["levels_rated"] = np.array([summary.rated for summary in summaries])
            statistics["levels_effective"] = np.array([summary.effective for summary in summaries])
        decisions = {"probability": self._shares, "progress": self.statistics.progress}
        names = self.suite.names
        return task_metrics(names, "tasks", statistics) | task_metrics(names, "curriculum", decisions)


def build_trainer(config: ExperimentConfig) -> Trainer:
    """The trainer of an experiment that collects its rollouts in this process; Ray is neither started nor imported.

    Raises:
        ConfigError: the experiment's parts do not fit each other.
        ValueError: the suite is unknown or cannot be served.
    """
    suite = make_suite(config.suite.name)
    return Trainer(config, suite, InProcessSource(config, suite))
