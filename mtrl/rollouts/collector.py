"""The collector: steps environments of many tasks with the current policy and returns rollouts. Runs in any process."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import torch

from envs import Episode, Fault, TaskSuite, VectorTasks, make_vector
from envs.levels import SlotLevels
from envs.vector import Arrays
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum.levels import LevelPlan, make_level_curriculum
from mtrl.machine import whole_cores
from mtrl.models.distributions.making import make_distribution
from mtrl.models.distributions.normal import Normal
from mtrl.models.policy import Actor, build_policy
from mtrl.rollouts.allocation import Allocator
from mtrl.rollouts.inference import Inference, SlotMemories
from mtrl.rollouts.levels import LevelDraws
from mtrl.rollouts.rollout import Rollout, RolloutLevels
from mtrl.rollouts.stored import StoredRollout
from mtrl.rollouts.visits import EpisodeVisits

AnyRollout = TypeVar("AnyRollout", bound="Rollout | StoredRollout", covariant=True)


class Collected(NamedTuple, Generic[AnyRollout]):
    """One unroll of one runner."""

    rollout: AnyRollout
    episodes: list[Episode]  # episodes that ended during the unroll
    faults: list[Fault]  # environments that failed during the unroll and were replaced
    runner: int
    env_seconds: float  # spent in environments
    inference_seconds: float  # spent in the policy


class Collector:
    """B slots, a policy, and the random state of both. `collect` continues where the last unroll stopped."""

    def __init__(
        self,
        tasks: VectorTasks,
        actor: Actor,
        unroll_length: int,
        rng: np.random.Generator,
        *,
        runner: int = 0,
        device: torch.device | None = None,
        slots_per_task: int | None = None,
        levels: LevelDraws | None = None,
        visits: EpisodeVisits | None = None,
        noise_correlation: float = 0.0,
    ):
        self.version = -1  # of the current weights; -1 before the first ones
        self._tasks = tasks
        self._unroll_length = unroll_length
        self._runner = runner
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        self._inference = Inference(actor, generator, device or torch.device("cpu"), noise_correlation=noise_correlation)
        self._allocator = Allocator(tasks.suite.num_tasks, tasks.num_slots, rng, slots_per_task)
        self._memories = SlotMemories(self._inference, tasks.suite.num_tasks)
        self._shares: np.ndarray | None = None
        self._levels = levels  # which `tasks` draws from
        self._visits = visits  # None where nothing depends on them
        self._obs = tasks.reset()

    def set_weights(self, version: int, weights: Arrays) -> None:
        """Acts with these weights of the actor, named as in its state dict, from the next unroll on."""
        self._inference.load(weights)
        self.version = version

    def set_shares(self, shares: np.ndarray) -> None:
        """Wanted share of the slots per task, [num_tasks] summing to 1, from the next unroll on."""
        self._shares = shares

    def set_levels(self, plans: Sequence[LevelPlan] | None) -> None:
        """Plans for the levels of each task's episodes that begin from now on; None leaves everything as it is."""
        if self._levels is not None and plans is not None:
            self._levels.follow(plans)

    def collect(self) -> Collected[Rollout]:
        """The next T steps of all slots."""
        self._allocate()
        tasks, steps = self._tasks, self._unroll_length
        task_ids = tasks.task_ids.astype(np.int64)
        slots = len(task_ids)
        obs = {name: np.empty((steps + 1, *array.shape), array.dtype) for name, array in self._obs.items()}
        rewards, log_probs = np.empty((2, steps, slots), np.float32)
        terminated, truncated, valid = np.empty((3, steps, slots), bool)
        actions: list[np.ndarray] = []
        episodes: list[Episode] = []
        faults: list[Fault] = []
        levels = None if self._levels is None else _LevelRecord(steps, tasks, self._levels.first_environment)
        first_visits = None if self._visits is None else np.empty((steps, slots), bool)
        inference_seconds = env_seconds = 0.0

        initial_memory = self._memories.load(task_ids)
        self._inference.start(task_ids, initial_memory)
        if self._visits is not None:
            self._visits.start(task_ids, self._obs)
        for t in range(steps):
            _write(obs, t, self._obs)
            before = time.perf_counter()
            action, log_probs[t] = self._inference.act(self._obs)
            between = time.perf_counter()
            step = tasks.step(self._inference.to_environment(action))
            after = time.perf_counter()
            inference_seconds += between - before
            env_seconds += after - between
            self._inference.follow(step.rewards, step.valid)
            self._obs = step.obs
            actions.append(action)
            rewards[t], terminated[t], truncated[t], valid[t] = step.rewards, step.terminated, step.truncated, step.valid
            episodes.extend(step.episodes)
            if levels is not None:
                levels.write(t)
            if self._visits is not None and first_visits is not None:
                first_visits[t] = self._visits.step(step.obs, step.valid)
            if step.faults or step.lost.any():
                faults.extend(step.faults)
                if t > 0:
                    # The episode ended with the observation before this step. At t = 0 that was the end of the last unroll's trace.
                    truncated[t - 1] |= step.lost & valid[t - 1] & ~terminated[t - 1]
        _write(obs, steps, self._obs)
        self._memories.store(task_ids, self._inference.memory)

        rollout = Rollout(
            obs=obs,
            actions=np.stack(actions),
            behaviour_log_probs=log_probs,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            valid=valid,
            task_ids=task_ids,
            initial_memory=initial_memory,
            version=np.full(slots, self.version, np.int64),
            levels=None if levels is None else levels.result,
            first_visits=first_visits,
        )
        return Collected(rollout, episodes, faults, self._runner, env_seconds, inference_seconds)

    def state_dict(self) -> dict[str, Any]:
        """The random state of actions and allocation; environments are not part of it."""
        state = {"generator": self._inference.generator.get_state(), "owed": self._allocator.owed.copy()}
        return state if self._levels is None else state | {"levels": self._levels.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the random state of a `state_dict`."""
        self._inference.generator.set_state(state["generator"])
        self._allocator.owed = np.array(state["owed"])
        if self._levels is not None and "levels" in state:
            self._levels.load_state_dict(state["levels"])

    def close(self) -> None:
        """Closes the environments."""
        self._tasks.close()

    def _allocate(self) -> None:
        if self._shares is None:
            return
        self._tasks.set_allocation(self._allocator.allocate(self._shares))
        self._obs = self._tasks.observe()


class _LevelRecord:
    """The levels of an unroll, step by step."""

    def __init__(self, steps: int, tasks: VectorTasks, first_environment: int):
        self._tasks = tasks
        shape, levels = (steps, tasks.num_slots), self._now()
        self.result = RolloutLevels(np.empty(shape, np.int64), np.empty(shape, bool), first_environment + levels.environments)

    def write(self, t: int) -> None:
        """Writes the levels that the slots play after step `t`; a step that ends an episode is still one of its level."""
        levels = self._now()
        self.result.numbers[t], self.result.only_rated[t] = levels.numbers, levels.only_rated

    def _now(self) -> SlotLevels:
        levels = self._tasks.levels
        assert levels is not None
        return levels


def build_collector(
    config: ExperimentConfig,
    suite: TaskSuite,
    runner: int,
    restart_count: int = 0,
    *,
    shares: np.ndarray | None = None,
    plans: Sequence[LevelPlan] | None = None,
    tolerant: bool = False,
    marker: np.ndarray | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> Collector:
    """The collector of runner number `runner`; runners and restarts never share a stream of random numbers.

    Args:
        config: the experiment.
        suite: the experiment's tasks.
        runner: the runner's number.
        restart_count: how often this collector was built before.
        shares: wanted share of the slots per task [num_tasks]; tasks without a share get no environment yet.
        plans: for the levels of the first episodes; by default those of a run that begins.
        tolerant: whether environments that fail are replaced.
        marker: an array [1] for the task that is being stepped, see `VectorTasks.watch`.
        say: told, in a sentence, which worker processes step what.

    Raises:
        ConfigError: the suite cannot be collected as the experiment says.
    """
    check_fit(config, suite)
    runners = config.env_runners
    levels = _level_draws(config, suite, plans, runner, restart_count)
    tasks = make_vector(
        suite,
        _first_counts(runners.slots, suite, shares),
        backend=config.suite.backend,
        seed=config.seed,
        runner_index=runner,
        num_threads=runners.env_threads,
        restart_count=restart_count,
        tolerant=tolerant,
        env_workers=config.suite.env_workers,
        cores=_cores_for_environments(config),
        say=say,
        levels=levels,
    )
    if marker is not None:
        tasks.watch(marker)
    device = torch.device("cuda" if runners.num_gpus_per_env_runner > 0 and torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng([config.seed, runner, restart_count])
    actor = build_policy(config.model, suite, config.seed).actor
    novelty = config.learner.novelty
    return Collector(
        tasks,
        actor,
        runners.unroll_length,
        rng,
        runner=runner,
        device=device,
        slots_per_task=runners.slots_per_task,
        levels=levels,
        visits=EpisodeVisits() if novelty.weight > 0 and novelty.episodic else None,
        noise_correlation=runners.action_noise_correlation,
    )


def _level_draws(
    config: ExperimentConfig, suite: TaskSuite, plans: Sequence[LevelPlan] | None, runner: int, restart_count: int
) -> LevelDraws | None:
    """The source of levels, if the experiment has a curriculum over them."""
    if config.curriculum.levels.sampler is None:
        return None
    if plans is None:
        curriculum = make_level_curriculum(config, suite)
        assert curriculum is not None
        plans = curriculum.plans()
    # One number more than the other generator, so that the two streams differ.
    rng = np.random.default_rng([config.seed, runner, restart_count, 1])
    return LevelDraws(plans, rng, (runner << 44) + (restart_count << 20))


def _first_counts(slots: int, suite: TaskSuite, shares: np.ndarray | None) -> np.ndarray:
    """Slots spread evenly over the tasks that have a share."""
    wanted = np.ones(suite.num_tasks, bool) if shares is None else shares > 0
    places = np.flatnonzero(wanted)
    counts = np.zeros(suite.num_tasks, np.int64)
    counts[places] = slots // len(places)
    counts[places[: slots % len(places)]] += 1
    return counts


def _cores_for_environments(config: ExperimentConfig) -> int:
    """Cores that are free while environments are stepped: in a run in one process all, since the learner waits then; else those of one
    runner.
    """
    runners = config.env_runners
    return whole_cores() if runners.num_env_runners == 0 else min(whole_cores(), int(runners.num_cpus_per_env_runner))


def check_fit(config: ExperimentConfig, suite: TaskSuite) -> None:
    """Checks the settings that can be checked before any environment is made.

    Raises:
        ConfigError: fewer slots than tasks, or a backend that lacks a task.
    """
    slots, backend = config.env_runners.slots, config.suite.backend
    if slots < suite.num_tasks:
        raise ConfigError(
            f"env_runners.slots is {slots}, but {suite.name} has {suite.num_tasks} tasks and each needs a slot: "
            f"set it to {suite.num_tasks} or more"
        )
    most = config.env_runners.slots_per_task
    if most is not None and most * suite.num_tasks < slots:
        raise ConfigError(
            f"env_runners.slots_per_task is {most}, but {suite.name} has {suite.num_tasks} tasks for {slots} slots: set it to "
            f"{-(-slots // suite.num_tasks)} or more"
        )
    learners = config.learners.num_learners
    if learners > slots:  # other rollouts of a batch may be lost
        raise ConfigError(f"learners.num_learners is {learners}, but a batch may have {slots} slots: each learner needs one")
    if config.env_runners.action_noise_correlation > 0 and not isinstance(make_distribution(suite.action_space), Normal):
        raise ConfigError(f"env_runners.action_noise_correlation is for actions that are numbers, and those of {suite.name} are not")
    if backend != "auto" and backend not in suite.backends:
        raise ConfigError(f"suite.backend is {backend}, but {suite.name} can only run on {' or '.join(suite.backends)}")


def _write(obs: Arrays, t: int, values: Arrays) -> None:
    for name, array in values.items():
        obs[name][t] = array
