"""Jobs: a few episodes of one task, played by whatever process takes them, with random numbers of their own."""

from __future__ import annotations

import functools
import hashlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch

from envs import Episode, TaskSuite, make_vector
from envs.vector import Arrays
from mtrl.errors import UserError
from mtrl.evaluation.policy import load_actor
from mtrl.models.policy import Actor
from mtrl.rollouts.inference import Inference

EVALUATION_RUNNER = 2**31 - 1  # a runner index that no training runner has, so that no training episode is met again
EPISODES_WORTH_A_PROCESS = 20  # a process takes seconds to start
EPISODE_STEPS = 30_000  # an episode that is longer than this has no time limit of its own; Atari's is 27 000
FORGET_STEPS = 500  # after which observations that come again are evaluated again
JOB_SECONDS = 3600.0  # without the end of any job, before it is taken for certain that none will end


class StuckError(UserError):
    """Nobody finishes an episode any more."""

    def __init__(self, jobs: int):
        super().__init__(
            f"none of {jobs} evaluation jobs has ended for {JOB_SECONDS / 60:.0f} minutes; an environment hangs, or is too slow for "
            "--episodes. What was played is kept"
        )


@dataclass(frozen=True)
class Job:
    """Some episodes of one task, to be played by any process."""

    policy: Path  # its folder
    task: int
    first: int  # the number of its first episode
    episodes: int
    backend: str
    seed: int
    sampled: bool
    suite: str = ""  # of a task that the policy was not trained on; the policy's own if empty
    training_levels: int = 0  # the policy was trained on the seeds below this number, which are not played
    weights_sha256: str = ""  # of the policy: a folder may hold another one later


Players = Callable[[Sequence[Job]], Iterator[tuple[Job, list[Episode]]]]
"""Plays jobs and gives each one's episodes as it ends, in any order."""


def in_this_process(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
    """Plays the jobs one after the other."""
    for job in jobs:
        yield job, play_job(job)


def in_processes(workers: int) -> Players:
    """Players in at most `workers` processes of this machine; where there is little to play, this process does it at once."""

    def play_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
        used = min(workers, len(jobs), sum(job.episodes for job in jobs) // EPISODES_WORTH_A_PROCESS)
        if used <= 1:
            yield from in_this_process(jobs)
            return
        # Not forked: a copy of a process that has used threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(used, context, initializer=_begin_worker) as pool:
            running = {pool.submit(play_job, job): job for job in jobs}
            try:
                while running:
                    done, _ = wait(running, timeout=JOB_SECONDS, return_when=FIRST_COMPLETED)
                    if not done:
                        raise StuckError(len(running))
                    for future in done:
                        yield running.pop(future), future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()
                raise

    return play_all


def play_job(job: Job) -> list[Episode]:
    """One job's episodes in the order of their numbers, which stand in `slot`."""
    suite, actor = _load(job.policy, job.suite, job.weights_sha256)
    with _one_thread():
        return play(
            actor,
            suite,
            job.task,
            job.episodes,
            first=job.first,
            backend=job.backend,
            seed=job.seed,
            sampled=job.sampled,
            training_levels=job.training_levels,
        )


def play(
    actor: Actor,
    suite: TaskSuite,
    task: int,
    episodes: int,
    *,
    first: int = 0,
    backend: str,
    seed: int,
    sampled: bool,
    training_levels: int = 0,
    shown: Callable[[Arrays], Arrays] = lambda obs: obs,
) -> list[Episode]:
    """Episodes number `first` and following of one task; an episode's number stands in `slot`.

    Each slot plays one episode and only its first one counts: taking the first ones to finish would favour short episodes. An episode that
    is still going on after `EPISODE_STEPS` counts as far as it has come, and is neither terminated nor truncated.
    No environment has a seed below `training_levels`: these are the levels that the policy was trained on.
    `shown` says what the policy sees of the slots' observations [B, …]: to ask what it does without a part of them.
    """
    counts = [episodes if index == task else 0 for index in range(suite.num_tasks)]
    chosen: Any = backend
    tasks = make_vector(suite.for_evaluation(), counts, chosen, seed, EVALUATION_RUNNER, first_number=first, least_seed=training_levels)
    generator = torch.Generator().manual_seed(_seed_of(seed, suite.names[task], first))
    inference = Inference(actor, generator, torch.device("cpu"), sampled=sampled)
    finished: dict[int, Episode] = {}
    try:
        obs = tasks.reset()
        for step_number in range(EPISODE_STEPS):
            if step_number % FORGET_STEPS == 0:  # what was evaluated before: screens of a long episode would fill the memory
                inference.start(tasks.task_ids, inference.memory)
            actions, _ = inference.act(shown(obs))
            step = tasks.step(inference.to_environment(actions))
            inference.follow(step.rewards, step.valid)
            obs = step.obs
            for episode in step.episodes:
                finished.setdefault(episode.slot, episode)
            if len(finished) == tasks.num_slots:
                break
        for episode in tasks.unfinished():
            finished.setdefault(episode.slot, episode)
    finally:
        tasks.close()
    return [finished[slot]._replace(slot=first + slot) for slot in sorted(finished)]


def _seed_of(*parts: int | str) -> int:
    """A seed of what identifies a stream of random numbers."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:7])


@functools.lru_cache(maxsize=1)
def _load(policy: Path, suite: str, weights_sha256: str) -> tuple[TaskSuite, Actor]:
    """`load_actor`, once for all jobs of a policy. The hash tells it from another policy that was in the same folder before."""
    return load_actor(policy, suite)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums over several threads differ in the last digit, and an evaluation gives the same result on every machine's number of cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _begin_worker() -> None:
    """An interrupt is the parent's to handle, and a parent that is gone takes its workers along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
