"""Settings that fit what a random policy met in the tasks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from envs.inspection import Inspection
from mtrl.config import ExperimentConfig
from mtrl.config.advice import Advice

LARGE, SMALL = 5.0, 0.1  # root mean squares of an observed number beyond which layers of tanh learn slowly
LARGE_RETURN = 50.0  # a discounted return that a critic with outputs near 1 takes long to reach
UNEQUAL = 5.0  # ratio of the tasks' returns from which the largest one rules the shared layers
SPARSE = 0.02  # share of steps with a reward below which an unroll seldom has one
UNROLLS_PER_EPISODE = 8  # more of them, and a sparse reward takes many updates to reach an episode's beginning
LONGEST_UNROLL = 256
MEMORY_SHARE = 0.5  # of the free memory, for environments
UNROLL_SECONDS = 20.0  # after which a runner's policy is old


def advise(config: ExperimentConfig, tasks: Sequence[Inspection], free_bytes: float, *, timed: bool = True) -> list[Advice]:
    """Values for the experiment, with their reasons.

    Args:
        config: the experiment as it is.
        tasks: what was seen of each task; those without a step say nothing.
        free_bytes: memory of this machine.
        timed: whether a training steps the environments as they were stepped here.
    """
    played = [task for task in tasks if task.steps]
    if not played:
        return []
    advice = [*_observations(config, played), *_rewards(config, played), *_unroll(config, played)]
    changed = {each.field: each.value for each in advice}
    unroll = changed.get("env_runners.unroll_length", config.env_runners.unroll_length)
    return advice + _slots(config, played, free_bytes, unroll, timed=timed)


def needed_bytes(config: ExperimentConfig, tasks: Sequence[Inspection]) -> float:
    """Memory of all runners' environments where slots are spread evenly over the tasks; NaN where it is not known."""
    each = [task.bytes_per_environment for task in tasks if not math.isnan(task.bytes_per_environment)]
    return float(np.mean(each)) * config.env_runners.slots * max(1, config.env_runners.num_env_runners) if each else math.nan


def unroll_seconds(config: ExperimentConfig, tasks: Sequence[Inspection]) -> float:
    """Time in which one runner steps its environments through an unroll, without the policy; NaN where it is not known."""
    per_step = [1 / task.steps_per_second for task in tasks if task.steps]
    return float(np.mean(per_step)) * config.env_runners.slots * config.env_runners.unroll_length if per_step else math.nan


def _observations(config: ExperimentConfig, tasks: Sequence[Inspection]) -> list[Advice]:
    if config.model.normalize_observations:
        return []
    for task in tasks:
        for name, sizes in task.sizes.items():
            varying = sizes[sizes > 0]
            if not len(varying):
                continue
            most = float(varying.max())
            if most > LARGE or most < SMALL:
                said = f"the numbers of {name!r} have a root mean square of up to {most:.3g} in {task.task}"
                return [Advice("model.normalize_observations", True, f"{said}; networks read numbers near 1 best")]
    return []


def _rewards(config: ExperimentConfig, tasks: Sequence[Inspection]) -> list[Advice]:
    """PopArt for returns of another size than 1. Rewards are not clipped: that changes which policy is the best."""
    returns = {task.task: size for task in tasks if (size := _return_size(config, task)) > 0}
    if config.model.popart or config.model.heads != "multi" or config.learner.clip_rewards is not None or not returns:
        return []
    (least, low), (most, high) = (choose(returns.items(), key=lambda pair: pair[1]) for choose in (min, max))
    if high > UNEQUAL * low and len(returns) > 1:
        why = f"discounted returns are about {low:.2g} in {least} and {high:.2g} in {most}"
    elif high > LARGE_RETURN:
        why = f"discounted returns are about {high:.2g} in {most}"
    else:
        return []
    return [
        Advice("model.popart", True, f"{why}; values are learned at unit scale then (learner.clip_rewards would change what is optimal)")
    ]


def _return_size(config: ExperimentConfig, task: Inspection) -> float:
    """About the size of a discounted return: the size of a reward times the steps that count."""
    assert task.rewards is not None
    length = task.mean_length if task.episodes else float(task.unfinished_steps)
    horizon = 1 / (1 - config.learner.discount) if config.learner.discount < 1 else math.inf
    dense = task.rewards.share_nonzero > SPARSE
    return task.rewards.root_mean_square * min(length, horizon) if dense else max(abs(task.rewards.least), abs(task.rewards.most))


def _unroll(config: ExperimentConfig, tasks: Sequence[Inspection]) -> list[Advice]:
    """Longer unrolls, with fewer slots, where rewards are rare and far away."""
    runners = config.env_runners
    far = [task for task in tasks if task.episodes and task.rewards is not None and task.rewards.share_nonzero < SPARSE]
    if not far:
        return []
    longest = max(far, key=lambda task: task.mean_length)
    wanted = min(LONGEST_UNROLL, 2 ** math.ceil(math.log2(max(1.0, longest.mean_length / UNROLLS_PER_EPISODE))))
    if wanted <= runners.unroll_length:
        return []
    reason = f"episodes of {longest.task} take {longest.mean_length:.0f} steps with hardly any reward"
    return [Advice("env_runners.unroll_length", wanted, f"{reason}; {runners.unroll_length} steps seldom have one")]


def _slots(config: ExperimentConfig, tasks: Sequence[Inspection], free_bytes: float, unroll: int, *, timed: bool) -> list[Advice]:
    """Fewer slots where memory, time or a longer unroll ask for it; at least one for each task."""
    slots = config.env_runners.slots
    limits = {slots * config.env_runners.unroll_length // unroll: f"a batch keeps its size with unrolls of {unroll} steps"}
    bytes_ = needed_bytes(config, tasks)
    if bytes_ > MEMORY_SHARE * free_bytes:
        fit = int(slots * MEMORY_SHARE * free_bytes / bytes_)
        limits[fit] = f"{bytes_ / 2**30:.1f} GiB of environments do not fit well into {free_bytes / 2**30:.1f} GiB of free memory"
    seconds = unroll_seconds(config, tasks) * unroll / config.env_runners.unroll_length
    if timed and seconds > UNROLL_SECONDS:
        limits[int(slots * UNROLL_SECONDS / seconds)] = f"an unroll of {slots} slots takes {seconds:.0f} s in these environments"
    least = max(len(tasks), config.learner.minibatches if config.learner.minibatch_of == "traces" else 1)
    wanted = max(least, min(limits))
    return [Advice("env_runners.slots", wanted, limits[min(limits)])] if wanted < slots else []
