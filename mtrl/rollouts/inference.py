"""The acting policy: distinct observations are evaluated once, and slots keep their memories."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from envs.vector import Arrays
from mtrl.models.distributions.normal import Normal
from mtrl.models.policy import Actor
from mtrl.models.rows import can_share, make_rows, row_keys


class Inference:
    """Samples actions, evaluating each distinct observation of a task once per unroll where the policy allows it.

    Weights do not change during an unroll, so the actor's outputs for an observation can be reused until its end: in grid worlds, most
    observations of an unroll are looked up instead of evaluated.
    """

    def __init__(
        self,
        actor: Actor,
        generator: torch.Generator,
        device: torch.device,
        *,
        sampled: bool = True,
        noise_correlation: float = 0.0,
    ):
        self._actor = actor.to(device).eval()
        self._device = device
        self._sampled = sampled  # actions are drawn from the policy, or else the most likely ones
        self.generator = generator
        self._noise = ActionNoise(noise_correlation, generator) if noise_correlation > 0 else None
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
        """The memory of slots at an episode's beginning; None for actors without a memory."""
        return self._actor.memory.initial(slots) if self._actor.memory is not None else None

    def start(self, task_ids: np.ndarray, memory: Arrays | None = None) -> None:
        """Begins an unroll with slots of these ascending task ids [B], by default in new episodes."""
        self._task_ids = task_ids
        self._counts = tuple(np.bincount(task_ids, minlength=self._actor.num_tasks).tolist())
        self._seen = [{} for _ in range(self._actor.num_tasks)]
        self._evaluated = torch.empty(0)
        if self._noise is not None:
            self._noise.start()
        # Replaced at every step and never written into: the rollout keeps the first memory.
        self.memory = memory if memory is not None else self.initial_memory(len(task_ids))

    def act(self, obs: Arrays) -> tuple[np.ndarray, np.ndarray]:
        """Actions [B, …] and their log-probabilities [B] for observations `[B, …]`."""
        evaluated = self._shared(obs) if self._actor.share_repeats and can_share(obs) else self._evaluate(obs, self._task_ids)
        parameters = self._recall(evaluated) if self.memory is not None else evaluated
        distribution = self._actor.distribution
        if self._noise is not None and isinstance(distribution, Normal):
            actions = distribution.with_noise(parameters, self._noise.next(len(parameters), distribution.size))
        else:
            actions = distribution.sample(parameters, self.generator) if self._sampled else distribution.mode(parameters)
        if self.memory is not None:
            self.memory["last_action"] = actions.numpy()
        return actions.numpy(), distribution.log_prob(parameters, actions).numpy()

    def to_environment(self, actions: np.ndarray) -> np.ndarray:
        """The actions of `act` as environments take them, such as tanh of a Gaussian's sample."""
        return self._actor.distribution.to_environment(actions)

    def follow(self, rewards: np.ndarray, valid: np.ndarray) -> None:
        """Tells a memory the result of the newest actions, which it reads with the next observation, and the noise where episodes begin.

        Args:
            rewards: of each slot's step, [B] float32.
            valid: whether the step was one of an episode, [B] bool; after any other step the next observation begins an episode.
        """
        if self._noise is not None:
            self._noise.begin_anew(~valid)
        if self.memory is not None:
            self.memory |= {"last_reward": rewards, "start": ~valid}

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


class ActionNoise:
    """Standard normal noise of slots that is correlated over time: ε ← φ ε + √(1 - φ²) ξ with white noise ξ (AR(1)).

    Each step's noise by itself is distributed as white noise is, and log-probabilities are those of the step (Hollenstein et al. 2024,
    Colored Noise in PPO).
    """

    def __init__(self, correlation: float, generator: torch.Generator):
        self._correlation, self._generator = correlation, generator
        self._newest: Tensor | None = None  # [B, A]
        self._begins: Tensor | None = None  # [B] bool, slots in which an episode begins

    def start(self) -> None:
        """All slots begin with white noise."""
        self._newest = self._begins = None

    def begin_anew(self, slots: np.ndarray) -> None:
        """These slots [B] bool begin with white noise."""
        self._begins = torch.from_numpy(slots)

    def next(self, slots: int, size: int) -> Float[Tensor, "B A"]:
        """The noise of the next step."""
        white = torch.randn((slots, size), generator=self._generator)
        if self._newest is not None:
            correlated = self._correlation * self._newest + math.sqrt(1 - self._correlation**2) * white
            white = correlated if self._begins is None else torch.where(self._begins[:, None], white, correlated)
        self._newest = white
        return white


class SlotMemories:
    """The memories of all slots, paused ones too. Slot i of a task is always the same environment."""

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
        """Keeps the memories of the slots of `task_ids` [B] for the unroll in which they act again."""
        if memory is None:
            return
        for task in np.unique(task_ids).tolist():
            own = task_ids == task
            for name, array in (self._of_task[task] or {}).items():
                array[: int(own.sum())] = memory[name][own]
