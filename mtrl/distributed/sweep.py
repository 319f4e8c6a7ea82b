"""One experiment under several seeds, as one Tune experiment: trials run side by side as far as the cores go."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray import tune

from envs import TaskSuite
from mtrl.config import ExperimentConfig, flatten, override
from mtrl.distributed.cluster import build_ray_trainer, check_resources, start_ray
from mtrl.errors import UserError
from mtrl.signals import Repeats
from mtrl.storage.checkpoint import steps
from mtrl.storage.layout import RunLayout
from mtrl.storage.lock import run_lock
from mtrl.storage.run_directory import RunDirectory
from mtrl.training.run import run_training
from mtrl.training.saving import resume
from mtrl.training.trainer import build_trainer

STOP_FILE = "stop"  # in the folder of a sweep, with the number of a signal
STOP_POLL_SECONDS = 0.5


class SweepInterruptedError(Exception):
    """A signal ended the trials, which have saved checkpoints."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


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


class Progress(tune.Callback):
    """A line for each report of a trial."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Prints frames, speed and score."""
        if "frames_per_second" not in result:
            return
        total = trial.config["trial"]["experiment"]["total_frames"]
        score = f", score {result['score_mean']:.3f}" if result.get("score_mean") is not None else ""
        name = Path(trial.config["trial"]["path"]).name
        speed = f"{result['frames_per_second']:,.0f} frames/s"
        print(f"{name}: {result['frames']:,.0f} of {total:,} frames ({result['frames'] / total:.0%}), {speed}{score}", flush=True)


def sweep(config: ExperimentConfig, seeds: Sequence[int], folder: Path) -> list[Path]:
    """Trains the experiment under each seed in `folder/seed-N`; runs that are there already go on, and finished ones stay as they are.

    Returns:
        the runs' folders.

    Raises:
        UserError: a seed's folder holds another experiment, or a trial failed.
        SweepInterruptedError: a signal came.
        ResourceError: not even one trial fits.
    """
    folder = folder.absolute()
    paths = [folder / f"seed-{seed}" for seed in seeds]
    configs = [override(config, {"seed": seed}) for seed in seeds]
    for path, planned in zip(paths, configs, strict=True):
        if path.exists():
            _check_same(path, planned)
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
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # else it prints tables of its own, whatever `verbose` is
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # each run writes its own curves
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # else it kills the trials before their checkpoints
    with _stopping(folder) as received:
        results = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=at_once, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[Progress()]),
        ).fit()
    if received:
        raise SweepInterruptedError(received[0])
    if results.errors:
        raise UserError(f"{len(results.errors)} of {len(trials)} trials failed: {str(results.errors[0]).strip().splitlines()[-1]}")
    return paths


def _check_same(path: Path, planned: ExperimentConfig) -> None:
    """Refuses a seed's folder that holds another experiment; one that is only shorter may be made longer.

    Raises:
        UserError: with the fields that differ.
    """
    present = RunDirectory.open(path).config
    before, now = flatten(present.model_dump()), flatten(planned.model_dump())
    differing = [name for name in now if before.get(name) != now[name]]
    if differing == ["total_frames"] and planned.total_frames > present.total_frames:
        return
    if differing:
        found = ", ".join(f"{name} {before.get(name)} there and {now[name]} here" for name in differing[:3])
        raise UserError(f"{path} holds another experiment ({found}); choose another --run-dir")


@contextmanager
def _stopping(folder: Path) -> Iterator[list[int]]:
    """While trials run, the first signal asks them through a file to save and to end; a second one ends this process at once.

    The trials are Ray's processes, perhaps on other nodes, and see the folder. The list gets the number of the signal.
    """
    received: list[int] = []
    repeats = Repeats()
    file = folder / STOP_FILE
    file.unlink(missing_ok=True)

    def stop(number: int, frame: FrameType | None) -> None:
        if repeats.repeated():
            return
        if received:
            raise KeyboardInterrupt
        received.append(number)
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(str(number))
        print("saving checkpoints of all seeds; once more to end at once", flush=True)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, stop) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        file.unlink(missing_ok=True)


def _follow(file: Path, received: list[int]) -> None:
    """Passes on the signal that the file tells of."""
    while not received:
        with contextlib.suppress(OSError, ValueError):
            received.append(int(file.read_text()))
        time.sleep(STOP_POLL_SECONDS)


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
                if directory.config != planned:
                    directory.archive_config(directory.config, trainer.frames)
                    directory.config = planned
                    directory.write_config()
            received: list[int] = []
            threading.Thread(target=_follow, args=(path.parent / STOP_FILE, received), daemon=True).start()
            try:
                if trainer.frames < config.total_frames:
                    run_training(trainer, directory, console, received)
            finally:
                received.append(0)  # ends the thread
        tune.report({"frames": trainer.frames, "score_mean": trainer.mean_score})
    finally:
        if algorithm is not None:
            algorithm.stop()
        else:
            trainer.close()
