"""Training runs as trials of Ray Tune: their resources, their processes, and what they tell Tune."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import ray
from ray import tune

from envs import TaskSuite
from mtrl.config import ExperimentConfig, override
from mtrl.distributed.cluster import build_ray_trainer
from mtrl.machine import share_cores, whole_cores
from mtrl.storage.layout import RunLayout
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.console import Console
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import Trainer, build_trainer


class TrialFailedError(Exception):
    """A trial's run has ended without its frames; the state that the run has written says why."""


class TuneConsole:
    """Tells Tune what a console would show."""

    def start(self, config: ExperimentConfig, suite: TaskSuite, directory: Path) -> None:
        """Ignored: Tune reports the progress."""

    def update(self, metrics: dict[str, float]) -> None:
        """The headline figures."""
        tune.report(headline(metrics))

    def message(self, text: str) -> None:
        """Into the trial's log."""
        print(text, flush=True)

    def close(self) -> None:
        """Does nothing."""


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The figures under `summary/`, by their short names."""
    return {name.removeprefix("summary/"): value for name, value in metrics.items() if name.startswith("summary/")}


class Resources(NamedTuple):
    """The part of the machine that one trial gets."""

    at_once: int  # trials that fit beside each other
    threads: int  # of each trial
    bundles: tune.PlacementGroupFactory


def resources_of(config: ExperimentConfig, trials: int) -> Resources:
    """What each of so many trials of this experiment gets of the cluster that Ray has joined."""
    runners = config.env_runners
    learners = config.learners
    cores = int(ray.cluster_resources().get("CPU", 1))
    at_once = min(trials, max(1, cores // max(1, round(config.wanted_resources()["CPU"]))))
    # Ray gives a trial's process one thread, since the trial itself reserves no core: the runners' are the ones that count.
    threads = max(1, min(cores // at_once, whole_cores()))
    of_runner: dict[str, float] = {"CPU": runners.num_cpus_per_env_runner, "GPU": runners.num_gpus_per_env_runner}
    # RLlib counts on a first bundle for the trial itself. It must not be empty, and a core would be one too many where runners need all.
    trial_itself: dict[str, float] = {"memory": 2**20} if runners.num_env_runners else {"CPU": 1}
    of_learner: dict[str, float] = {"CPU": learners.num_cpus_per_learner, "GPU": learners.num_gpus_per_learner}
    bundles = [trial_itself, *[of_runner] * runners.num_env_runners, *[of_learner] * learners.num_learners]
    return Resources(at_once, threads, tune.PlacementGroupFactory(bundles))


def train_trial(trainer: Trainer, directory: RunDirectory, console: Console, received: list[int]) -> None:
    """Trains until the run ends or there is a signal in `received`.

    Raises:
        TrialFailedError: the run has failed, and so has the trial: it does not count as one that was trained.
    """
    if run_training(trainer, directory, console, received) == 1:
        raise TrialFailedError(json.loads(directory.layout.state.read_text()).get("reason", "the run failed"))


def silence_tune() -> None:
    """Leaves printing to us, and curves to the runs themselves."""
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # else it prints tables of its own, whatever `verbose` is
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"


@contextmanager
def trial_trainer(planned: ExperimentConfig, threads: int) -> Iterator[Trainer]:
    """The trainer of a trial, in this process or over Ray's runners."""
    share_cores(threads)  # for the number of its environments' processes, too
    config = with_threads(planned, threads)
    algorithm, trainer = (None, build_trainer(config)) if config.env_runners.num_env_runners == 0 else build_ray_trainer(config)
    try:
        yield trainer
    finally:
        if algorithm is not None:
            algorithm.stop()
        else:
            trainer.close()


def with_threads(config: ExperimentConfig, most: int) -> ExperimentConfig:
    """The experiment with its share of the cores that trials beside each other have.

    Threads of one operation wait for each other, so that two trials with as many threads as there are cores get a third of the frames of
    two trials with one thread each.
    """
    runners = config.env_runners
    threads = {
        "learner.threads": config.learner.threads or most,
        "env_runners.env_threads": runners.env_threads,
        "env_runners.inference_threads": runners.inference_threads,
    }
    return override(config, {name: min(count, most) for name, count in threads.items()})


def with_own_copies(config: ExperimentConfig, name: str) -> ExperimentConfig:
    """The experiment of one of several runs, with an address of its own for the copies of its checkpoints."""
    url = config.checkpoints.copy_to
    return config if url is None else override(config, {"checkpoints.copy_to": f"{url.rstrip('/')}/{name}"})


@contextmanager
def trial_directory(path: Path, planned: ExperimentConfig, trainer: Trainer) -> Iterator[RunDirectory]:
    """The locked folder of a trial's run. One that was begun goes on from its newest checkpoint, with the experiment as planned now."""
    begun = RunLayout(path).config.exists()
    directory = RunDirectory.open(path) if begun else RunDirectory.create(path, planned)
    with run_lock(path):
        if begun:
            resume(trainer, directory, TuneConsole())
            if directory.config != planned:
                directory.archive_config(directory.config, trainer.frames)
                directory.config = planned
                directory.write_config()
        yield directory
