"""One experiment under several seeds, as one Tune experiment: trials run side by side as far as the cores go."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray import tune

from envs import TaskSuite
from mtrl.config import ExperimentConfig, override
from mtrl.distributed.cluster import build_ray_trainer, check_resources, start_ray
from mtrl.errors import UserError
from mtrl.storage.checkpoint import steps
from mtrl.storage.layout import RunLayout
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer


class TuneConsole:
    """Tells Tune what a console would show."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """Ignored: Tune reports the progress."""

    def update(self, metrics: dict[str, float]) -> None:
        """The headline figures."""
        tune.report({name.removeprefix("summary/"): value for name, value in metrics.items() if name.startswith("summary/")})

    def message(self, text: str) -> None:
        """Into the trial's log."""
        print(text, flush=True)

    def close(self) -> None:
        """Does nothing."""


def sweep(config: ExperimentConfig, seeds: Sequence[int], folder: Path) -> list[Path]:
    """Trains the experiment under each seed in `folder/seed-N`; runs that are there already go on, and finished ones stay as they are.

    Returns:
        the runs' folders.

    Raises:
        UserError: a seed's folder holds another experiment, or a trial failed.
        ResourceError: not even one trial fits.
    """
    folder = folder.absolute()
    paths = [folder / f"seed-{seed}" for seed in seeds]
    configs = [override(config, {"seed": seed}) for seed in seeds]
    for path, planned in zip(paths, configs, strict=True):
        if path.exists() and RunDirectory.open(path).config != planned:
            raise UserError(f"{path} holds another experiment; choose another --run-dir")
    waiting = [planned for path, planned in zip(paths, configs, strict=True) if not _finished(path, planned)]
    if not waiting:
        return paths
    start_ray()
    check_resources(config)
    runners = config.env_runners
    cores = int(ray.cluster_resources().get("CPU", 1))
    at_once = max(1, cores // max(1, round(runners.num_env_runners * runners.num_cpus_per_env_runner)))
    # Ray gives a trial's process one thread, since the trial itself reserves no core: the runners' are the ones that count.
    threads = config.learner.threads or max(1, cores // at_once)
    of_runner: dict[str, float] = {"CPU": runners.num_cpus_per_env_runner, "GPU": runners.num_gpus_per_env_runner}
    # RLlib counts on a first bundle for the trial itself. It must not be empty, and a core would be one too many where runners need all.
    trial_itself: dict[str, float] = {"memory": 2**20} if runners.num_env_runners else {"CPU": 1}
    bundles = [trial_itself, *[of_runner] * runners.num_env_runners]
    trainable = tune.with_resources(_train, tune.PlacementGroupFactory(bundles))
    trials = [{"path": str(folder / f"seed-{planned.seed}"), "experiment": planned.model_dump(), "threads": threads} for planned in waiting]
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    results = tune.Tuner(
        trainable,
        param_space={"trial": tune.grid_search(trials)},
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, trial_dirname_creator=lambda trial: trial.trial_id),
        run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=1),
    ).fit()
    if results.errors:
        raise UserError(f"{len(results.errors)} of {len(trials)} trials failed: {str(results.errors[0]).strip().splitlines()[-1]}")
    return paths


def _finished(path: Path, planned: ExperimentConfig) -> bool:
    return max(steps(RunLayout(path).checkpoints), default=0) >= planned.total_frames


def _train(settings: dict[str, Any]) -> None:
    path = Path(settings["trial"]["path"])
    planned = ExperimentConfig.model_validate(settings["trial"]["experiment"])
    config = override(planned, {"learner.threads": settings["trial"]["threads"]})
    console = TuneConsole()
    if config.env_runners.num_env_runners == 0:
        algorithm, trainer = None, build_trainer(config)
    else:
        algorithm, trainer = build_ray_trainer(config)
    try:
        begun = RunLayout(path).config.exists()
        directory = RunDirectory.open(path) if begun else RunDirectory.create(path, planned)
        with run_lock(path):
            if begun:
                resume(trainer, directory, console)
            if trainer.frames < config.total_frames:
                run_training(trainer, directory, console)
        tune.report({"frames": trainer.frames, "score_mean": trainer.mean_score})
    finally:
        if algorithm is not None:
            algorithm.stop()
        else:
            trainer.close()
