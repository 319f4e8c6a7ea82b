"""Starting or joining Ray for one training run from the command line."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import ray
from ray._private import ray_constants, services

from envs import make_suite
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.distributed.surroundings import address_space_warning, joined_badly, own_token, socket_folder, token_of_cluster, wait_for_head
from mtrl.machine import OBJECT_STORE_BYTES, family_of, python_path
from mtrl.models.policy import build_policy
from mtrl.rollouts.collector import check_fit
from mtrl.training.trainer import leave_threads_to_learner

if TYPE_CHECKING:
    from mtrl.distributed.algorithm import MultiTaskIMPALA
    from mtrl.training.trainer import Trainer

# What Ray's processes inherit. Set only where the user has not.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # RLlib passes its runners their configuration by reference, of which the core warns at every start (ray#53727).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "1",
    "PYTHONWARNINGS": "ignore",
}


class ResourceError(ConfigError):
    """Ray does not have what the runners were promised."""


def build_ray_trainer(config: ExperimentConfig) -> tuple[MultiTaskIMPALA, Trainer]:
    """The algorithm, to be stopped in the end, and its trainer.

    Raises:
        ResourceError: fewer cores or GPUs than the runners ask for.
        ConfigError: the experiment's parts do not fit each other.
    """
    leave_threads_to_learner()
    with ThreadPoolExecutor(1) as thread:
        # Ray's processes take seconds to start; meanwhile this one imports what does not touch Ray. (Ray has to start in the main
        # thread, since actors made by another one never hear of each other, and RLlib has to wait for it, since it registers itself.)
        for module in ("mtrl.training.trainer", "torch._dynamo", "minigrid", "envpool"):
            thread.submit(importlib.import_module, module)
        suite = make_suite(config.suite.name)
        check_fit(config, suite)
        build_policy(config.model, suite, config.seed)  # says whether the model fits the suite, before Ray is asked for anything
        start_ray()
        check_resources(config)
        from mtrl.distributed.algorithm import MultiTaskIMPALAConfig

        algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    return algorithm, algorithm.trainer


def start_ray() -> None:
    """Joins the cluster that the environment names, or starts Ray on this machine, listening on loopback only.

    Raises:
        RayUnavailableError: there is no such cluster, or Ray does not start here.
    """
    if ray.is_initialized():
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["PYTHONPATH"] = python_path()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    address = os.environ.get("RAY_ADDRESS")
    address = None if address == "local" else address
    if address is not None:
        wait_for_head(address, lambda message: print(message, file=sys.stderr, flush=True))
        token_of_cluster(address)
    else:
        if warning := address_space_warning():
            print(f"warning: {warning}", file=sys.stderr, flush=True)
        own_token()
        # "local": a cluster that somebody else has started on this machine is not ours to join.
        options |= {
            "address": "local",
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(socket_folder()),
        }
    # What it says of dead runners, of each several times, the run says once.
    logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)
    with _own_handlers(), _without_log_level_notice(), _as_ours() if address is None else contextlib.nullcontext():
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises plain ones as well
            raise joined_badly(address, error) from error
    if address is None:
        atexit.register(end_ray)  # called before Ray's own


def end_ray() -> None:
    """Ends the Ray that this process has started, with all of its processes, in a fraction of a second.

    `ray.shutdown` waits for each of them, up to a second, one after the other. A scheduler may not leave us so much time.
    """
    node = ray._private.worker._global_node
    if node is None or not node.is_head():
        return
    started = [info.process.pid for infos in node.all_processes.values() for info in infos]
    family = [pid for each in started for pid in family_of(each)]
    kill = node.kill_all_processes
    node.kill_all_processes = lambda **options: kill(check_alive=False, allow_graceful=False)
    ray.shutdown()
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keeps the handlers of signals: Ray's would end the process with another exit code, and without a checkpoint."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _as_ours() -> Iterator[None]:
    """For Ray on this machine, started for one run."""
    with _on_loopback(), _in_own_sessions():
        yield


@contextlib.contextmanager
def _in_own_sessions() -> Iterator[None]:
    """Gives each process that Ray starts a session of its own.

    `timeout`, Slurm, systemd and a terminal that is closed send their signal to our whole process group. Ray's processes would end before
    the checkpoint is written. They end with this process in any case: Ray has the kernel kill them when it dies.
    """
    start = services.ConsolePopen

    def start_in_own_session(*arguments: Any, **options: Any) -> Any:
        return start(*arguments, **options, start_new_session=True)

    services.ConsolePopen = start_in_own_session
    try:
        yield
    finally:
        services.ConsolePopen = start


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Lets Ray listen on 127.0.0.1 alone.

    It would replace that address by one that others can reach, and listen on all of them, unless it takes this for a platform without
    clusters, whose firewall it spares. It has read the variable when it was imported; its processes read it when they start.
    """
    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    os.environ[variable], ray_constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        del os.environ[variable]
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _without_log_level_notice() -> Iterator[None]:
    """Ray's core writes, past Python, that it took its log level from the environment: the first line of every run, and no help."""
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            os.write(2, b"".join(line for line in caught if b"Set ray log level" not in line))


def check_resources(config: ExperimentConfig) -> None:
    """Compares what runners and learners ask for with what the cluster has, instead of waiting for it for ever.

    Raises:
        ResourceError: one sentence.
    """
    have = ray.cluster_resources()
    for kind, amount in config.wanted_resources().items():
        if amount > have.get(kind, 0):
            runners, learners = config.env_runners.num_env_runners, config.learners.num_learners
            who = f"env_runners.num_env_runners {runners}" + (f" and learners.num_learners {learners} need" if learners else " needs")
            least = f"env_runners.num_{kind.lower()}s_per_env_runner"
            raise ResourceError(f"{who} {amount:g} {kind}, but Ray has {have.get(kind, 0):g}; ask for fewer runners or less {least}")
