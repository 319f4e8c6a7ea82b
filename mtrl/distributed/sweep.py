"""Several runs, such as one experiment under several seeds, as one Tune experiment: side by side as far as the cores go."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from ray import tune

from mtrl.config import ExperimentConfig, flatten, override
from mtrl.distributed.cluster import check_resources, start_ray
from mtrl.distributed.trials import (
    TuneConsole,
    resources_of,
    silence_tune,
    train_trial,
    trial_directory,
    trial_trainer,
    with_own_copies,
)
from mtrl.errors import TrialsInterruptedError, UserError
from mtrl.signals import Repeats
from mtrl.storage.checkpoint import steps
from mtrl.storage.layout import RunLayout
from mtrl.storage.run_directory import RunDirectory

STOP_FILE = "stop"  # in the folder of all runs, with the number of a signal
STOP_POLL_SECONDS = 0.5


class Progress(tune.Callback):
    """A line for each report of a trial."""

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Prints frames, speed and score."""
        if "frames_per_second" not in result:
            return
        total = trial.config["trial"]["experiment"]["total_frames"]
        score = f", score {result['score_mean']:.3f}" if result.get("score_mean") is not None else ""
        name = Path(trial.config["trial"]["path"]).relative_to(trial.config["trial"]["folder"])
        speed = f"{result['frames_per_second']:,.0f} frames/s"
        print(f"{name}: {result['frames']:,.0f} of {total:,} frames ({min(1.0, result['frames'] / total):.0%}), {speed}{score}", flush=True)


def sweep(config: ExperimentConfig, seeds: Sequence[int], folder: Path) -> list[Path]:
    """Trains the experiment under each seed in `folder/seed-N`, as `train_side_by_side` does.

    Returns:
        the runs' folders.
    """
    runs = runs_of_seeds(config, seeds, folder)
    train_side_by_side(runs, folder)
    return list(runs)


def runs_of_seeds(config: ExperimentConfig, seeds: Sequence[int], folder: Path) -> dict[Path, ExperimentConfig]:
    """The experiment under each seed, by the folder of the run."""
    return {folder.absolute() / f"seed-{seed}": override(config, {"seed": seed}) for seed in seeds}


def train_side_by_side(runs: Mapping[Path, ExperimentConfig], folder: Path) -> None:
    """Trains as many runs at a time as the cores are enough for; runs that are there already go on, and finished ones stay as they are.

    Args:
        runs: experiments that need the same resources, by the folders of their runs.
        folder: is above all of them.

    Raises:
        UserError: a run's folder holds another experiment, or a trial failed.
        TrialsInterruptedError: a signal came.
        ResourceError: not even one trial fits.
    """
    folder = folder.absolute()
    runs = {path: with_own_copies(planned, str(path.relative_to(folder))) for path, planned in runs.items()}
    for path, planned in runs.items():
        if RunLayout(path).config.exists():
            _check_same(path, planned)
    waiting = {path: planned for path, planned in runs.items() if not _finished(path, planned)}
    if not waiting:
        return
    config = next(iter(waiting.values()))
    start_ray()
    check_resources(config)
    share = resources_of(config, len(waiting))
    trainable = tune.with_resources(_train, share.bundles)
    common = {"threads": share.threads, "folder": str(folder)}
    trials = [{"path": str(path), "experiment": planned.model_dump(), **common} for path, planned in waiting.items()]
    silence_tune()
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # else it kills the trials before their checkpoints
    with _stopping(folder) as received:
        results = tune.Tuner(
            trainable,
            param_space={"trial": tune.grid_search(trials)},
            tune_config=tune.TuneConfig(max_concurrent_trials=share.at_once, trial_dirname_creator=lambda trial: trial.trial_id),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[Progress()]),
        ).fit()
    if received:
        raise TrialsInterruptedError(received[0])
    if results.errors:
        raise UserError(f"{len(results.errors)} of {len(trials)} trials failed: {str(results.errors[0]).strip().splitlines()[-1]}")


def _check_same(path: Path, planned: ExperimentConfig) -> None:
    """Refuses a run's folder that holds another experiment; one that is only shorter may be made longer.

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
        print("saving checkpoints of all runs; once more to end at once", flush=True)

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
    if (Path(settings["trial"]["folder"]) / STOP_FILE).exists():
        return  # a signal came before this trial began
    path = Path(settings["trial"]["path"])
    planned = ExperimentConfig.model_validate(settings["trial"]["experiment"])
    with trial_trainer(planned, settings["trial"]["threads"]) as trainer:
        with trial_directory(path, planned, trainer) as directory:
            received: list[int] = []
            threading.Thread(target=_follow, args=(Path(settings["trial"]["folder"]) / STOP_FILE, received), daemon=True).start()
            try:
                if trainer.frames < trainer.config.total_frames:
                    train_trial(trainer, directory, TuneConsole(), received)
            finally:
                received.append(0)  # ends the thread
        tune.report({"frames": trainer.frames, "score_mean": trainer.mean_score})
