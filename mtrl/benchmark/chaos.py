"""The same run twice, left alone and disturbed: runners are killed, environments raise and hang. What it loses by that."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from envs import make_suite
from mtrl.config import ExperimentConfig, dump_yaml, override
from mtrl.processes import named, session_of
from mtrl.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
KILL_SECONDS = 20.0  # between two runners that are killed
RAISE = 1 / 5000  # chance of a step
HANG_SECONDS = 60.0  # between two hangs, on average
UNROLL_SECONDS = 10.0  # after which an unroll counts as hanging
ASSUMED_SPEED = 3000.0  # steps/s, to turn time between hangs into a chance of a step
RUNNER = "MultiTaskEnvRunner"


class Outcome(NamedTuple):
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


def chaos(config: ExperimentConfig, minutes: float) -> tuple[Outcome, Outcome]:
    """Trains for so many minutes without and with disturbances, on Python's environments both times, and prints both."""
    plain = override(config, {"suite.backend": "gymnasium"})
    hang = 1 / (HANG_SECONDS * ASSUMED_SPEED)
    broken = override(
        plain, {"suite.name": f"chaos/{config.suite.name}?raise={RAISE}&hang={hang:.3g}", "faults.unroll_seconds": UNROLL_SECONDS}
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


def _run(config: ExperimentConfig, seconds: float, *, kills: bool) -> Outcome:
    """A run in processes of its own, stopped by SIGTERM as a scheduler would."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    (folder / "config.yaml").write_text(dump_yaml(config))
    command = [sys.executable, str(ROOT / "launch.py"), "train", str(folder / "config.yaml"), "--run-dir", str(folder / "run")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--total-frames", str(10**12), "--report-seconds", "2"], stdout=log, stderr=log, start_new_session=True
        )
    rng, killed, start = random.Random(0), 0, 0.0
    next_kill = KILL_SECONDS
    try:
        while process.poll() is None:
            time.sleep(0.5)
            if not start:
                start = time.monotonic() if (folder / "run" / "metrics.jsonl").exists() else 0.0
                continue
            elapsed = time.monotonic() - start
            if elapsed >= seconds:
                break
            runners = named(session_of(process.pid), RUNNER) if kills and elapsed >= next_kill else []
            if runners:
                os.kill(rng.choice(runners), signal.SIGKILL)
                killed, next_kill = killed + 1, elapsed + KILL_SECONDS
        if process.poll() is not None:
            raise RuntimeError(f"the run ended by itself with code {process.returncode}; see {folder / 'log'}")
    finally:
        process.terminate()
        process.wait()
    return _outcome(config, folder, time.monotonic() - start, killed)


def _outcome(config: ExperimentConfig, folder: Path, seconds: float, kills: int) -> Outcome:
    rows = RunDirectory.open(folder / "run").read_metrics()
    names = make_suite(config.suite.name).names
    last = rows[-1]
    counted = sum(int(last[f"tasks/{name}/frames"]) for name in names)
    backwards = any(after["summary/frames"] < before["summary/frames"] for before, after in itertools.pairwise(rows))
    if counted != int(last["summary/frames"]) or backwards:
        raise RuntimeError(f"frames are not accounted for: {counted} over tasks, {last['summary/frames']:.0f} in all; see {folder}")
    return Outcome(
        frames=int(last["summary/frames"]),
        seconds=seconds,
        score=float(np.mean([last.get(f"tasks/{name}/score", 0.0) for name in names])),
        lost=int(last["throughput/lost_unrolls"]),
        faults=sum(int(last[f"tasks/{name}/faults"]) for name in names),
        kills=kills,
        messages=(folder / "log").read_text()[-2000:],
    )
