"""Which contexts to train on, when policies are carried over to all the others: MBTL (Cho et al. 2024) against other ways to choose.

A policy is trained on each context alone and played on every one. Choosing then needs no more training: each strategy picks sources one
after the other, every target gets the source that does best on it, and the mean over targets is what the choice is worth.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from envs import TaskSuite, make_suite, make_vector
from mtrl.config import ConfigError, ExperimentConfig, flatten, override
from mtrl.curriculum.schedulers.mbtl_model import TransferModel
from mtrl.errors import UserError
from mtrl.evaluation.statistics import mean_interval
from mtrl.rollouts.inference import Inference
from mtrl.storage.sealed import replace_text
from mtrl.training.trainer import build_trainer

EPISODES = 10  # of each policy on each context
RANDOM_ORDERS = 1000
SHOWN = 10  # numbers of sources in the table


def compare(config: ExperimentConfig, seeds: int, folder: Path, slope: float = 0.5) -> None:
    """Trains what has not been trained yet, and prints what each way to choose sources is worth, with 95 % intervals over seeds.

    Args:
        config: of a suite of contexts; `total_frames` are those of one policy.
        seeds: how many matrices of transfer.
        folder: where they are kept, so that the same command goes on after an interruption.
        slope: MBTL's θ, over the whole range of contexts.

    Raises:
        ConfigError: the suite's tasks have no contexts.
    """
    suite = make_suite(config.suite.name)
    if suite.contexts is None:
        raise ConfigError(f"suite.name: the tasks of {suite.name} do not differ in a number; take one of context/…")
    folder.mkdir(parents=True, exist_ok=True)
    matrices = [_transfer(override(config, {"seed": seed}), suite, folder / f"seed-{seed}.json") for seed in range(seeds)]
    worths: dict[str, list[np.ndarray]] = {}
    for matrix in matrices:
        for name, worth in strategies(matrix, suite.contexts, slope).items():
            worths.setdefault(name, []).append(worth)
    shown = range(1, min(SHOWN, suite.num_tasks) + 1)
    print(f"\nmean score over {suite.num_tasks} contexts by number of sources, median of {seeds} seeds")
    print(f"{'sources':>12} " + " ".join(f"{count:>6}" for count in shown) + f" {'mean of them':>26}")
    for name, rows in worths.items():
        each = np.array(rows)[:, : len(shown)]
        mean = mean_interval(each.mean(1))
        print(f"{name:>12} " + " ".join(f"{value:6.3f}" for value in np.median(each, axis=0)) + f" {mean.text(3):>26}")
    own = np.median([matrix.diagonal().mean() for matrix in matrices])
    every = np.median([matrix.max(0).mean() for matrix in matrices])
    print(f"every context with its own policy: {own:.3f}; with the best of all policies: {every:.3f}")


def strategies(matrix: np.ndarray, contexts: np.ndarray, slope: float) -> dict[str, np.ndarray]:
    """The score with 1, 2, … sources, [n], for each way to choose them.

    Args:
        matrix: score of the policy trained on context s in context t, [s, t].
        contexts: [n].
        slope: MBTL's θ.
    """
    n = len(matrix)
    rng = np.random.default_rng(0)
    random = np.mean([worth(matrix, rng.permutation(n)) for _ in range(RANDOM_ORDERS)], axis=0)
    even = np.array([matrix[_evenly(n, count)].max(0).mean() for count in range(1, n + 1)])
    return {
        "mbtl": worth(matrix, choose(matrix, contexts, slope)),
        "random": random,
        "equidistant": even,
        "oracle": worth(matrix, _greedy(matrix)),  # knows the whole matrix
    }


def choose(matrix: np.ndarray, contexts: np.ndarray, slope: float) -> list[int]:
    """MBTL's order of sources. Of the matrix it sees the rows of those it has chosen."""
    model = TransferModel(contexts, slope)
    chosen: list[int] = []
    while len(chosen) < len(matrix):
        sources = np.array(chosen, int)
        best = matrix[sources].max(0) if chosen else None
        chosen.append(model.next(sources, matrix[sources, sources], best))
    return chosen


def worth(matrix: np.ndarray, order: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean over targets of the best of the first 1, 2, … sources, [n]."""
    return np.maximum.accumulate(matrix[np.asarray(order)], axis=0).mean(1)


def _evenly(n: int, count: int) -> np.ndarray:
    """The middles of `count` equal parts."""
    return ((np.arange(count) + 0.5) * n / count).astype(int)


def _greedy(matrix: np.ndarray) -> list[int]:
    chosen: list[int] = []
    best = np.zeros(len(matrix))
    while len(chosen) < len(matrix):
        gains = np.maximum(matrix, best).mean(1)
        gains[chosen] = -1.0
        chosen.append(int(gains.argmax()))
        best = np.maximum(best, matrix[chosen[-1]])
    return chosen


def _transfer(config: ExperimentConfig, suite: TaskSuite, file: Path) -> np.ndarray:
    """The matrix of transfer of one seed, as far as possible from the file, where each policy's row is kept as soon as it is known.

    Raises:
        UserError: the file is of another experiment.
    """
    experiment = flatten(config.model_dump(mode="json"))
    kept = json.loads(file.read_text()) if file.exists() else {"experiment": experiment, "rows": {}}
    if kept.get("experiment") != experiment:
        raise UserError(f"{file} holds the policies of another experiment; choose another --run-dir")
    rows: dict[str, list[float]] = kept["rows"]
    for place, task in enumerate(suite.names):
        if task in rows:
            continue
        rows[task] = _row(config, suite, place).tolist()
        replace_text(file, json.dumps({"experiment": experiment, "rows": rows}))
        print(f"seed {config.seed}, trained on {task}: {rows[task][place]:.3f} there, {np.mean(rows[task]):.3f} over all", flush=True)
    return np.array([rows[task] for task in suite.names])


def _row(config: ExperimentConfig, suite: TaskSuite, place: int) -> np.ndarray:
    """Scores on all contexts of a policy trained on one."""
    family, _, rest = suite.name.partition("/")
    assert suite.contexts is not None
    alone = f"{family}/{rest.partition('=')[0]}={float(suite.contexts[place])!r}"
    trainer = build_trainer(override(config, {"suite.name": alone, "env_runners.num_env_runners": 0}))
    try:
        while trainer.frames < config.total_frames:
            trainer.step()
        learner = trainer.learner
        return _play(learner.policy.actor, suite.for_evaluation(), config.seed)  # type: ignore[attr-defined]
    finally:
        trainer.close()


def _play(actor: object, suite: TaskSuite, seed: int) -> np.ndarray:
    """Mean score of the first `EPISODES` episodes on each task, by a policy of one task that is told nothing of which it is."""
    import torch

    tasks = make_vector(suite, EPISODES * suite.num_tasks, backend="gymnasium", seed=seed, runner_index=10**6)
    inference = Inference(actor, torch.Generator().manual_seed(seed), torch.device("cpu"), sampled=False)  # type: ignore[arg-type]
    scores = np.full(tasks.num_slots, np.nan)
    inference.start(np.zeros(tasks.num_slots, np.int64))
    obs = tasks.reset()
    while np.isnan(scores).any():
        actions, _ = inference.act(obs)
        step = tasks.step(inference.to_environment(actions))
        for episode in step.episodes:
            if np.isnan(scores[episode.slot]):
                scores[episode.slot] = suite.score(episode.task_id, episode.episode_return, float(episode.success))
        inference.follow(step.rewards, step.valid)
        obs = step.obs
    tasks.close()
    return scores.reshape(suite.num_tasks, EPISODES).mean(1)
