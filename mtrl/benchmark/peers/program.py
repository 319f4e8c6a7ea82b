"""A peer's training as a process: its virtual environment, its start and end, and the steps and episodes that its environments write."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from envs import TaskSuite
from mtrl.benchmark.processes import kill_family
from mtrl.curriculum.evidence import WINDOW
from mtrl.errors import UserError

PROGRAMS = Path(__file__).parent / "programs"
TORCH = f"torch=={torch.__version__.partition('+')[0]}"
CPUS = {"OMP_NUM_THREADS": "1"}  # a thread for each process, as Sample Factory sets it itself
LOOK_SECONDS = 0.2


class Peer(NamedTuple):
    """A trainer of other people."""

    label: str
    program: str  # a file in programs/
    requirements: tuple[str, ...]


PEERS = {
    "sample_factory": Peer("Sample Factory APPO, 2x256", "train_sample_factory.py", ("sample-factory==2.1.1", "minigrid", TORCH)),
    # It needs another torch than this project.
    "pufferlib": Peer("PufferLib PPO, 2x256", "train_pufferlib.py", ("pufferlib-core==3.0.23", "minigrid")),
}


class Line(NamedTuple):
    """What an environment has written."""

    time: float  # of the machine's monotonic clock, in seconds
    task: int
    steps: int  # since the environment's last line
    episode_return: float | None  # of the episode that has ended, if one has


class PeerProgram:
    """A running peer; its environments' steps and episodes so far. See `running`."""

    def __init__(self, peer: Peer, process: subprocess.Popen[bytes], log: Path, output: Path):
        self._peer, self._process, self._log, self._output = peer, process, log, output
        self._lines: list[Line] = []
        self._read = 0  # bytes of the log

    def lines(self) -> list[Line]:
        """All whole lines so far. Each is read once, since the peer shares the cores.

        Raises:
            RuntimeError: the peer has ended; with the end of its output.
        """
        if self._process.poll() is not None:
            raise RuntimeError(f"{self._peer.label} has ended:\n{self._output.read_text(errors='replace')[-3000:]}")
        if self._log.exists():
            with self._log.open("rb") as file:
                file.seek(self._read)
                text = file.read()
            whole = text[: text.rfind(b"\n") + 1]
            self._read += len(whole)
            self._lines += [Line(*json.loads(line)) for line in whole.splitlines()]
        return self._lines

    def wait_for_steps(self) -> None:
        """Returns when an environment has made its first steps."""
        while not self.lines():
            time.sleep(LOOK_SECONDS)

    @classmethod
    @contextmanager
    def running(cls, name: str, env_ids: list[str], seed: int = 0) -> Iterator[PeerProgram]:
        """Trains with a peer until the block ends.

        Args:
            name: of `PEERS`.
            env_ids: MiniGrid's ids; environments have them in turn.
            seed: the peer's.

        Raises:
            UserError: the peer cannot be installed.
        """
        peer = PEERS[name]
        python = installed(name)
        with tempfile.TemporaryDirectory() as folder:
            plan, log, output = (Path(folder) / each for each in ("plan.json", "log", "output"))
            plan.write_text(json.dumps({"env_ids": env_ids, "log": str(log)}))
            command = [str(python), str(PROGRAMS / peer.program), str(plan), folder, str(seed)]
            with output.open("wb") as file:
                process = subprocess.Popen(
                    command, stdout=file, stderr=subprocess.STDOUT, env=_environment(), cwd=folder, start_new_session=True
                )
            try:
                yield cls(peer, process, log, output)
            finally:
                kill_family(process)


def steps_per_second(lines: list[Line], start: float, end: float) -> float:
    """Steps of all environments per second between two times of the monotonic clock."""
    return sum(line.steps for line in lines if start < line.time <= end) / (end - start)


def mean_score(lines: list[Line], suite: TaskSuite) -> float:
    """The mean over tasks of the mean score of each task's last episodes, as `summary/score_mean`; NaN while a task has none."""
    means = []
    for task in range(suite.num_tasks):
        returns = [line.episode_return for line in lines if line.task == task and line.episode_return is not None]
        scores = suite.score(task, np.array(returns[-WINDOW:]))
        means.append(scores.mean() if len(scores) else np.nan)
    return float(np.mean(means))


def installed(name: str) -> Path:
    """The Python of a peer's virtual environment, in the user's cache; makes it if there is none, which takes minutes.

    Raises:
        UserError: the packages cannot be installed.
    """
    peer = PEERS[name]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mtrl-trainer" / "peers" / name
    python, mark = folder / "bin" / "python", folder / "requirements.json"
    if mark.exists() and json.loads(mark.read_text()) == list(peer.requirements):
        return python
    print(f"installing {', '.join(peer.requirements)} into {folder}", flush=True)
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(folder)],
        [str(python), "-m", "pip", "install", "-q", *peer.requirements],
    ):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise UserError(f"{peer.label} cannot be installed: {' '.join(reason)}")
    mark.write_text(json.dumps(list(peer.requirements)))
    return python


def _environment() -> dict[str, str]:
    """The variables of this process without those that would lead the peer to this project's packages."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | CPUS
