"""The collector: steps environments of many tasks with the current policy and hands out rollouts. Runs in any process."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from envs import Episode, Fault, Step, TaskSuite, VectorTasks
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.curriculum.allocation import Allocator
from mtrl.models.policy import Actor, build_policy
from mtrl.models.rows import can_share, make_rows, row_keys
from mtrl.rollout import Arrays, Rollout


class Collected(NamedTuple):
    """One unroll of one runner."""

    rollout: Rollout
    episodes: list[Episode]  # those that ended during the unroll
    faults: list[Fault]  # environments that failed during the unroll and were replaced
    runner: int
    env_seconds: float  # spent in environments
    inference_seconds: float  # spent in the policy


class Collector:
    """B slots, a policy and their randomness. `collect` continues where the last unroll stopped."""

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
    ):
        self.version = -1  # of the weights that act; -1 before any were set
        self._tasks = tasks
        self._unroll_length = unroll_length
        self._runner = runner
        self._inference = Inference(actor, torch.Generator().manual_seed(int(rng.integers(2**63))), device or torch.device("cpu"))
        self._allocator = Allocator(tasks.suite.num_tasks, tasks.num_slots, rng, slots_per_task)
        self._memories = SlotMemories(self._inference, tasks.suite.num_tasks)
        self._shares: np.ndarray | None = None
        self._obs = tasks.reset()

    def set_weights(self, version: int, weights: Arrays) -> None:
        """Acts with these weights of the actor, named as in its state dict, from the next unroll on."""
        self._inference.load(weights)
        self.version = version

    def set_shares(self, shares: np.ndarray) -> None:
        """Wanted share of the slots per task, [num_tasks] summing to 1, from the next unroll on."""
        self._shares = shares

    def collect(self) -> Collected:
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
        inference_seconds = env_seconds = 0.0

        initial_memory = self._memories.load(task_ids)
        self._inference.start(task_ids, initial_memory)
        for t in range(steps):
            _write(obs, t, self._obs)
            before = time.perf_counter()
            action, log_probs[t] = self._inference.act(self._obs)
            between = time.perf_counter()
            step = tasks.step(self._inference.to_environment(action))
            after = time.perf_counter()
            inference_seconds += between - before
            env_seconds += after - between
            self._inference.follow(step)
            self._obs = step.obs
            actions.append(action)
            rewards[t], terminated[t], truncated[t], valid[t] = step.rewards, step.terminated, step.truncated, step.valid
            episodes.extend(step.episodes)
            if step.faults or step.lost.any():
                faults.extend(step.faults)
                if t > 0:
                    # The episode ended with the observation before. Where the unroll begins here, the trace has ended there anyway.
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
        )
        return Collected(rollout, episodes, faults, self._runner, env_seconds, inference_seconds)

    def state_dict(self) -> dict[str, Any]:
        """The random state of actions and allocation; environments are not part of it."""
        return {"generator": self._inference.generator.get_state(), "owed": self._allocator.owed.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the randomness of a `state_dict`."""
        self._inference.generator.set_state(state["generator"])
        self._allocator.owed = np.array(state["owed"])

    def close(self) -> None:
        """Closes the environments."""
        self._tasks.close()

    def _allocate(self) -> None:
        if self._shares is None:
            return
        self._tasks.set_allocation(self._allocator.allocate(self._shares))
        self._obs = self._tasks.observe()


class Inference:
    """Samples actions, evaluating each distinct observation of a task once per unroll where the policy allows it.

    The weights stay as they are during an unroll, so what the actor makes of an observation alone can be kept for its length: most
    observations of a grid world's unroll are found there instead of being computed.
    """

    def __init__(self, actor: Actor, generator: torch.Generator, device: torch.device, *, sampled: bool = True):
        self._actor = actor.to(device).eval()
        self._device = device
        self._sampled = sampled  # else the most likely action is taken
        self.generator = generator
        self._seen: list[dict[bytes, int]] = []  # per task: an observation's bytes -> its row of `_evaluated`
        self._evaluated = torch.empty(0)
        self._task_ids = np.empty(0, np.int64)
        self._counts: tuple[int, ...] = ()
        self.memory: Arrays | None = None  # of each slot, before its next observation

    def load(self, weights: Arrays) -> None:
        """Replaces the actor's weights."""
        # Copied, since arrays out of Ray's object store are read-only and go away.
        self._actor.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in weights.items()})

    def initial_memory(self, slots: int) -> Arrays | None:
        """The memory of slots that have just begun; None for actors without one."""
        return self._actor.memory.initial(slots) if self._actor.memory is not None else None

    def start(self, task_ids: np.ndarray, memory: Arrays | None = None) -> None:
        """Begins an unroll with slots of these ascending task ids [B], by default in new episodes."""
        self._task_ids = task_ids
        self._counts = tuple(np.bincount(task_ids, minlength=self._actor.num_tasks).tolist())
        self._seen = [{} for _ in range(self._actor.num_tasks)]
        self._evaluated = torch.empty(0)
        # Replaced at every step and never written into: the rollout keeps the first one.
        self.memory = memory if memory is not None else self.initial_memory(len(task_ids))

    def act(self, obs: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Actions [B, …] and their log-probabilities [B] for observations `[B, …]`."""
        evaluated = self._shared(obs) if self._actor.share_repeats and can_share(obs) else self._evaluate(obs, self._task_ids)
        parameters = self._recall(evaluated) if self.memory is not None else evaluated
        distribution = self._actor.distribution
        actions = distribution.sample(parameters, self.generator) if self._sampled else distribution.mode(parameters)
        if self.memory is not None:
            self.memory["last_action"] = actions.numpy()
        return actions.numpy(), distribution.log_prob(parameters, actions).numpy()

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """What environments are given for actions of `act`."""
        return self._actor.distribution.to_environment(actions)

    def follow(self, step: Step) -> None:
        """What the actions led to; a memory reads it before the next observation."""
        if self.memory is not None:
            self.memory |= {"last_reward": step.rewards, "start": ~step.valid}

    @torch.inference_mode()
    def _recall(self, evaluated: Tensor) -> Tensor:
        assert self.memory is not None
        memory = {name: torch.from_numpy(array).to(self._device) for name, array in self.memory.items()}
        recalled = self._actor.remember(evaluated.to(self._device), memory, self._counts)
        self.memory = self.memory | {"hidden": recalled.hidden.cpu().numpy(), "cell": recalled.cell.cpu().numpy()}
        return recalled.parameters.float().cpu()

    def _shared(self, obs: Arrays) -> Tensor:
        rows: list[int] = []
        new: list[int] = []
        known = len(self._evaluated)
        for slot, (task, key) in enumerate(zip(self._task_ids.tolist(), row_keys(obs), strict=True)):
            row = self._seen[task].setdefault(key, known + len(new))
            if row == known + len(new):
                new.append(slot)
            rows.append(row)
        if new:
            computed = self._evaluate({name: array[new] for name, array in obs.items()}, self._task_ids[new])
            self._evaluated = torch.cat([self._evaluated, computed]) if known else computed
        return self._evaluated[torch.tensor(rows)]

    @torch.inference_mode()
    def _evaluate(self, obs: Arrays, task_ids: np.ndarray) -> Tensor:
        return self._actor(make_rows(obs, task_ids, self._actor.num_tasks, self._device)).float().cpu()


class SlotMemories:
    """What each slot's memory holds while its task is paused. Slot i of a task is always the same environment."""

    def __init__(self, inference: Inference, num_tasks: int):
        self._initial = inference.initial_memory
        self._of_task: list[Arrays | None] = [self._initial(0) for _ in range(num_tasks)]

    def load(self, task_ids: np.ndarray) -> Arrays | None:
        """The memory of the slots of ascending `task_ids` [B], laid out as a rollout's `initial_memory`."""
        parts: list[Arrays] = []
        for task, count in enumerate(np.bincount(task_ids, minlength=len(self._of_task)).tolist()):
            known = self._of_task[task]
            if known is None:
                return None
            missing = count - len(known["start"])
            if missing > 0:
                new = self._initial(missing)
                known = {name: np.concatenate([array, new[name]]) for name, array in known.items()}  # type: ignore[index]
                self._of_task[task] = known
            parts.append({name: array[:count] for name, array in known.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def store(self, task_ids: np.ndarray, memory: Arrays | None) -> None:
        """Keeps what the slots of `task_ids` hold now."""
        if memory is None:
            return
        for task in np.unique(task_ids).tolist():
            own = task_ids == task
            for name, array in (self._of_task[task] or {}).items():
                array[: int(own.sum())] = memory[name][own]


def build_collector(
    config: ExperimentConfig,
    suite: TaskSuite,
    runner: int,
    restart_count: int = 0,
    *,
    shares: np.ndarray | None = None,
    tolerant: bool = False,
    marker: np.ndarray | None = None,
) -> Collector:
    """The collector of runner number `runner`; runners and restarts never share a stream of random numbers.

    Args:
        config: the experiment.
        suite: its tasks.
        runner: its number.
        restart_count: how often it was built before.
        shares: tasks without a share get no environment yet.
        tolerant: whether environments that fail are replaced.
        marker: where the task that is being stepped is written, see `VectorTasks.watch`.

    Raises:
        ConfigError: the suite cannot be collected as the experiment says.
    """
    check_fit(config, suite)
    runners = config.env_runners
    tasks = suite.make(
        _first_counts(runners.slots, suite, shares),
        backend=config.suite.backend,
        seed=config.seed,
        runner_index=runner,
        num_threads=runners.env_threads,
        restart_count=restart_count,
        tolerant=tolerant,
    )
    if marker is not None:
        tasks.watch(marker)
    device = torch.device("cuda" if runners.num_gpus_per_env_runner > 0 and torch.cuda.is_available() else "cpu")
    rng = np.random.default_rng([config.seed, runner, restart_count])
    actor = build_policy(config.model, suite, config.seed).actor
    return Collector(tasks, actor, runners.unroll_length, rng, runner=runner, device=device, slots_per_task=runners.slots_per_task)


def _first_counts(slots: int, suite: TaskSuite, shares: np.ndarray | None) -> np.ndarray:
    """Slots spread evenly over the tasks that have a share."""
    wanted = np.ones(suite.num_tasks, bool) if shares is None else shares > 0
    places = np.flatnonzero(wanted)
    counts = np.zeros(suite.num_tasks, np.int64)
    counts[places] = slots // len(places)
    counts[places[: slots % len(places)]] += 1
    return counts


def check_fit(config: ExperimentConfig, suite: TaskSuite) -> None:
    """What can be known before any environment is made.

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
    if backend != "auto" and backend not in suite.backends:
        raise ConfigError(f"suite.backend is {backend}, but {suite.name} can only run on {' or '.join(suite.backends)}")


def _write(obs: Arrays, t: int, values: Arrays) -> None:
    for name, array in values.items():
        obs[name][t] = array
