"""Memory, files and threads of a program and of all processes that it has started (Linux)."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

from mtrl.machine import family_of

END_SECONDS = 60.0  # for a training to save and to end


class ProcessUsage(NamedTuple):
    """Sums over processes."""

    memory: float  # bytes; what processes share is divided among them (proportional set size)
    shared: float  # of them in shared memory, where Ray's object store is
    files: int  # open
    threads: int
    processes: int


def held_by(pid: int) -> ProcessUsage:
    """The usage of the process and of all that it has started."""
    return sum_up([part for member in family_of(pid) if (part := _held_by_one(member)) is not None])


def named(pids: list[int], text: str) -> list[int]:
    """The processes with the text in their command line; Ray's actors show their class there."""
    found = []
    for pid in pids:
        try:
            if text.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
        except OSError:
            continue
    return found


def end(process: subprocess.Popen[Any]) -> None:
    """Lets a training save and end; kills it and all that it has started if it does not."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except BaseException as error:
        kill_family(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise


def kill_family(process: subprocess.Popen[Any]) -> None:
    """Kills a process and all that it has started."""
    while members := family_of(process.pid):
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.05)
    process.wait()


def sum_up(parts: list[ProcessUsage]) -> ProcessUsage:
    """The sum of several usages."""
    return ProcessUsage(*(sum(column) for column in zip(*parts, strict=True))) if parts else ProcessUsage(0.0, 0.0, 0, 0, 0)


def _held_by_one(pid: int) -> ProcessUsage | None:
    folder = Path(f"/proc/{pid}")
    try:
        sizes = dict(line.split(":") for line in (folder / "smaps_rollup").read_text().splitlines()[1:])
        status = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        files = len(list((folder / "fd").iterdir()))
    except OSError:  # it has ended meanwhile
        return None
    if "Pss" not in sizes:
        return None
    return ProcessUsage(_bytes(sizes["Pss"]), _bytes(sizes["Pss_Shmem"]), files, int(status["Threads"]), 1)


def _bytes(text: str) -> float:
    return 1024.0 * int(text.split()[0])
