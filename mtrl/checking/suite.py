"""A suite before a long run: whether its environments keep their contract, whether the policy fits them, and what they cost."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import gymnasium

from envs import SuiteError, TaskSuite, UnknownSuiteError, UnknownTaskError, make_suite
from envs.inspection import Inspection, inspect_task
from envs.mixed import MixedSuite, split_name
from envs.observations import MASK
from mtrl.checking.advice import MEMORY_SHARE, advise, needed_bytes, unroll_seconds
from mtrl.checking.workers import WorkerSpeed, worker_speed
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.config.advice import Advice, follow
from mtrl.machine import Finding, available_memory, whole_cores
from mtrl.models.distributions import make_distribution
from mtrl.models.encoders import make_encoder
from mtrl.models.encoders.fused import FusedEncoder
from mtrl.models.policy import build_policy
from mtrl.rollouts.collector import check_fit

WORKER_SECONDS = 4.0  # to compare worker processes with one process


@dataclass
class Network:
    """The parts of the policy that depend on the suite's spaces."""

    encoder: str
    features: int
    distribution: str
    parameters: int
    head: str


class Reading(NamedTuple):
    """How the policy reads and acts in tasks with the same spaces."""

    tasks: tuple[str, ...]
    arrays: list[tuple[str, gymnasium.Space, str]]
    """Name, space and encoder of each array that is observed."""
    distribution: str
    parameters: int
    """Numbers that a task's head gives the distribution."""


@dataclass
class SuiteCheck:
    """What was found out about a suite."""

    name: str
    suite: TaskSuite | None = None
    """None where it cannot be made."""
    network: Network | None = None
    """None where no policy fits it."""
    readings: list[Reading] = field(default_factory=list)
    worker_speed: WorkerSpeed | None = None
    """None where EnvPool steps the environments, or where they were not stepped."""
    tasks: list[Inspection] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    advice: list[Advice] = field(default_factory=list)

    @property
    def problems(self) -> int:
        """The number of faults with which no training is possible."""
        return sum(finding.level == "problem" for finding in self.findings)


def check_suite(
    config: ExperimentConfig, *, seconds: float = 20.0, episodes: int = 20, progress: Callable[[int, int], None] = lambda done, total: None
) -> SuiteCheck:
    """Plays a random policy in every task of an experiment, and reports.

    Args:
        config: the experiment.
        seconds: about how long one task may take.
        episodes: the most of each task.
        progress: told how many tasks of how many are over.

    Raises:
        UnknownSuiteError, UnknownTaskError: there are no such tasks.
    """
    check = SuiteCheck(config.suite.name)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always", UserWarning)
        suites = list(_suites(config.suite.name, check))
    check.findings += [Finding("note", "suite", str(warning.message)) for warning in warned if str(warning.message).startswith("gym:")]
    total = sum(suite.num_tasks for suite in suites)
    for suite in suites:
        for task in range(suite.num_tasks):
            progress(len(check.tasks), total)
            check.tasks.append(inspect_task(suite, task, seconds=seconds, episodes=episodes, seed=config.seed))
    progress(total, total)
    for inspection in check.tasks:
        check.findings += _findings_of(inspection)
    if check.suite is not None:
        _check_network(config, check.suite, check)
        timed = config.suite.backend == "gymnasium" or "envpool" not in check.suite.backends
        if timed and any(task.steps for task in check.tasks) and not any(task.fatal for task in check.tasks):
            check.worker_speed = worker_speed(check.suite, config.env_runners.slots, whole_cores(), min(seconds, WORKER_SECONDS))
        check.findings += _costs(config, check.tasks, timed=timed)
        check.findings += _speed_of_workers(check.worker_speed)
        if not any(task.fatal for task in check.tasks):
            check.advice = _possible(config, advise(config, check.tasks, available_memory(), timed=timed))
    return check


def _suites(name: str, check: SuiteCheck) -> Iterator[TaskSuite]:
    """The suite; where it cannot be made, those of its tasks that can be made alone, so that all faults are seen at once."""
    try:
        check.suite = make_suite(name)
        yield check.suite
        return
    except (UnknownSuiteError, UnknownTaskError):
        raise
    except SuiteError as error:
        whole = str(error)
    parts = [alone for part in split_name(name) for alone in _one_by_one(part)]
    faults = list[str]()
    for part in parts if len(parts) > 1 else []:
        try:
            yield make_suite(part)
        except SuiteError as error:
            faults.append(str(error))
    check.findings += [Finding("problem", "suite", fault) for fault in faults or [whole]]


def _one_by_one(name: str) -> list[str]:
    """The suites of the single tasks that a suite's name lists."""
    family, _, rest = name.partition("/")
    listed, mark, query = rest.partition("?")
    return [f"{family}/{task.strip()}{mark}{query}" for task in listed.split(",") if task.strip()]


def _findings_of(inspection: Inspection) -> Iterator[Finding]:
    for defect in inspection.defects:
        yield Finding("problem" if defect.fatal else "note", inspection.task, defect.text)
    if not inspection.defects:
        seed = "" if inspection.repeats is None else ", and the same seed gives the same episode"
        yield Finding("ok", inspection.task, f"{inspection.steps:,} steps without a fault{seed}")


def _check_network(config: ExperimentConfig, suite: TaskSuite, check: SuiteCheck) -> None:
    try:
        check_fit(config, suite)
    except ConfigError as error:
        check.findings.append(Finding("problem", "settings", str(error)))
    try:
        actor = build_policy(config.model, suite, config.seed).actor
    except ValueError as error:
        check.findings.append(Finding("problem", "policy", str(error)))
        return
    check.readings = [_reading(config, part) for part in (suite.parts if isinstance(suite, MixedSuite) else (suite,))]
    encoder, distribution = actor.trunk.encoder, actor.distribution
    check.network = Network(
        type(encoder).__name__,
        actor.trunk.feature_size,
        type(distribution).__name__,
        distribution.num_parameters,
        type(actor.head).__name__,
    )


def _reading(config: ExperimentConfig, part: TaskSuite) -> Reading:
    space = gymnasium.spaces.Dict({name: array for name, array in part.observation_space.items() if name != MASK})
    encoder, distribution = make_encoder(space, config.model, part.num_tasks), make_distribution(part.action_space)
    stems = encoder.stems if isinstance(encoder, FusedEncoder) else [encoder] * len(space)
    arrays = [(name, array, type(stem).__name__) for (name, array), stem in zip(space.items(), stems, strict=True)]
    return Reading(part.names, arrays, type(distribution).__name__, distribution.num_parameters)


def _costs(config: ExperimentConfig, tasks: list[Inspection], *, timed: bool) -> Iterator[Finding]:
    """Memory, time, and the length of an unroll against that of episodes."""
    runners = config.env_runners
    bytes_, free = needed_bytes(config, tasks), available_memory()
    if not math.isnan(bytes_):
        who = f"{runners.slots} slots" + (f" of {runners.num_env_runners} runners" if runners.num_env_runners > 1 else "")
        level: Literal["ok", "note", "problem"] = "problem" if bytes_ > free else "note" if bytes_ > MEMORY_SHARE * free else "ok"
        yield Finding(level, "memory", f"environments of {who} take about {_size(bytes_)} of {_size(free)} that are free")
    seconds = unroll_seconds(config, tasks)
    if not math.isnan(seconds):
        faster = "" if timed else " with Gymnasium; a training steps them with EnvPool, which is faster"
        what = f"the environments of an unroll ({runners.slots} slots x {runners.unroll_length} steps)"
        yield Finding("ok", "time", f"{what} take {seconds:.1f} s{faster}")
    lengths = [task.mean_length for task in tasks if task.episodes]
    if lengths:
        span = " to ".join(dict.fromkeys(f"{length:.0f}" for length in (min(lengths), max(lengths))))
        yield Finding("ok", "unrolls", f"an unroll has {runners.unroll_length} steps; episodes of a random policy have {span} on average")


def _speed_of_workers(speed: WorkerSpeed | None) -> Iterator[Finding]:
    if speed is None:
        return
    ratio = speed.in_workers / speed.in_this_process
    alone, together = f"{speed.in_this_process:,.0f} steps/s in one process", f"{speed.in_workers:,.0f} in {speed.workers} worker processes"
    choice = "suite.env_workers auto takes workers where a step is slow"
    yield Finding("ok", "workers", f"{speed.slots} slots: {alone}, {together} ({ratio:.2g} times); {choice}")


def _possible(config: ExperimentConfig, advice: list[Advice]) -> list[Advice]:
    """The advice that the experiment's other settings allow, in order."""
    kept = list[Advice]()
    for each in advice:
        try:
            follow(config, [*kept, each])
        except ConfigError:
            continue
        kept.append(each)
    return kept


def _size(amount: float) -> str:
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.1f} MiB"
