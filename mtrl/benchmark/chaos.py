"""The same run twice, left alone and disturbed by killed runners, failing environments and a lost node: the loss in speed and score."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple, TextIO

import numpy as np

from envs import make_suite
from mtrl.benchmark.processes import end, kill_family, named
from mtrl.config import ExperimentConfig, dump_yaml, override
from mtrl.machine import PROJECT_ROOT, child_environment, family_of
from mtrl.storage.run_directory import RunDirectory

KILL_SECONDS = 20.0  # between two runners that are killed
RAISE = 1 / 5000  # chance of a step
HANG_SECONDS = 60.0  # between two hangs, on average
UNROLL_SECONDS = 10.0  # after which an unroll counts as hanging
ASSUMED_SPEED = 3000.0  # steps/s, to turn time between hangs into a chance of a step
NODE_STORE_BYTES = 200 * 2**20  # object store of each node
LEAVES, JOINS = 0.4, 0.5  # of the time: when the second node is lost, and when another one joins
RUNNER = "MultiTaskEnvRunner"


class ChaosOutcome(NamedTuple):
    """One run."""

    frames: int
    seconds: float  # from the first update
    score: float  # mean over tasks of the last training episodes
    lost: int  # unrolls
    faults: int
    kills: int
    messages: str  # the end of what was said

    @property
    def speed(self) -> float:
        """Trained frames per second."""
        return self.frames / self.seconds


def chaos(config: ExperimentConfig, minutes: float) -> tuple[ChaosOutcome, ChaosOutcome]:
    """Trains for so many minutes without and with disturbances, on Python's environments and two Ray nodes both times, and prints both."""
    plain = override(config, {"suite.backend": "gymnasium"})
    hang = 1 / (HANG_SECONDS * ASSUMED_SPEED)
    broken = override(
        plain, {"suite.name": f"chaos/{config.suite.name}?raise={RAISE}&hang={hang:.3g}", "faults.unroll_seconds": UNROLL_SECONDS}
    )
    # Two runners at least, so that each node has one.
    plain, broken = (
        override(plan, {"env_runners.num_env_runners": max(2, config.env_runners.num_env_runners)}) for plan in (plain, broken)
    )
    outcomes = []
    for name, plan, kills in (("left alone", plain, False), ("disturbed", broken, True)):
        outcome = _run(plan, 60 * minutes, kills=kills)
        outcomes.append(outcome)
        print(
            f"{name:11} {outcome.speed:9,.0f} frames/s  {outcome.frames:>10,} frames  score {outcome.score:.3f}  {outcome.kills} kills, "
            f"{outcome.faults} faults, {outcome.lost} unrolls lost",
            flush=True,
        )
    print(f"speed when disturbed: {outcomes[1].speed / outcomes[0].speed:.2f}; score: {outcomes[1].score - outcomes[0].score:+.3f}")
    return outcomes[0], outcomes[1]


def _run(config: ExperimentConfig, seconds: float, *, kills: bool) -> ChaosOutcome:
    """A run in processes of its own, stopped by SIGTERM as a scheduler would."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    (folder / "config.yaml").write_text(dump_yaml(config))
    command = [sys.executable, str(PROJECT_ROOT / "launch.py"), "train", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
    rng, killed, start, elapsed = random.Random(0), 0, 0.0, 0.0
    next_kill = KILL_SECONDS
    with (folder / "log").open("w") as log, _Nodes(config, log) as nodes:
        process = subprocess.Popen(
            [*command, "--total-frames", str(10**12), "--report-seconds", "2"],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=nodes.environment,
        )
        try:
            while process.poll() is None:
                time.sleep(0.5)
                if not start:
                    start = time.monotonic() if (folder / "run" / "metrics.jsonl").exists() else 0.0
                    continue
                elapsed = time.monotonic() - start
                if elapsed >= seconds:
                    break
                if kills:
                    nodes.second = not LEAVES <= elapsed / seconds < JOINS
                runners = nodes.runners() if kills and elapsed >= next_kill else []
                if runners:
                    os.kill(rng.choice(runners), signal.SIGKILL)
                    killed, next_kill = killed + 1, elapsed + KILL_SECONDS
            if process.poll() is not None:
                raise RuntimeError(f"the run ended by itself with code {process.returncode}; see {folder / 'log'}")
        except (KeyboardInterrupt, SystemExit):
            shutil.rmtree(folder, ignore_errors=True)  # nobody asks for what was measured until then
            raise
        finally:
            end(process)
    return _outcome(config, folder, elapsed, killed)


class _Nodes:
    """A Ray cluster of two nodes on this machine, each a session of processes of its own."""

    def __init__(self, config: ExperimentConfig, log: TextIO):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{probe.getsockname()[1]}"
        runners = config.env_runners
        cores = -(-runners.num_env_runners * runners.num_cpus_per_env_runner // 2)  # half the runners fit on each
        self._common = ["--num-cpus", str(int(cores)), "--object-store-memory", str(NODE_STORE_BYTES), "--disable-usage-stats"]
        self._address, self._log = address, log
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}  # nodes of several addresses cannot hide on loopback
        self.environment = child_environment(**token, RAY_ENABLE_UV_RUN_RUNTIME_ENV="0", RAY_ADDRESS=address)
        port = address.split(":")[1]
        self._second: subprocess.Popen[bytes] | None = None
        self._first = self._start("--head", "--port", port, "--node-ip-address", "127.0.0.1", "--include-dashboard", "false")
        try:
            self._wait(1)
            self.second = True
            self._wait(2)
        except BaseException:  # a signal, too
            self.__exit__()
            raise

    def __enter__(self) -> _Nodes:
        return self

    def __exit__(self, *error: object) -> None:
        self.second = False
        kill_family(self._first)
        _forget_cluster(self._address)

    @property
    def second(self) -> bool:
        """Whether the second node is there. To set it takes the node away, as a power cut would, or lets another one join."""
        return self._second is not None

    @second.setter
    def second(self, wanted: bool) -> None:
        if wanted and self._second is None:
            self._second = self._start("--address", self._address)
        elif not wanted and self._second is not None:
            kill_family(self._second)
            self._second = None

    def runners(self) -> list[int]:
        """Processes of runners on both."""
        return [pid for node in (self._first, self._second) if node is not None for pid in named(family_of(node.pid), RUNNER)]

    def _start(self, *options: str) -> subprocess.Popen[bytes]:
        ray = [sys.executable, "-m", "mtrl.distributed.node", *options, *self._common]
        environment = {name: value for name, value in self.environment.items() if name != "RAY_ADDRESS"}
        return subprocess.Popen(ray, stdout=self._log, stderr=self._log, start_new_session=True, env=environment)

    def _wait(self, nodes: int, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while Path(self._log.name).read_text().count("Ray runtime started") < nodes:
            if time.monotonic() > end:
                raise RuntimeError(f"Ray did not start; see {self._log.name}")
            time.sleep(0.2)


def _forget_cluster(address: str) -> None:
    """Removes Ray's note of the newest cluster on this machine if it is this one: later drivers would try to join it."""
    note = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"
    with contextlib.suppress(OSError):
        if note.read_text().strip() == address:
            note.unlink()


def _outcome(config: ExperimentConfig, folder: Path, seconds: float, kills: int) -> ChaosOutcome:
    rows = RunDirectory.open(folder / "run").read_metrics()
    names = make_suite(config.suite.name).names
    last = rows[-1]
    counted = sum(int(last[f"tasks/{name}/frames"]) for name in names)
    backwards = any(after["summary/frames"] < before["summary/frames"] for before, after in itertools.pairwise(rows))
    if counted != int(last["summary/frames"]) or backwards:
        raise RuntimeError(f"frames are not accounted for: {counted} over tasks, {last['summary/frames']:.0f} in all; see {folder}")
    return ChaosOutcome(
        frames=int(last["summary/frames"]),
        seconds=seconds,
        score=float(np.mean([last.get(f"tasks/{name}/score", 0.0) for name in names])),
        lost=int(last["throughput/lost_unrolls"]),
        faults=sum(int(last[f"tasks/{name}/faults"]) for name in names),
        kills=kills,
        messages=(folder / "log").read_text()[-2000:],
    )
