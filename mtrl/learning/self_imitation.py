"""Self-imitation learning (Oh et al. 2018): actions that once led to more than the critic expects are learned from again.

A trace is one slot of a rollout. What it returned is known for the steps of episodes that ended within it; the others do not count. Where
an episode was cut off, the critic's value of its last observation is added. Returns are of the environment's rewards, also where bonuses
for novelty are part of the critic's values.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from mtrl.config import SelfImitationConfig
from mtrl.learning.batch import Batch
from mtrl.learning.minibatches import Minibatch
from mtrl.learning.objectives import Coefficients, Losses, compute_losses, evaluate
from mtrl.learning.surrogates import PolicyGradient
from mtrl.learning.targets import Targets
from mtrl.models.policy import Policy
from mtrl.rollouts.rollout import Rollout, concatenate, take_slots


class Trace(NamedTuple):
    """One slot of a rollout."""

    rollout: Rollout  # of one slot
    returns: np.ndarray  # [T, 1] float32, discounted, to the end of the episode
    known: np.ndarray  # [T, 1] bool, whether that is known
    gap: float  # mean of max(return - value, 0) over the steps where it is known, by the newest values


class Replayed(NamedTuple):
    """Traces to imitate, one slot each, sorted by task."""

    rollout: Rollout
    returns: np.ndarray  # [T, B]
    known: np.ndarray  # [T, B]
    places: list[tuple[int, int]]  # of each: its task, and its number among the task's


class SelfImitation:
    """Keeps the traces of each task that returned most above what the critic expected.

    Args:
        config: the settings.
        discount: γ.
        clip_rewards: rewards count within ± this; None clips nothing.
        num_tasks: tasks of the suite.
    """

    def __init__(self, config: SelfImitationConfig, discount: float, clip_rewards: float | None, num_tasks: int):
        self._config, self._discount, self._clip = config, discount, clip_rewards
        self._traces: list[list[Trace]] = [[] for _ in range(num_tasks)]

    def __len__(self) -> int:
        return sum(map(len, self._traces))

    def add(self, rollout: Rollout, values: np.ndarray) -> None:
        """Keeps the traces of a rollout that are worth it.

        Args:
            rollout: T steps of B slots.
            values: V(x_t) before the update, [T + 1, B].
        """
        returns, known = returns_to_go(rollout, values, self._discount, self._clip)
        if rollout.levels is not None:
            known &= ~rollout.levels.only_rated
        gaps = np.where(known, np.maximum(returns - values[:-1], 0.0), 0.0).sum(0) / np.maximum(known.sum(0), 1)
        for task in self._traces:
            task[:] = [trace for trace in task if trace.rollout.unroll_length == rollout.unroll_length]  # another one before a resumption
            task.sort(key=lambda trace: -trace.gap)  # some have been rated anew
        for slot in np.flatnonzero((gaps > 0) & np.isfinite(gaps)).tolist():
            own, task = np.array([slot]), self._traces[int(rollout.task_ids[slot])]
            if len(task) >= self._config.capacity and gaps[slot] <= task[self._config.capacity - 1].gap:
                continue  # not worth a copy
            kept = take_slots(rollout, own)._replace(levels=None, first_visits=None)
            task.append(Trace(kept, returns[:, own], known[:, own], float(gaps[slot])))
        for task in self._traces:
            task.sort(key=lambda trace: -trace.gap)
            del task[self._config.capacity :]

    def sample(self, rng: np.random.Generator) -> Replayed | None:
        """Traces of each task that has some, drawn by their gaps; None where there is none."""
        places: list[tuple[int, int]] = []
        for task, traces in enumerate(self._traces):
            gaps = np.array([trace.gap for trace in traces])
            if gaps.sum() > 0:
                drawn = rng.choice(len(traces), size=min(self._config.traces, int((gaps > 0).sum())), replace=False, p=gaps / gaps.sum())
                places += [(task, int(number)) for number in sorted(drawn)]
        if not places:
            return None
        chosen = [self._traces[task][number] for task, number in places]
        joined = concatenate([trace.rollout for trace in chosen])
        returns, known = (np.concatenate(arrays, axis=1) for arrays in zip(*((each.returns, each.known) for each in chosen), strict=True))
        return Replayed(joined, returns, known, places)

    def rate(self, replayed: Replayed, gaps: np.ndarray) -> None:
        """Takes in the gaps of replayed traces, [T, B], by the newest values."""
        means = (gaps * replayed.known).sum(0) / np.maximum(replayed.known.sum(0), 1)
        for (task, number), gap in zip(replayed.places, means.tolist(), strict=True):
            self._traces[task][number] = self._traces[task][number]._replace(gap=gap)

    def state_dict(self) -> dict[str, Any]:
        """All traces, by number."""
        return {
            str(number): {
                "rollout": {name: value for name, value in trace.rollout._asdict().items() if value is not None},
                "returns": trace.returns,
                "known": trace.known,
                "gap": trace.gap,
            }
            for number, trace in enumerate(trace for traces in self._traces for trace in traces)
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`."""
        self._traces = [[] for _ in self._traces]
        for number in range(len(state)):
            kept = state[str(number)]
            rollout = Rollout(**{"initial_memory": None, **kept["rollout"]})
            self._traces[int(rollout.task_ids[0])].append(Trace(rollout, kept["returns"], kept["known"], float(kept["gap"])))


def returns_to_go(
    rollout: Rollout, values: np.ndarray, discount: float, clip_rewards: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The discounted return from each step to the end of its episode, and whether the episode ends within the rollout; both [T, B].

    Args:
        rollout: T steps of B slots.
        values: V(x_t), [T + 1, B]; the one of an episode's last observation is part of its return where the episode was cut off.
        discount: γ.
        clip_rewards: rewards count within ± this; None clips nothing.
    """
    rewards = rollout.rewards if clip_rewards is None else rollout.rewards.clip(-clip_rewards, clip_rewards)
    ended, valid = rollout.terminated | rollout.truncated, rollout.valid
    after_end = np.where(rollout.terminated, 0.0, values[1:])
    returns, known = np.zeros_like(rewards, np.float32), np.zeros_like(valid)
    later, is_known = np.zeros_like(returns[0]), np.zeros_like(valid[0])
    for t in reversed(range(len(rewards))):
        last = ended[t] & valid[t]
        is_known = (is_known | last) & valid[t]  # what comes before an episode's reset belongs to another episode
        later = rewards[t] + discount * np.where(last, after_end[t], np.where(valid[t], later, 0.0))
        returns[t], known[t] = later, is_known
    return returns, known


def imitation_losses(
    policy: Policy,
    batch: Batch,
    returns: Float[Tensor, "T B"],
    known: Bool[Tensor, "T B"],
    coefficients: Coefficients,
    *,
    num_tasks: int,
    precision: torch.dtype,
) -> tuple[Losses, Float[Tensor, "T B"]]:
    """Σ w_t ln π(a_t|x_t) (R_t - V_t)₊ and ½ Σ w_t (R_t - V_t)₊², as losses; and the gaps (R_t - V_t)₊.

    Args:
        policy: that is trained.
        batch: the replayed traces.
        returns: R_t.
        known: where they are known; other steps have no weight.
        coefficients: of the update.
        num_tasks: tasks of the suite.
        precision: of the networks' products.
    """
    values = evaluate(policy, batch, precision).values
    gaps = torch.where(known, (returns - values[:-1]).clamp(min=0), 0.0)
    scale = torch.ones(num_tasks, device=gaps.device) if policy.critic.popart is None else policy.critic.popart.scale
    advantages = gaps / scale[batch.observations.task_ids]
    targets = Targets(values[:-1] + gaps, advantages, torch.ones_like(gaps), values, None)
    batch = batch._replace(weights=batch.weights * known)
    coefficients = coefficients._replace(surrogate=PolicyGradient(), entropy_cost=0.0, entropy_costs=None, gate_cost=0.0)
    part = Minibatch(batch, targets, None, None, updates_actor=True, updates_critic=True)
    return compute_losses(policy, part, coefficients, num_tasks=num_tasks, precision=precision), gaps


def make_self_imitation(config: SelfImitationConfig, discount: float, clip_rewards: float | None, num_tasks: int) -> SelfImitation | None:
    """What the experiment asks for; None where its weight is 0."""
    return SelfImitation(config, discount, clip_rewards, num_tasks) if config.weight > 0 else None
