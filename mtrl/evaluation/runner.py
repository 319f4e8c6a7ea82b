"""Plays a saved policy in environments of its own and writes what came out, episode by episode.

An evaluation is cut into jobs, a few episodes of one task each. A job has random numbers of its own, so what it plays depends neither
on the other jobs nor on who plays it: a part of the tasks, more processes or a second try give the same episodes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs import Episode, TaskSuite, make_suite
from mtrl.checkpoint import load_policy, resolve
from mtrl.collector import Inference
from mtrl.config import ModelConfig
from mtrl.evaluation.protocols import Protocol, protocol_of
from mtrl.evaluation.statistics import mean_interval, stratified_mean, success_interval
from mtrl.models.policy import Actor, build_policy
from mtrl.run_directory import RunDirectory, versions

EVALUATION_RUNNER = 2**31 - 1  # a runner index that no training runner has, so that no training episode is met again
EPISODE_STEPS = 10_000  # an episode that is longer than this has no time limit of its own
JOB_EPISODES = 10  # what an interruption loses at most, in each process
RESULTS = "results.json"
RESULTS_BY_OTHER_RULES = "results-by-other-rules.json"


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


Players = Callable[[Sequence[Job]], Iterator[tuple[Job, list[Episode]]]]
"""Plays jobs and gives each one's episodes as it ends, in any order."""


def evaluate_run(
    directory: RunDirectory,
    *,
    checkpoint: str = "latest",
    tasks: Sequence[str] = (),
    episodes: int | None = None,
    backend: str | None = None,
    seed: int = 0,
    players: Players | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluates one policy of a run by its suite's protocol and writes `evaluation/STEP/results.json`.

    What an interrupted evaluation had played is kept beside the results, and the same call goes on from there.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        tasks: names of those to play; all of the run's if empty.
        episodes: of each task; the protocol's number if None.
        backend: what steps the environments; the protocol's if None.
        seed: of environments and actions.
        players: who plays; this process if None.
        progress: told how many episodes of how many are over.

    Returns:
        what the file holds.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
        SuiteError: there is no such task.
    """
    step = resolve(directory.checkpoints, checkpoint).name
    policy_folder = directory.policies / step
    _, description = load_policy(policy_folder)
    suite = make_suite(description["suite"])
    protocol = protocol_of(suite)
    indices = sorted({suite.index(name) for name in tasks}) or list(range(suite.num_tasks))
    wanted, used_backend = episodes or protocol.episodes, backend or protocol.backend
    jobs = [
        Job(policy_folder.resolve(), task, first, min(JOB_EPISODES, wanted - first), used_backend, seed, protocol.sampled)
        for task, first in itertools.product(indices, range(0, wanted, JOB_EPISODES))
    ]
    folder = directory.path / "evaluation" / step
    kept = _Kept(folder, jobs, description["weights_sha256"])
    started = time.time()
    total = wanted * len(indices)
    progress(kept.episodes, total)
    for job, rows in (players or in_this_process)(kept.missing):
        kept.add(job, rows)
        progress(kept.episodes, total)
    played = kept.rows()
    results: dict[str, Any] = {
        "protocol": protocol.name,
        "changed": _changes(protocol, suite, episodes, backend, [suite.names[task] for task in indices]),
        "suite": suite.name,
        "step": int(step),
        "seed": seed,
        "backend": used_backend,
        "sampled_actions": protocol.sampled,
        "policy": {key: description[key] for key in ("commit", "config", "weights_sha256")},
        "versions": versions(),
        "seconds": time.time() - started,
        **summarize(suite, played),
    }
    file = folder / RESULTS
    if results["changed"] and not _read_results(file).get("changed", True):
        file = folder / RESULTS_BY_OTHER_RULES  # what the protocol found stays
    results["file"] = str(file.relative_to(directory.path))
    # Last, so that whoever only wants the figures can stop reading there.
    results["episodes"] = [row._asdict() | {"score": float(suite.score(row.task_id, row.episode_return, row.success))} for row in played]
    _replace(file, json.dumps(results, indent=1))
    kept.forget()
    return results


def in_this_process(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
    """Plays the jobs one after the other."""
    for job in jobs:
        yield job, play_job(job)


def in_processes(workers: int) -> Players:
    """Players in `workers` processes of this machine."""

    def play_all(jobs: Sequence[Job]) -> Iterator[tuple[Job, list[Episode]]]:
        if min(workers, len(jobs)) <= 1:
            yield from in_this_process(jobs)
            return
        # Not forked: a copy of a process that has used threads may hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(workers, len(jobs)), context, initializer=_begin_worker) as pool:
            running = {pool.submit(play_job, job): job for job in jobs}
            try:
                for future in as_completed(running):
                    yield running[future], future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.kill()
                raise

    return play_all


def play_job(job: Job) -> list[Episode]:
    """One job's episodes in the order of their numbers, which stand in `slot`."""
    suite, actor = _load(job.policy)
    with _one_thread():
        return play(actor, suite, job.task, job.episodes, first=job.first, backend=job.backend, seed=job.seed, sampled=job.sampled)


def load_actor(policy: Path) -> tuple[TaskSuite, Actor]:
    """The tasks and the actor of a policy's folder.

    Raises:
        DamagedCheckpointError: a file is missing or not what was written.
    """
    weights, description = load_policy(policy)
    suite = make_suite(description["suite"])
    network = build_policy(ModelConfig(**description["model"]), suite, seed=0)
    network.load_state_dict(weights)
    return suite, network.actor


def play(
    actor: Actor, suite: TaskSuite, task: int, episodes: int, *, first: int = 0, backend: str, seed: int, sampled: bool
) -> list[Episode]:
    """Episodes number `first` and following of one task; an episode's number stands in `slot`.

    Each slot plays one episode and only its first one counts: taking the first ones to finish would favour short episodes.
    """
    counts = [episodes if index == task else 0 for index in range(suite.num_tasks)]
    tasks = suite.for_evaluation().make(counts, backend, seed, EVALUATION_RUNNER, first_number=first)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(_seed_of(seed, suite.names[task], first))
    inference = Inference(actor, generator, torch.device("cpu"), sampled=sampled)
    finished: dict[int, Episode] = {}
    try:
        obs = tasks.reset()
        inference.start(tasks.task_ids)
        for _ in range(EPISODE_STEPS):
            actions, _ = inference.act(obs)
            step = tasks.step(inference.to_environment(actions))
            inference.follow(step)
            obs = step.obs
            for episode in step.episodes:
                finished.setdefault(episode.slot, episode)
            if len(finished) == tasks.num_slots:
                break
    finally:
        tasks.close()
    return [finished[slot]._replace(slot=first + slot) for slot in sorted(finished)]


def summarize(suite: TaskSuite, rows: list[Episode]) -> dict[str, Any]:
    """Scores and success rates with intervals, per task that was played and over these tasks."""
    rng = np.random.default_rng(0)
    tasks, scores = {}, []
    for task, name in enumerate(suite.names):
        own = [row for row in rows if row.task_id == task]
        if not own:
            continue
        scores.append(np.array([float(suite.score(task, row.episode_return, row.success)) for row in own]))
        successes = sum(row.success for row in own)
        tasks[name] = {
            "n": len(own),
            "successes": successes,
            "success_rate": success_interval(successes, len(own))._asdict(),
            "score": mean_interval(scores[-1], rng)._asdict(),
            "return_mean": float(np.mean([row.episode_return for row in own])),
            "length_mean": float(np.mean([row.length for row in own])),
        }
    return {"tasks": tasks, "score_mean": stratified_mean(scores, rng)._asdict()}


class _Kept:
    """What has been played, one file for each job, so that an interruption loses only jobs that had not ended."""

    def __init__(self, folder: Path, jobs: Sequence[Job], weights: str):
        # Of the same weights, rules and versions, so that nothing else is taken for ours.
        key = json.dumps([weights, versions(), [{**dataclasses.asdict(job), "policy": ""} for job in jobs]], sort_keys=True)
        self._folder = folder / f"unfinished-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        self._folder.mkdir(parents=True, exist_ok=True)
        self._jobs = jobs
        self._rows = {job: rows for job in jobs if (rows := self._read(job)) is not None}

    @property
    def missing(self) -> list[Job]:
        """Jobs not played yet."""
        return [job for job in self._jobs if job not in self._rows]

    @property
    def episodes(self) -> int:
        """Episodes played."""
        return sum(map(len, self._rows.values()))

    def add(self, job: Job, rows: list[Episode]) -> None:
        self._rows[job] = rows
        _replace(self._file(job), json.dumps([row._asdict() for row in rows]))

    def rows(self) -> list[Episode]:
        """All episodes, by task and number."""
        return [row for job in self._jobs for row in self._rows[job]]

    def forget(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, job: Job) -> Path:
        return self._folder / f"{job.task}-{job.first}.json"

    def _read(self, job: Job) -> list[Episode] | None:
        try:
            rows = [Episode(**row) for row in json.loads(self._file(job).read_text())]
        except (OSError, ValueError, TypeError):
            return None
        return rows if len(rows) == job.episodes else None


def _changes(protocol: Protocol, suite: TaskSuite, episodes: int | None, backend: str | None, tasks: list[str]) -> dict[str, Any]:
    """What was asked for instead of the protocol's rule; results with an entry here are not comparable with it."""
    wanted = {"episodes": episodes, "backend": backend}
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None and value != getattr(protocol, name)}
    return changes | ({"tasks": ", ".join(tasks)} if len(tasks) < suite.num_tasks else {})


def _read_results(path: Path) -> dict[str, Any]:
    """Results that are there already; empty if there are none, or none that can be read."""
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return {}


def _seed_of(*parts: int | str) -> int:
    """A seed of what identifies a stream of random numbers."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:7])


def _replace(path: Path, text: str) -> None:
    """Writes a file that is whole whenever it can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


_load = functools.lru_cache(maxsize=1)(load_actor)


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
