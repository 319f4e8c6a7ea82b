"""A search over settings of an experiment by Ray Tune: each trial is a training run with values of its own."""

from __future__ import annotations

import contextlib
import json
import math
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, Literal, NamedTuple

import numpy as np
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator
from ray.tune.search.search_algorithm import SearchAlgorithm
from ray.tune.search.searcher import Searcher

from mtrl.config import ExperimentConfig, override
from mtrl.distributed.cluster import check_resources, start_ray
from mtrl.distributed.search_space import Space, check_space
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
from mtrl.storage.checkpoint import newest_valid
from mtrl.storage.layout import RunLayout
from mtrl.storage.run_directory import RunDirectory
from mtrl.storage.sealed import replace_text
from mtrl.storage.search_record import FILE, TrialRecord, read_search
from mtrl.training.metrics import objective_of
from mtrl.training.saving import save
from mtrl.training.trainer import Trainer

METRIC = "objective"
FIRST_RUNG = 4  # ASHA looks at a trial after a quarter of its budget: before, most agents have hardly finished an episode
REDUCTION = 4  # and lets one of four go on
PERTURBATIONS = 16  # of a trial, by population-based training
REPORT_SECONDS = 1.0
SUMMARY_SECONDS = 10.0  # between two lines about the whole search

Method = Literal["random", "asha", "pbt", "optuna"]


class Budget(NamedTuple):
    """What a trial may cost at most."""

    unit: Literal["frames", "seconds"]
    most: float


def search(
    config: ExperimentConfig,
    space: Space,
    folder: Path,
    *,
    trials: int,
    method: Method,
    budget: Budget,
    seed: int = 0,
    ended: Callable[[Path], object] = lambda folder: None,
) -> list[TrialRecord]:
    """Runs the trials, each in `folder/trial-ID`, and keeps `folder/search.json` up to date. A search that was interrupted goes on.

    Args:
        config: the experiment, with the values of all fields that are not searched.
        space: the fields that are.
        folder: of the search.
        trials: their number; with `pbt` the size of the population.
        method: `random` gives every trial its whole budget. `asha` stops those that are behind others at equal cost (Li et al. 2020).
            `pbt` lets the worst go on from the best with changed values (Jaderberg et al. 2017). `optuna` draws values near those that
            were good (TPE), and stops trials as `asha` does.
        budget: of a trial. In seconds, a setting that makes training slow has to be worth it.
        seed: of the draws.
        ended: called with the folder when a trial has ended.

    Returns:
        the trials, the best one first.

    Raises:
        UserError: the folder holds another search, the space does not fit the experiment, or all trials failed.
        TrialsInterruptedError: a signal came.
    """
    check_space(space, config)
    folder = folder.absolute()
    changes = {"total_frames": math.ceil(budget.most)} if budget.unit == "frames" else {}
    experiment = override(config, changes | {"report_seconds": REPORT_SECONDS})
    plan = {
        "experiment": experiment.model_dump(mode="json"),
        "space": {name: [domain.kind, list(domain.values)] for name, domain in space.items()},
        "method": method,
        "budget": list(budget),
        "trials": trials,
        "seed": seed,
    }
    _check_same(folder / FILE, plan)
    scheduler, sampler = _method_of_tune(method, space, budget, seed)
    start_ray()
    check_resources(experiment)
    share = resources_of(experiment, trials)
    fixed = {"folder": str(folder), "experiment": experiment.model_dump(), "threads": share.threads, "budget": budget, "method": method}
    parameters = {"trial": fixed, "values": {name: domain.for_tune() for name, domain in space.items()}}
    trainable = tune.with_resources(_train, share.bundles)
    silence_tune()
    state = str(folder / "tune")
    if tune.Tuner.can_restore(state):
        tuner = tune.Tuner.restore(state, trainable, param_space=parameters, resume_unfinished=True, resume_errored=True)
    else:
        tuner = tune.Tuner(
            trainable,
            param_space=parameters,
            tune_config=tune.TuneConfig(
                metric=METRIC,
                mode="max",
                num_samples=trials,
                max_concurrent_trials=None if method == "pbt" else share.at_once,
                scheduler=scheduler,
                search_alg=sampler,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(name="tune", storage_path=str(folder), verbose=0, callbacks=[Recorder(folder / FILE, plan, ended)]),
        )
    random.seed(seed)  # population-based training draws from the global streams
    np.random.seed(seed)
    with _ending_on_signals() as received:
        results = tuner.fit()
    found = read_search(folder)
    if received or len(found) < trials or any(trial.state == "running" for trial in found):
        raise TrialsInterruptedError(received[0] if received else signal.SIGINT)
    if all(trial.state == "failed" for trial in found):
        raise UserError(f"all trials failed; the last line of the first one's error is: {str(results.errors[0]).strip().splitlines()[-1]}")
    return found


class Recorder(tune.Callback):
    """Writes what the trials report into a file, and prints when one ends.

    Args:
        path: of the file. What is in it already, of a search that goes on, stays.
        plan: everything that makes this search another one.
        ended: called with the folder of the file when a trial has ended.
    """

    def __init__(self, path: Path, plan: dict[str, Any], ended: Callable[[Path], object] = lambda folder: None):
        self._path, self._plan, self._ended = path, plan, ended
        self._trials: dict[str, TrialRecord] = {}
        self._said = 0.0

    def setup(self, *args: Any, **kwargs: Any) -> None:
        """Takes over what is in the file."""
        if self._path.exists():
            self._trials = {trial.name: trial for trial in read_search(self._path.parent)}
        self._write()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the values, which population-based training may have changed."""
        name = _name(trial)
        record = self._trials.setdefault(name, TrialRecord(name, {}))
        record.values, record.state = dict(trial.config["values"]), "running"
        self._write()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Notes cost and objective."""
        if METRIC not in result:
            return
        record = self._trials.setdefault(_name(trial), TrialRecord(_name(trial), dict(trial.config["values"])))
        record.curve.append((float(result["frames"]), float(result["seconds"]), float(result[METRIC])))
        self._write()
        if time.monotonic() - self._said > SUMMARY_SECONDS:
            self._say()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes whether the trial had its whole budget."""
        record = self._trials[_name(trial)]
        unit, most = self._plan["budget"]
        spent = 0.0 if not record.curve else record.curve[-1][0 if unit == "frames" else 1]
        record.state = "finished" if spent >= most else "stopped"
        self._write()
        self._write_state(record)
        score = "" if record.best is None else f", best score {record.best:.3f}"
        print(f"{record.name}: {record.state} after {spent:,.0f} {unit}{score}", flush=True)
        self._ended(self._path.parent)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Notes the failure."""
        self._trials.setdefault(_name(trial), TrialRecord(_name(trial), dict(trial.config["values"]))).state = "failed"
        self._write()
        print(f"{_name(trial)}: failed; {trial.error_file or 'no file'} has the error", flush=True)

    def _write_state(self, record: TrialRecord) -> None:
        """Says in the run's folder how the trial has ended: its process was gone before it could."""
        frames = int(record.curve[-1][0]) if record.curve else 0
        with contextlib.suppress(UserError, OSError, ValueError):  # the run is on another machine
            directory = RunDirectory.open(self._path.parent / record.name)
            if json.loads(directory.layout.state.read_text()).get("state") in ("finished", "failed"):
                return  # the run knows best: it may have ended before the budget
            if record.state == "finished":
                directory.write_state("finished", frames=frames)
            else:
                directory.write_state("interrupted", frames=frames, reason="stopped by the search")

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        trials = [asdict(trial) for trial in self._trials.values()]
        replace_text(self._path, json.dumps(self._plan | {"planned_trials": self._plan["trials"], "trials": trials}))

    def _say(self) -> None:
        self._said = time.monotonic()
        scored = [trial for trial in self._trials.values() if trial.best is not None]
        ended = sum(trial.state != "running" for trial in self._trials.values())
        best = max(scored, key=lambda trial: trial.best or 0.0)
        print(f"{ended} of {self._plan['trials']} trials have ended; best score {best.best:.3f} by {best.name}", flush=True)


class _SearchConsole(TuneConsole):
    """Tells Tune cost and objective, with a checkpoint where a population needs one.

    Args:
        trainer: of the trial.
        directory: its run.
        budget: at the end of which the run is ended.
        received: a list that ends the run when there is something in it.
        interval: cost between two checkpoints for Tune; None for none.
    """

    def __init__(self, trainer: Trainer, directory: RunDirectory, budget: Budget, received: list[int], interval: float | None):
        self._trainer, self._directory, self._budget, self._received, self._interval = trainer, directory, budget, received, interval
        self._start = time.monotonic() - 3600 * directory.hours()
        self._saved = 0.0

    def update(self, metrics: dict[str, float]) -> None:
        """Reports, once every task has finished an episode."""
        seconds = time.monotonic() - self._start
        objective = objective_of(metrics, self._trainer.suite.names)
        if objective is not None:
            report = {METRIC: objective, "frames": self._trainer.frames, "seconds": seconds}
            cost = report[self._budget.unit]
            if self._interval is not None and cost - self._saved >= self._interval:
                self._saved = cost
                self._report_with_checkpoint(report)
            else:
                self._report(report)
        if self._budget.unit == "seconds" and seconds >= self._budget.most and not self._received:
            self._received.append(signal.SIGTERM)

    def _report_with_checkpoint(self, report: dict[str, float]) -> None:
        if not save(self._trainer, self._directory, self):
            self._report(report)
            return
        newest, _ = newest_valid(self._directory.checkpoints)
        assert newest is not None
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(newest.path, Path(folder) / newest.path.name)
            self._report(report, checkpoint=tune.Checkpoint.from_directory(folder))

    def _report(self, report: dict[str, float], **more: Any) -> None:
        """Reports to Tune, which may answer that the trial has to end: then the run ends as on a signal."""
        try:
            tune.report(report, **more)
        except SystemExit:
            self._received.append(signal.SIGTERM)


def _train(settings: dict[str, Any]) -> None:
    """One trial, in a process of Ray's."""
    fixed = settings["trial"]
    budget = Budget(*fixed["budget"])
    path = Path(fixed["folder"]) / f"trial-{tune.get_context().get_trial_id()}"
    planned = with_own_copies(override(ExperimentConfig.model_validate(fixed["experiment"]), settings["values"]), path.name)
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            _take_over(Path(folder), RunLayout(path).checkpoints)
    interval = budget.most / PERTURBATIONS if fixed["method"] == "pbt" else None
    with trial_trainer(planned, fixed["threads"]) as trainer, trial_directory(path, planned, trainer) as directory:
        received: list[int] = []
        console = _SearchConsole(trainer, directory, budget, received, interval)
        if trainer.frames < planned.total_frames:
            train_trial(trainer, directory, console, received)


def _take_over(checkpoint: Path, own: Path) -> None:
    """Puts another trial's checkpoint in the place of one's own."""
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(checkpoint, own)


def _method_of_tune(method: Method, space: Space, budget: Budget, seed: int) -> tuple[TrialScheduler, SearchAlgorithm | Searcher]:
    """Ray Tune's scheduler and sampler.

    Raises:
        UserError: Optuna is not installed.
    """
    # A trial ends itself at its budget, in order; Tune would stop it in the middle of its last checkpoint.
    most, first = max(2, math.ceil(budget.most)), max(1, int(budget.most / FIRST_RUNG))
    halving = ASHAScheduler(time_attr=budget.unit, max_t=2 * most, grace_period=first, reduction_factor=REDUCTION)
    if method == "optuna":
        try:
            from ray.tune.search.optuna import OptunaSearch

            return halving, OptunaSearch(metric=METRIC, mode="max", seed=seed)
        except (ImportError, AssertionError):
            raise UserError("--method optuna needs a package that is not installed: pip install -e '.[search]'") from None
    draws = BasicVariantGenerator(random_state=seed)
    if method == "pbt":
        mutations = {"values": {name: domain.for_tune() for name, domain in space.items()}}
        interval = budget.most / PERTURBATIONS
        return PopulationBasedTraining(
            time_attr=budget.unit, perturbation_interval=interval, hyperparam_mutations=mutations, require_attrs=False
        ), draws
    return (halving if method == "asha" else FIFOScheduler()), draws


def _check_same(path: Path, plan: dict[str, Any]) -> None:
    """Refuses a folder with another search.

    Raises:
        UserError: with what differs.
    """
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{path} is damaged; choose another --run-dir") from None
    before["trials"] = before.get("planned_trials")
    differing = [name for name in plan if before.get(name) != json.loads(json.dumps(plan[name]))]
    if differing:
        raise UserError(f"{path.parent} holds another search (other {', '.join(differing)}); choose another --run-dir")


@contextmanager
def _ending_on_signals() -> Iterator[list[int]]:
    """Tune ends in order on SIGINT; other signals do the same, and are kept in the list."""
    received: list[int] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, pass_on) for number in numbers if signal.getsignal(number) is not signal.SIG_IGN}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _name(trial: Any) -> str:
    return f"trial-{trial.trial_id}"
