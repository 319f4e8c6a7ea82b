"""Where metrics go besides `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow, or a class of one's own."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from envs import TaskSuite
from mtrl.config import ConfigError, ExperimentConfig, dump_yaml, flatten, look_up
from mtrl.storage.sealed import replace_text

IDENTITIES = "trackers.json"  # in a run's folder: the names by which services know the run, so that a resumed run goes on there
BATCH = 100  # parameters in one request to MLflow
QUICK_MLFLOW = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}  # training waits for an answer


class Tracker(Protocol):
    """Takes a run's metrics. An exception is a warning to the user, and training goes on."""

    def log(self, metrics: Mapping[str, float], frames: int) -> None:
        """Takes metrics of a number of trained frames; metrics of an evaluation are of the frames in `evaluation/frames`."""

    def close(self) -> None:
        """Writes what is still in memory."""


class TensorBoard:
    """Events in the run's folder. A resumed run hides what a killed process left behind its checkpoint."""

    def __init__(self, path: Path, config: ExperimentConfig, suite: TaskSuite, frames: int):
        from tensorboardX import SummaryWriter  # slow to import, and only training writes

        # Events of steps after `purge_step` that a killed run has left are hidden.
        # The suffix keeps a run that is resumed within a second from writing over the file.
        suffix = f".{frames}" if frames else ""
        self._writer = SummaryWriter(str(path), purge_step=frames + 1 if frames else None, filename_suffix=suffix)
        layout = {title: ["Multiline", [f"tasks/{name}/{title}" for name in suite.names]] for title in ("score", "return", "share_trained")}
        self._writer.add_custom_scalars({suite.name: layout})
        self._writer.add_text("config", f"```yaml\n{dump_yaml(config)}```")
        if not frames:
            self._add_hyperparameters(config)

    def _add_hyperparameters(self, config: ExperimentConfig) -> None:
        """Shows the experiment's fields in TensorBoard's HPARAMS, beside the mean scores."""
        from tensorboardX.summary import hparams

        fields = {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in _fields(config).items()}
        for summary in hparams(fields, {"summary/score_mean": 0.0, "summary/evaluation_score": 0.0}):
            self._writer.file_writer.add_summary(summary, 0)

    def log(self, metrics: Mapping[str, float], frames: int) -> None:
        """See `Tracker`."""
        evaluated = int(metrics.get("evaluation/frames", frames))
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, evaluated if is_of_evaluation(name) else frames)
        self._writer.flush()

    def close(self) -> None:
        """See `Tracker`."""
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B. Project, entity, mode and the like come from its environment variables (WANDB_PROJECT, WANDB_MODE=offline …)."""

    def __init__(self, path: Path, config: ExperimentConfig, suite: TaskSuite, frames: int):
        import wandb

        self._run = wandb.init(
            dir=str(path),
            id=_identity(path, "wandb", lambda: secrets.token_hex(8)),
            resume="allow",
            name=path.name,
            group=config.name,
            config=_fields(config),
            project=os.environ.get("WANDB_PROJECT", "mtrl"),
            settings=wandb.Settings(silent=True, console="off"),
        )
        self._run.define_metric("*", step_metric="summary/frames")
        for pattern in ("evaluation/*", "summary/evaluation_score"):
            self._run.define_metric(pattern, step_metric="evaluation/frames")

    def log(self, metrics: Mapping[str, float], frames: int) -> None:
        """See `Tracker`."""
        self._run.log(dict(metrics))

    def close(self) -> None:
        """See `Tracker`."""
        self._run.finish()


class MLflow:
    """A run of MLflow, in the experiment of the configuration's name. The server comes from MLFLOW_TRACKING_URI."""

    def __init__(self, path: Path, config: ExperimentConfig, suite: TaskSuite, frames: int):
        for name, value in QUICK_MLFLOW.items():
            os.environ.setdefault(name, value)
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        self._client, self._metric = MlflowClient(), Metric
        found = self._client.get_experiment_by_name(config.name)
        experiment = found.experiment_id if found is not None else self._client.create_experiment(config.name)

        def begin() -> str:
            run = str(self._client.create_run(experiment, run_name=path.name).info.run_id)
            params = [Param(name, str(value)[:500]) for name, value in _fields(config).items()]
            for start in range(0, len(params), BATCH):
                self._client.log_batch(run, params=params[start : start + BATCH])
            return run

        self._run = _identity(path, "mlflow", begin)
        self._client.set_terminated(self._run, status="RUNNING")

    def log(self, metrics: Mapping[str, float], frames: int) -> None:
        """See `Tracker`."""
        evaluated, now = int(metrics.get("evaluation/frames", frames)), int(time.time() * 1000)
        found = [self._metric(name, value, now, evaluated if is_of_evaluation(name) else frames) for name, value in metrics.items()]
        for start in range(0, len(found), BATCH):
            self._client.log_batch(self._run, metrics=found[start : start + BATCH])

    def close(self) -> None:
        """See `Tracker`."""
        self._client.set_terminated(self._run)


TRACKERS: dict[str, Callable[[Path, ExperimentConfig, TaskSuite, int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
    "mlflow": MLflow,
}
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}  # that are not installed by default


def check_trackers(config: ExperimentConfig) -> None:
    """Refuses trackers that cannot work, before anything is started.

    Raises:
        ConfigError: there is no such tracker, or its package is not installed.
    """
    for name in config.trackers:
        look_up(name, TRACKERS, "trackers", "tracker")
        package = PACKAGES.get(name)
        if package is not None and importlib.util.find_spec(package) is None:
            raise ConfigError(f"trackers: {name} needs the package {package}: pip install -e '.[{name}]'")


def make_tracker(name: str, path: Path, config: ExperimentConfig, suite: TaskSuite, frames: int) -> Tracker:
    """The tracker of this name for the run in `path`, which has metrics until `frames`."""
    return look_up(name, TRACKERS, "trackers", "tracker")(path, config, suite, frames)


def is_of_evaluation(metric: str) -> bool:
    """Whether a metric is about an evaluated policy, and not about the training."""
    return metric == "summary/evaluation_score" or metric.startswith("evaluation/")


def _fields(config: ExperimentConfig) -> dict[str, Any]:
    """The experiment's fields by dotted names."""
    return flatten(config.model_dump())


def _identity(path: Path, service: str, make: Callable[[], str]) -> str:
    """The name by which a service knows the run in `path`, made once and kept in its folder."""
    file, known = path / IDENTITIES, {}
    with contextlib.suppress(OSError, ValueError):
        known = json.loads(file.read_text())
    if service not in known:
        known[service] = make()
        with contextlib.suppress(OSError):
            replace_text(file, json.dumps(known))
    return str(known[service])
