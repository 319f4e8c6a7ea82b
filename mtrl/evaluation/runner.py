"""Plays a saved policy in environments of its own and writes what came out, episode by episode.

An evaluation is cut into jobs, a few episodes of one task each. A job has random numbers of its own, so what it plays depends neither
on the other jobs nor on who plays it: a part of the tasks, more processes or a second try give the same episodes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs import Episode, EvaluationProtocol, TaskSuite, make_suite
from mtrl.config import ModelConfig
from mtrl.evaluation.intervals import Estimate, mean_over_tasks, score_interval, success_interval, without_interval
from mtrl.evaluation.jobs import Job, Players, in_this_process
from mtrl.evaluation.protocols import protocol_of
from mtrl.evaluation.results import EvaluationResults, ResultsError, TaskResult, read_results, write_results
from mtrl.evaluation.unseen import choose_tasks
from mtrl.storage.checkpoint import load_policy, resolve_policy
from mtrl.storage.layout import RESULTS_BY_OTHER_RULES, RunLayout
from mtrl.storage.run_directory import RunDirectory, versions
from mtrl.storage.sealed import replace_text

JOB_EPISODES = 10  # what an interruption loses at most, in each process


def evaluate_run(
    directory: RunDirectory,
    *,
    checkpoint: str = "latest",
    tasks: Sequence[str] = (),
    suite: str = "",
    episodes: int | None = None,
    backend: str | None = None,
    actions: str | None = None,
    seed: int = 0,
    players: Players | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResults:
    """Evaluates one policy of a run by its suite's protocol and writes `evaluation/STEP/results.json`.

    What an interrupted evaluation had played is kept beside the results, and the same call goes on from there. Of a run that cannot be
    written to, such as a colleague's, nothing is kept and no file is written.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        tasks: names of those to play; all of the run's if empty. Of a policy with task vectors also tasks of the run's family that it was
            not trained on.
        suite: the name of a suite to play in place of the run's tasks. Results with tasks that were not trained are written to
            `evaluation/STEP/results-unseen.json`, where these tasks are marked and have a mean score of their own.
        episodes: of each task; the protocol's number if None.
        backend: what steps the environments; the protocol's if None.
        actions: `sampled` from the policy, or the `greedy` ones; the protocol's if None.
        seed: of environments and actions.
        players: who plays; this process if None.
        progress: told how many episodes of how many are over.

    Returns:
        what the file holds, with every episode; its `file` is empty if none was written.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
        SuiteError: there is no such suite or task.
        UserError: the policy cannot play tasks that it was not trained on, or not these.
    """
    step = resolve_policy(directory.checkpoints, directory.policies, checkpoint).name
    policy_folder = directory.policies / step
    _, description = load_policy(policy_folder)
    own = make_suite(description["suite"])
    chosen = choose_tasks(own, ModelConfig(**description["model"]), tasks, suite)
    played_in = chosen.suite
    protocol = protocol_of(played_in)
    wanted, used_backend = episodes or protocol.episodes, backend or protocol.backend
    sampled = (actions or protocol.actions) == "sampled"
    levels, weights = description.get("training_levels", 0), description["weights_sha256"]
    jobs = [
        Job(
            policy_folder.resolve(),
            task,
            first,
            min(JOB_EPISODES, wanted - first),
            used_backend,
            seed,
            sampled,
            chosen.name,
            levels,
            weights,
        )
        for task, first in itertools.product(chosen.tasks, range(0, wanted, JOB_EPISODES))
    ]
    folder = directory.layout.evaluation(step)
    kept = _Kept(folder, jobs, weights)
    started = time.time()
    played = _play(kept, players or in_this_process, progress)
    figures, score_mean = summarize(played_in, played)
    unseen = [name for name in figures if name not in own.names]
    if unseen:
        figures = {name: row._replace(unseen=name in unseen) for name, row in figures.items()}
        trained = [row.score for row in figures.values() if not row.unseen]
        score_mean = mean_over_tasks(trained) if trained else without_interval(math.nan)
    results = EvaluationResults(
        protocol=protocol.name,
        changed=_changes(protocol, played_in, {"episodes": episodes, "backend": backend, "actions": actions}, chosen.tasks)
        | ({"suite": chosen.name} if chosen.name and not unseen else {}),
        suite=own.name,
        rules={**played_in.rules, **({"training_levels": str(levels)} if levels else {})},
        step=int(step),
        seed=seed,
        backend=used_backend,
        sampled_actions=sampled,
        policy={key: description[key] for key in ("commit", "config", "weights_sha256")},
        versions=versions(),
        seconds=time.time() - started,
        tasks=figures,
        score_mean=score_mean,
        unseen_score_mean=mean_over_tasks([figures[name].score for name in unseen]) if unseen else None,
        played_suite=chosen.name,
        episodes=tuple(row._asdict() | {"score": float(played_in.score(row.task_id, row.episode_return, row.success))} for row in played),
    )
    if kept.read_only:
        return results
    file = _results_file(directory.layout, results)
    results = dataclasses.replace(results, file=str(file.relative_to(directory.path)))
    write_results(file, results)
    kept.forget()
    return results


def evaluate_once(
    directory: RunDirectory,
    *,
    episodes: int | None = None,
    players: Players | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EvaluationResults:
    """The results of a run's newest policy by its suite's protocol, with this many episodes: those of an earlier call where there are any.

    Raises:
        CheckpointError: there is no policy, or it is damaged.
    """
    step = resolve_policy(directory.checkpoints, directory.policies, "latest").name
    _, description = load_policy(directory.policies / step)
    suite = make_suite(description["suite"])
    wanted = episodes or protocol_of(suite).episodes
    main = directory.layout.results(step)
    for file in (main, main.with_name(RESULTS_BY_OTHER_RULES)):
        with contextlib.suppress(ResultsError):  # nothing is there, or nothing that can be read
            found = read_results(file)
            same = (
                found.seed == 0 and set(found.changed) <= {"episodes"} and found.policy["weights_sha256"] == description["weights_sha256"]
            )
            if same and {name: task.n for name, task in found.tasks.items()} == dict.fromkeys(suite.names, wanted):
                return found
    return evaluate_run(directory, episodes=episodes, players=players, progress=progress)


def _play(kept: _Kept, players: Players, progress: Callable[[int, int], None]) -> list[Episode]:
    """Plays what is missing; all episodes, those that were kept included."""
    progress(kept.episodes, kept.wanted)
    for job, rows in players(kept.missing):
        kept.add(job, rows)
        progress(kept.episodes, kept.wanted)
    return kept.rows()


def _results_file(layout: RunLayout, results: EvaluationResults) -> Path:
    """The file of the results: results with changed options do not replace results of the protocol, and those with tasks that were not
    trained have a file of their own.
    """
    if results.unseen_score_mean is not None:
        return layout.unseen_results(results.step)
    file = layout.results(results.step)
    if results.changed:
        with contextlib.suppress(ResultsError):  # nothing is there, or nothing that can be read
            present = read_results(file)
            if (present.changed, present.seed) != (results.changed, results.seed):
                return file.with_name(RESULTS_BY_OTHER_RULES)
    return file


def summarize(suite: TaskSuite, rows: list[Episode]) -> tuple[dict[str, TaskResult], Estimate]:
    """Scores and success rates with intervals, per task that was played and over these tasks."""
    tasks = {}
    for task, name in enumerate(suite.names):
        own = [row for row in rows if row.task_id == task]
        if not own:
            continue
        scores = np.array([float(suite.score(task, row.episode_return, row.success)) for row in own])
        successes = sum(row.success for row in own)
        tasks[name] = TaskResult(
            n=len(own),
            successes=successes,
            success_rate=success_interval(successes, len(own)),
            score=score_interval(scores),
            return_mean=float(np.mean([row.episode_return for row in own])),
            length_mean=float(np.mean([row.length for row in own])),
            endless=sum(not (row.terminated or row.truncated) for row in own),
        )
    return tasks, mean_over_tasks([row.score for row in tasks.values()])


class _Kept:
    """Finished jobs, one file for each, so that an interruption loses only unfinished jobs."""

    def __init__(self, folder: Path, jobs: Sequence[Job], weights: str):
        # Of the same weights, rules and versions, so that nothing else is taken for ours.
        key = json.dumps([weights, versions(), [{**dataclasses.asdict(job), "policy": ""} for job in jobs]], sort_keys=True)
        self._folder = folder / f"unfinished-{hashlib.sha256(key.encode()).hexdigest()[:12]}"
        self.read_only = False
        """Whether nothing can be kept."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            self.read_only = True
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

    @property
    def wanted(self) -> int:
        """Episodes of all jobs."""
        return sum(job.episodes for job in self._jobs)

    def add(self, job: Job, rows: list[Episode]) -> None:
        self._rows[job] = rows
        if not self.read_only:
            with contextlib.suppress(FileNotFoundError):  # another evaluation of this policy has ended, and has cleared up
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


def _changes(protocol: EvaluationProtocol, suite: TaskSuite, wanted: dict[str, Any], tasks: list[int]) -> dict[str, Any]:
    """Options that differ from the protocol; results with an entry here are not comparable with results of the protocol."""
    changes: dict[str, Any] = {name: value for name, value in wanted.items() if value is not None and value != getattr(protocol, name)}
    return changes | ({"tasks": ", ".join(suite.names[task] for task in tasks)} if len(tasks) < suite.num_tasks else {})


def _replace(path: Path, text: str) -> None:
    """Writes a file that is whole whenever it can be seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_text(path, text)
