"""Plays a saved policy in environments of its own and writes what came out, episode by episode."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
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


def evaluate_run(
    directory: RunDirectory,
    *,
    checkpoint: str = "latest",
    episodes: int | None = None,
    backend: str | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluates one policy of a run by its suite's protocol and writes `evaluation/STEP/results.json`.

    Args:
        directory: the run.
        checkpoint: `latest`, `best` or a number of frames.
        episodes: of each task; the protocol's number if None.
        backend: what steps the environments; the protocol's if None.
        seed: of environments and actions.
        progress: told how many episodes of how many are over.

    Returns:
        what the file holds.

    Raises:
        CheckpointError: there is no such checkpoint, or its policy is damaged.
    """
    step = resolve(directory.checkpoints, checkpoint).name
    weights, description = load_policy(directory.policies / step)
    suite = make_suite(description["suite"])
    policy = build_policy(ModelConfig(**description["model"]), suite, seed=0)
    policy.load_state_dict(weights)
    protocol = protocol_of(suite)
    used_backend = backend or protocol.backend
    started = time.time()
    rows = play(
        policy.actor,
        suite,
        episodes or protocol.episodes,
        backend=used_backend,
        seed=seed,
        sampled=protocol.sampled,
        progress=progress,
    )
    results = {
        "protocol": protocol.name,
        "changed": _changes(protocol, episodes, backend),
        "suite": suite.name,
        "step": int(step),
        "seed": seed,
        "backend": used_backend,
        "sampled_actions": protocol.sampled,
        "policy": {key: description[key] for key in ("commit", "config", "weights_sha256")},
        "versions": versions(),
        "seconds": time.time() - started,
        **summarize(suite, rows),
        "episodes": [row._asdict() | {"score": float(suite.score(row.task_id, row.episode_return, row.success))} for row in rows],
    }
    path = directory.path / "evaluation" / step / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1))
    return results


def play(
    actor: Actor,
    suite: TaskSuite,
    episodes: int,
    *,
    backend: str,
    seed: int,
    sampled: bool,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Episode]:
    """`episodes` episodes of every task, sorted by task and slot.

    Each slot plays one episode and only its first one counts: taking the first ones to finish would favour short episodes.
    """
    tasks = suite.for_evaluation().make(episodes * suite.num_tasks, backend=backend, seed=seed, runner_index=EVALUATION_RUNNER)  # type: ignore[arg-type]
    inference = Inference(actor, torch.Generator().manual_seed(seed), torch.device("cpu"), sampled=sampled)
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
            progress(len(finished), tasks.num_slots)
            if len(finished) == tasks.num_slots:
                break
    finally:
        tasks.close()
    return [finished[slot] for slot in sorted(finished)]


def summarize(suite: TaskSuite, rows: list[Episode]) -> dict[str, Any]:
    """Scores and success rates with intervals, per task and over tasks."""
    rng = np.random.default_rng(0)
    scores = [
        np.array([float(suite.score(task, row.episode_return, row.success)) for row in rows if row.task_id == task])
        for task in range(suite.num_tasks)
    ]
    tasks = {}
    for task, name in enumerate(suite.names):
        own = [row for row in rows if row.task_id == task]
        successes = sum(row.success for row in own)
        tasks[name] = {
            "n": len(own),
            "successes": successes,
            "success_rate": success_interval(successes, len(own))._asdict(),
            "score": mean_interval(scores[task], rng)._asdict(),
            "return_mean": float(np.mean([row.episode_return for row in own])),
            "length_mean": float(np.mean([row.length for row in own])),
        }
    return {"tasks": tasks, "score_mean": stratified_mean(scores, rng)._asdict()}


def _changes(protocol: Protocol, episodes: int | None, backend: str | None) -> dict[str, Any]:
    """What was asked for instead of the protocol's rule; results with an entry here are not comparable with it."""
    wanted = {"episodes": episodes, "backend": backend}
    return {name: value for name, value in wanted.items() if value is not None and value != getattr(protocol, name)}
