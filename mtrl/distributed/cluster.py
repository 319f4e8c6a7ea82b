"""Starting or joining Ray for one training run from the command line."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import ray

from envs import make_suite
from envs.deferred_imports import import_package
from mtrl.config import ConfigError, ExperimentConfig
from mtrl.distributed import fork_server
from mtrl.distributed.local_ray import as_ours
from mtrl.distributed.surroundings import (
    address_space_warning,
    joined_badly,
    own_token,
    set_variables,
    socket_folder,
    token_of_cluster,
    wait_for_head,
)
from mtrl.distributed.termination import block_termination, own_handler
from mtrl.machine import OBJECT_STORE_BYTES, family_of, python_path
from mtrl.models.policy import build_policy
from mtrl.rollouts.collector import check_fit
from mtrl.training.trainer import leave_threads_to_learner

if TYPE_CHECKING:
    from mtrl.distributed.algorithm import MultiTaskIMPALA
    from mtrl.training.trainer import Trainer


class ResourceError(ConfigError):
    """Ray does not have what the runners were promised."""


def build_ray_trainer(config: ExperimentConfig) -> tuple[MultiTaskIMPALA, Trainer]:
    """The algorithm, to be stopped in the end, and its trainer.

    Raises:
        ResourceError: fewer cores or GPUs than the runners ask for.
        ConfigError: the experiment's parts do not fit each other.
    """
    fork_server.start(config.suite.name)
    leave_threads_to_learner()
    joins = os.environ.get("RAY_ADDRESS", "local") != "local"
    with ThreadPoolExecutor(1, initializer=block_termination) as thread:  # signals are the main thread's
        # Ray's processes take seconds to start; meanwhile the thread imports simulators. (Ray has to start in the main thread, since actors
        # made by another one never hear of each other, RLlib has to wait for it, since it registers itself, and users' environments may be
        # made in the main thread alone.)
        for package in fork_server.packages_of(config.suite.name):
            thread.submit(import_package, package)
        if joins:
            _check(config)  # before anything is asked of a cluster, which may be long in answering
        start_ray()
    if not joins:
        _check(config)
    check_resources(config)
    from mtrl.distributed.algorithm import MultiTaskIMPALAConfig

    algorithm = MultiTaskIMPALAConfig.from_experiment(config).build_algo()
    return algorithm, algorithm.trainer


def _check(config: ExperimentConfig) -> None:
    """Builds the suite and a policy for it.

    Raises:
        ConfigError: the experiment's parts do not fit each other.
        SuiteError: there is no such suite.
    """
    suite = make_suite(config.suite.name)
    check_fit(config, suite)
    build_policy(config.model, suite, config.seed)


def start_ray() -> None:
    """Joins the cluster that the environment names, or starts Ray on this machine, listening on loopback only.

    Raises:
        RayUnavailableError: there is no such cluster, or Ray does not start here.
    """
    if ray.is_initialized():
        return
    set_variables()
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
    with own_handler(), _without_log_level_notice(), as_ours(fork_server.start()) if address is None else contextlib.nullcontext():
        try:
            ray.init(**options)
        except Exception as error:  # Ray raises plain ones as well
            raise joined_badly(address, error) from error
    if address is None:
        atexit.register(end_ray)  # called before Ray's own


def end_ray() -> None:
    """Ends the Ray that this process has started, with all of its processes, in a fraction of a second.

    `ray.shutdown` waits for each of them, up to a second, one after the other. A scheduler may not leave us so much time. The workers end
    last: while this process is connected, Ray prints a worker that is killed as an unexpected error.
    """
    node = ray._private.worker._global_node
    if node is not None and node.is_head():
        started = [info.process.pid for infos in node.all_processes.values() for info in infos]
        family = [pid for each in started for pid in family_of(each)]
        kill = node.kill_all_processes
        node.kill_all_processes = lambda **options: kill(check_alive=False, allow_graceful=False)
        ray.shutdown()
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    fork_server.end()


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
