"""Ray's workers on this machine are forked from a process that has imported everything, and differ where they have to."""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from helpers import processes_with

from mtrl.distributed import fork_server
from mtrl.distributed.cluster import start_ray
from mtrl.distributed.fork_server import REQUEST, VARIABLE, ForkServer, packages_of, request
from mtrl.distributed.surroundings import ENVIRONMENT
from mtrl.machine import PROJECT_ROOT, child_environment

AT_ONCE = 6  # workers that start at the same time


@pytest.fixture(scope="module")
def cluster():
    start_ray()
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Worker:
    """Says what there is to say about its process."""

    def about(self) -> dict:
        loaded = "torch" in sys.modules and "ray.rllib" in sys.modules

        import torch

        draws = (random.random(), np.random.random(), float(torch.rand(1)), ray.UniqueID.from_random().hex(), os.urandom(4).hex())
        return {
            "pid": os.getpid(),
            "forked": gc.get_freeze_count() > 0,  # of the objects that were there before the fork
            "loaded": loaded,
            "draws": draws,
            "worker": ray.get_runtime_context().get_worker_id(),
            "group": os.getpgrp(),
            "badness": int(Path("/proc/self/oom_score_adj").read_text()),
            "sum": float(torch.ones(300, 300).matmul(torch.ones(300, 300)).sum()),
        }

    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


def test_workers_are_forked_with_all_packages_loaded(cluster):
    actors = [Worker.remote() for _ in range(AT_ONCE)]
    facts = ray.get([actor.about.remote() for actor in actors])
    for each in facts:
        assert each["forked"] and each["loaded"]
        assert each["group"] == each["pid"]  # Ray ends a worker's children by its group
        assert each["badness"] > 0  # the kernel ends workers before the driver
        assert each["sum"] == 300.0**3  # matrices are multiplied, by threads that the fork does not have
    for name in ("draws", "worker"):
        assert len({str(each[name]) for each in facts}) == AT_ONCE
    for place in range(5):
        assert len({each["draws"][place] for each in facts}) == AT_ONCE


ASKS_WORKERS_FOR_THEIR_THREADS = """
import gc, os, ray
from mtrl.distributed.cluster import start_ray

start_ray()

@ray.remote
class Worker:
    def threads(self, wanted=None):
        import torch
        if wanted is not None:
            torch.set_num_threads(wanted)
        return gc.get_freeze_count() > 0, torch.get_num_threads()

for cores in (0, 1, 2):
    if cores <= ray.cluster_resources()["CPU"]:
        actor = Worker.options(num_cpus=cores).remote()
        forked, threads = ray.get(actor.threads.remote())
        ray.get(actor.threads.remote(3))
        print(forked, threads == max(1, cores), ray.get(actor.threads.remote())[1])
        ray.kill(actor)
"""


def test_a_forked_worker_has_as_many_threads_as_it_was_given_cores(tmp_path):
    """As one that loads PyTorch by itself, until it says otherwise; where no variable names a number for all."""
    script = tmp_path / "script.py"
    script.write_text(ASKS_WORKERS_FOR_THEIR_THREADS)
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"} | {"PYTHONPATH": str(PROJECT_ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and set(done.stdout.splitlines()) == {"True True 3"}, done.stdout + done.stderr


def test_objects_of_workers_that_start_together_are_told_apart(cluster):
    """Each puts its own objects into the store; with the same identities they would be one another's."""

    @ray.remote(num_cpus=0)
    class Putting:
        def put(self, number: int) -> list[ray.ObjectRef]:
            return [ray.put([number, index, "x" * 200_000]) for index in range(5)]

    actors = [Putting.remote() for _ in range(AT_ONCE)]
    lists = ray.get([actor.put.remote(number) for number, actor in enumerate(actors)])
    assert len({reference.hex() for references in lists for reference in references}) == 5 * AT_ONCE
    for number, references in enumerate(lists):
        assert [value[:2] for value in ray.get(references)] == [[number, index] for index in range(5)]


def test_a_worker_with_variables_of_its_own_is_started_by_ray(cluster):
    """A fork has read its variables already."""
    actor = Worker.options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "1", "MTRL_MARK": "here"}}).remote()
    assert ray.get(actor.variable.remote("MTRL_MARK")) == "here"
    assert not ray.get(actor.about.remote())["forked"]


def test_workers_start_without_the_server_too(cluster):
    server = fork_server.start()
    assert server is not None
    server._process.kill()
    server._process.wait()
    actors = [Worker.remote() for _ in range(AT_ONCE)]  # more than were forked before and wait
    facts = ray.get([actor.about.remote() for actor in actors], timeout=60)
    assert not all(each["forked"] for each in facts)
    another = fork_server.start()
    assert another is not None and another is not server and another.lives()
    fork_server.end()
    assert not another.lives() and not another.socket.parent.exists()


def test_the_server_ends_with_the_process_that_started_it():
    code = "import time; from mtrl.distributed import fork_server; print(fork_server.start()._process.pid, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=child_environment()) as starting:
        assert starting.stdout is not None
        server = int(starting.stdout.readline())
        assert Path(f"/proc/{server}").exists()
        os.kill(starting.pid, signal.SIGKILL)
        starting.wait()
    end = time.monotonic() + 5
    while Path(f"/proc/{server}/cmdline").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not Path(f"/proc/{server}/cmdline").exists()


@pytest.mark.parametrize(("name", "value"), [(VARIABLE, "0"), ("RAY_ADDRESS", "10.0.0.1:6379")])
def test_there_is_none_where_ray_is_not_ours_or_nobody_wants_it(name, value, monkeypatch):
    monkeypatch.setenv(name, value)
    assert fork_server.start() is None


def test_only_the_command_that_is_known_is_changed(monkeypatch):
    server = ForkServer.__new__(ForkServer)
    server.socket = Path("/tmp/some where/socket")
    monkeypatch.setattr(ForkServer, "_listens", lambda self: True)
    setup = str(Path(ray.__file__).parent / "_private" / "workers" / "setup_worker.py")
    changed = server.worker_command(subprocess.list2cmdline([sys.executable, setup, "worker.py", "--raylet-name=a b", "PLACEHOLDER"]))
    assert changed == subprocess.list2cmdline(
        [sys.executable, "-I", "-S", str(REQUEST), "/tmp/some where/socket", setup, "worker.py", "--raylet-name=a b", "PLACEHOLDER"]
    )
    for other in (f"{sys.executable} other.py worker.py", f"java {setup} worker.py", ""):
        assert server.worker_command(other) == other


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        ({}, {}),
        ({"command_prefix": [], "env_vars": {"PL_DISABLE_FORK": "1"}, "py_executable": sys.executable}, {"PL_DISABLE_FORK": "1"}),
        ({"env_vars": {"OMP_NUM_THREADS": "1"}}, None),
        ({"command_prefix": ["nice"]}, None),
        ({"py_executable": "uv run"}, None),
        ({"override_worker_entrypoint": "other.py"}, None),
    ],
)
def test_what_a_fork_can_give(context, expected):
    assert request.own_variables(["setup.py", "worker.py", request.CONTEXT + json.dumps(context)]) == expected
    assert request.own_variables(["setup.py", "worker.py"]) == {}
    assert request.own_variables(["setup.py", "-s", "worker.py"]) is None


def test_draws_of_the_core_before_the_fork_are_noticed():
    """After such a draw all forks would draw alike, so that the server has to leave workers to Ray."""
    code = """
import sys
from mtrl.distributed.fork_server import server
server._import(["mtrl.distributed.env_runner", "mtrl.distributed.algorithm"])
assert "ray.rllib" in sys.modules
assert not server._draws_are_alike()
import ray
ray.remote(num_cpus=0)(type("Anything", (), {}))  # a class that is made an actor draws its identity
assert server._draws_are_alike()
"""
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment(), cwd=PROJECT_ROOT)


@pytest.mark.parametrize(
    ("suite", "packages"),
    [
        ("toy/three", []),
        ("gym/CartPole-v1", []),
        ("minigrid/mt3", ["envpool", "minigrid"]),
        ("chaos/minigrid/mt3?raise=0.1", ["envpool", "minigrid"]),
        ("metaworld/mt10", ["envpool", "metaworld"]),
        ("gym/CartPole-v1+babyai/GoTo", ["envpool", "minigrid"]),
        ("mujoco/v5", ["envpool"]),
    ],
)
def test_packages_of_a_suite(suite, packages):
    assert packages_of(suite) == packages


@pytest.mark.parametrize(
    ("module", "absent"),
    [("mtrl.distributed.weight_server", "torch"), ("mtrl.distributed.fork_server", "ray"), ("mtrl.distributed.fork_server", "torch")],
)
def test_small_processes_do_not_import_large_packages(module, absent):
    code = f"import sys, {module}; assert {absent!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env=child_environment(), cwd=PROJECT_ROOT)


def test_a_learner_does_not_import_the_compiler():
    """It takes PyTorch a second, and nothing is compiled."""
    code = """
import sys
from helpers import toy_config
from envs import make_suite
from mtrl.learning.learner import Learner
config = toy_config()
learner = Learner(config, make_suite(config.suite.name))
learner.load_state_dict(learner.state_dict())
assert "torch._dynamo" not in sys.modules
"""
    environment = child_environment(PYTHONPATH=os.pathsep.join([str(PROJECT_ROOT), str(PROJECT_ROOT / "tests")]))
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=PROJECT_ROOT)


def test_a_node_of_a_cluster_forks_its_workers(tmp_path):
    """`python -m mtrl.distributed.node` in place of `ray start`; everything ends with it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = child_environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="a" * 32, MTRL_TEST_MARK=str(tmp_path))
    options = ["--head", "--port", port, "--node-ip-address", "127.0.0.1", "--num-cpus", "1", "--include-dashboard", "false"]
    look = """
import os, ray
from pathlib import Path
ray.init(log_to_driver=False)
@ray.remote
def parent(): return Path(f"/proc/{os.getppid()}/cmdline").read_text()
print("forked" if "fork_server.server" in ray.get(parent.remote()) else "started")
"""
    with (tmp_path / "log").open("w") as log:
        command = [sys.executable, "-m", "mtrl.distributed.node", *options, "--disable-usage-stats", "--object-store-memory", "100000000"]
        node = subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=PROJECT_ROOT)
    try:
        end = time.monotonic() + 60
        while "Ray runtime started" not in (tmp_path / "log").read_text() and time.monotonic() < end:
            time.sleep(0.2)
        driver = [sys.executable, "-c", look]
        said = subprocess.run(driver, env=environment | {"RAY_ADDRESS": f"127.0.0.1:{port}"}, capture_output=True, text=True, timeout=60)
        assert said.stdout.split()[-1:] == ["forked"], said.stderr
    finally:
        node.terminate()
        node.wait(30)
    time.sleep(1)
    assert processes_with(str(tmp_path)) == set()


def test_ray_reads_its_variables_where_a_cluster_is_joined_too():
    """Ray's core reads them when it is imported, which is long before the cluster is joined."""
    code = """
import os, sys
from mtrl.config import ExperimentConfig
from mtrl.distributed.surroundings import ENVIRONMENT
from mtrl.runs import prepare_ray
prepare_ray(ExperimentConfig())
assert all(os.environ[name] == value for name, value in ENVIRONMENT.items())
assert "ray" not in sys.modules
"""
    variables = {name: value for name, value in child_environment(RAY_ADDRESS="127.0.0.1:1").items() if name not in ENVIRONMENT}
    subprocess.run([sys.executable, "-c", code], check=True, env=variables, cwd=PROJECT_ROOT)
