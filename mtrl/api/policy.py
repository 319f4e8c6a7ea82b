"""A saved policy that acts in Gymnasium environments."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch

from envs import TaskSuite
from envs.vector import Arrays
from mtrl.errors import UserError
from mtrl.evaluation.policy import load_actor
from mtrl.models.policy import Actor
from mtrl.rollouts.inference import Inference
from mtrl.storage.checkpoint import resolve_policy
from mtrl.storage.run_directory import RunDirectory

POLICY_FILE = "policy.json"  # in the folder of a saved policy


def load_policy(path: str | Path, checkpoint: str | int = "latest", *, seed: int = 0) -> Policy:
    """A saved policy.

    Args:
        path: the directory of a run, or the folder of one policy (`runs/NAME/policy/FRAMES`).
        checkpoint: of a run: `latest`, `best` or a number of frames.
        seed: of sampled actions.

    Raises:
        UserError: there is none, it is damaged, or its tasks have changed since so that it cannot act in them.
    """
    folder = Path(path)
    if not (folder / POLICY_FILE).is_file():
        run = RunDirectory.open(folder)
        folder = resolve_policy(run.checkpoints, run.policies, str(checkpoint))
    suite, actor = load_actor(folder)
    return Policy(suite, actor, seed=seed)


class Policy:
    """A policy and its tasks. It acts on the CPU, and with a memory it remembers its episodes until `reset`.

    Args:
        suite: the tasks.
        actor: the network.
        seed: of sampled actions.
    """

    def __init__(self, suite: TaskSuite, actor: Actor, *, seed: int = 0):
        self.suite = suite
        """The tasks."""
        generator = torch.Generator().manual_seed(seed)
        self._players = {greedy: Inference(actor, generator, torch.device("cpu"), sampled=not greedy) for greedy in (True, False)}
        self._memories: dict[int, Arrays] = {}  # of each task that is being played
        self._reads_rewards = actor.memory is not None
        self._warned = False

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks."""
        return self.suite.names

    def __repr__(self) -> str:
        return f"Policy({self.suite.name!r})"

    def make_env(self, task: str, *, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
        """A task's environment as its evaluations use it; `act` reads its observations and gives its actions.

        Args:
            task: the task's name.
            render_mode: as of `gymnasium.make`, for environments that can be drawn.

        Raises:
            SuiteError: there is no such task.
        """
        chosen = self.suite.tasks[self.suite.index(task)]
        make = chosen.make_evaluation_env or chosen.make_env
        return make() if render_mode is None else make(render_mode=render_mode)

    def act(
        self, observation: Any, task: str, *, deterministic: bool = True, reward: float | Sequence[float] | np.ndarray | None = None
    ) -> Any:
        """The action for an observation.

        One observation gives one action. A batch of N, in which each array has N as an additional first axis, gives N actions with the
        same additional axis; all are of the same task.

        Args:
            observation: as an environment of `make_env` gives it, or N of them.
            task: the task's name.
            deterministic: the most likely action, or else one drawn from the policy.
            reward: of the step before, or [N]; only a policy with a memory reads it. None is 0, as at an episode's beginning.

        Returns:
            an action as `step` of that environment takes it.

        Raises:
            SuiteError: there is no such task.
            UserError: the observation does not have the task's shape, or a memory is of another number of environments.
        """
        index = self.suite.index(task)
        arrays, batched = self._arrays(index, observation)
        count = len(next(iter(arrays.values())))
        player = self._players[deterministic]
        player.start(np.full(count, index), self._memory(index, task, count, reward))
        chosen, _ = player.act(arrays)
        actions = player.to_environment(chosen)
        space = self.suite.action_space
        if isinstance(space, gymnasium.spaces.Box):
            actions = np.clip(actions, space.low, space.high)
        if player.memory is not None:
            self._memories[index] = player.memory | {"start": np.zeros(count, bool)}
        return self.suite.act(index, actions if batched else actions[0])

    def reset(self, task: str | None = None, *, ended: Sequence[bool] | np.ndarray | None = None) -> None:
        """Forgets: the next observation is the first of an episode. To be called with every reset of an environment, for a memory.

        Args:
            task: the task's name; all tasks if None.
            ended: of a batch [N] of environments, those whose episode has ended; all if None.

        Raises:
            SuiteError: there is no such task.
            UserError: `ended` is not of the batch's size, or comes without a task.
        """
        if ended is None:
            for index in range(self.suite.num_tasks) if task is None else [self.suite.index(task)]:
                self._memories.pop(index, None)
            return
        if task is None:
            raise UserError("reset: `ended` is about the environments of one task; name the task as well")
        memory = self._memories.get(self.suite.index(task))
        if memory is None:
            return
        mask = np.asarray(ended, bool)
        if mask.shape != memory["start"].shape:
            raise UserError(f"reset: `ended` has shape {mask.shape}, but {len(memory['start'])} environments of {task} are being played")
        memory["start"] = memory["start"] | mask

    def _arrays(self, index: int, observation: Any) -> tuple[Arrays, bool]:
        """The arrays of one or more observations, `[N, …]`, and whether they came as a batch.

        Raises:
            UserError: they have another shape.
        """
        name, spaces = self.suite.names[index], self.suite.observation_space
        try:
            arrays = {key: np.asarray(array) for key, array in self.suite.observe(index, observation).items()}
            shapes = {key: (arrays[key].shape, tuple(space.shape or ())) for key, space in spaces.items()}
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise UserError(f"act: this is no observation of {name} as `make_env` gives it ({type(error).__name__}: {error})") from error
        if all(shape == expected for shape, expected in shapes.values()):
            return {key: array[None] for key, array in arrays.items()}, False
        leading = {shape[: len(shape) - len(expected)] for shape, expected in shapes.values()}
        fits = all(shape[len(shape) - len(expected) :] == expected for shape, expected in shapes.values())
        if fits and len(leading) == 1 and len(first := leading.pop()) == 1 and first[0] > 0:
            return arrays, True
        key, (shape, expected) = next((key, pair) for key, pair in shapes.items() if pair[0] != pair[1])
        batch = f"({', '.join(['N', *map(str, expected)])})"
        raise UserError(f"act: {key!r} of this observation of {name} has shape {shape}; it has to be {expected}, or {batch} for N of them")

    def _memory(self, index: int, task: str, count: int, reward: Any) -> Arrays | None:
        """The memory of the task's environments before this observation; None where an episode begins, or for policies without one.

        Raises:
            UserError: it is of another number of environments, or the rewards are.
        """
        memory = self._memories.get(index)
        if memory is None:
            return None
        if len(memory["start"]) != count:
            raise UserError(f"act: {len(memory['start'])} environments of {task} were being played, and now {count}; call reset() before")
        if reward is None and not self._warned:
            self._warned = True
            warnings.warn("this policy's memory reads the last reward: give it as act(..., reward=...); 0 is taken for it", stacklevel=3)
        rewards = np.asarray(0.0 if reward is None else reward, np.float32)
        if rewards.shape not in ((), (count,)):
            raise UserError(f"act: reward has shape {rewards.shape}; it has to be a number, or ({count},)")
        return memory | {"last_reward": np.broadcast_to(rewards, (count,)).copy()}
