"""Ends trainings as `timeout`, Slurm and closed terminals do: `python docs/experiments/measure_signals.py [ROUNDS [SECONDS]]`.

`timeout --signal=S SECONDS python launch.py train` sends the signal to the whole process group, Ray's processes included if they are in it.
Each round does this for SIGTERM, SIGINT and SIGHUP, alone and beside a process that keeps a core busy, and prints the time from the signal
to the exit, the exit code, the frames of the newest checkpoint and of the last update, and the processes that are left. Exit code 1 if a
run took more than `LONGEST` seconds to end, saved another policy than its last one, or left a process behind.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

from mtrl.storage.checkpoint import newest_valid
from mtrl.storage.run_directory import RunDirectory

LONGEST = 5.0  # seconds from the signal to the exit
SIGNALS = {"TERM": 143, "INT": 130, "HUP": 129}
GRACE = 1.0  # seconds in which the last process may go
MARK = "MTRL_MEASURED_RUN"  # an environment variable that all processes of a run inherit


def main(rounds: int, seconds: float) -> int:
    """Returns the exit code."""
    faults = 0
    for number in range(rounds):
        for neighbour in (False, True):
            for name in SIGNALS:
                busy = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if neighbour else None
                try:
                    faults += not ends_well(name, seconds, f"round {number + 1}, {'busy ' if neighbour else 'quiet'}")
                finally:
                    if busy is not None:
                        busy.kill()
                        busy.wait()
    print(f"{rounds * 6 - faults} of {rounds * 6} ended well")
    return bool(faults)


def ends_well(name: str, seconds: float, title: str) -> bool:
    """One training that is ended after `seconds`."""
    folder, mark = Path(tempfile.mkdtemp(prefix="signals-")), uuid.uuid4().hex
    command = ["timeout", "--preserve-status", f"--signal={name}", str(seconds), sys.executable, "launch.py", "train"]
    with (folder / "log").open("w") as log:
        start = time.monotonic()
        process = subprocess.Popen(
            [*command, "--run-dir", str(folder / "run"), *sys.argv[3:]],
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, MARK: mark},
        )
        code = process.wait()
    took = time.monotonic() - start - seconds
    time.sleep(GRACE)
    left = marked(mark)
    said = (folder / "log").read_text()
    newest, problems = (
        newest_valid(folder / "run" / "checkpoints") if (folder / "run" / "checkpoints").exists() else (None, ["no checkpoint"])
    )
    saved = newest.manifest.step if newest is not None else 0
    rows = RunDirectory.open(folder / "run").read_metrics() if (folder / "run" / "config.yaml").exists() else []
    trained = int(rows[-1]["summary/frames"]) if rows else -1  # a run reports its last update before it saves it
    good = code == SIGNALS[name] and took <= LONGEST and saved == trained > 0 and not left and not problems and "Traceback" not in said
    saving = f"saved {saved:,} of {trained:,} frames"
    print(f"{title} {name:4}: {took:5.2f} s, code {code}, {saving}, left {left or 'nothing'}{'' if good else ' FAULT'}", flush=True)
    if not good:
        print("    " + said[-1500:].replace("\n", "\n    "))
    return good


def marked(mark: str) -> list[str]:
    """Command lines of living processes with the mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and f"{MARK}={mark}".encode() in (entry / "environ").read_bytes():
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:80])
        except OSError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10, float(sys.argv[2]) if len(sys.argv) > 2 else 40.0))
