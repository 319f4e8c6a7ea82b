"""The machine under a run: cores and memory that affinity and control groups leave, the project's folder, packages, child processes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

PACKAGE = Path(__file__).parent
PROJECT_ROOT = PACKAGE.parent  # the folder of mtrl, envs and launch.py in a checkout; site-packages when installed
OBJECT_STORE_BYTES = 512 * 2**20  # of Ray on this machine; rollouts and weights in transit need a tenth of it
PACKAGES = ("torch", "numpy", "ray", "gymnasium", "envpool", "minigrid", "metaworld", "mujoco")  # a run records their versions

CHILD_SECONDS = 120  # how long code in a new interpreter may take
STEP_ONCE = "import sys, envs; envs.step_once(envs.make_suite(sys.argv[1]), sys.argv[2])"  # for `run_python`, with a suite and a backend

CONTROL_GROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


class Finding(NamedTuple):
    """One line of a report about a machine or a cluster."""

    level: Literal["ok", "note", "problem"]  # a problem keeps the run from starting
    subject: str
    text: str


class Child(NamedTuple):
    """The outcome of a check in a child process."""

    output: str
    fault: str | None  # its last word, if it failed


def own_cores() -> set[int]:
    """The numbers of the cores in this process's affinity; all of them where the system has none."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def usable_cores(control_groups: Path = CONTROL_GROUPS, own_groups: Path = OWN_GROUPS) -> float:
    """Cores that this process may keep busy: those of its affinity, or fewer where a control group has a quota, such as 0.5.

    Args:
        control_groups: where the file system of control groups is mounted.
        own_groups: the file that names the groups of this process.
    """
    cores = float(len(own_cores()))
    for group in _groups("cpu", control_groups, own_groups):
        for limit in (_numbers(group / "cpu.max"), _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")):
            if len(limit) == 2 and min(limit) > 0:  # quota and period; a quota of -1 is no limit
                cores = min(cores, limit[0] / limit[1])
    return cores


def whole_cores(control_groups: Path = CONTROL_GROUPS, own_groups: Path = OWN_GROUPS) -> int:
    """How many processes or threads that compute all the time have a core each: `usable_cores` rounded down, at least 1. Where others share
    the machine, what `share_cores` has set.
    """
    return max(1, min(int(usable_cores(control_groups, own_groups)), _share[0]))


_share = [sys.maxsize]


def share_cores(count: int) -> None:
    """Makes so many the most that `whole_cores` gives in this process, which has others beside it."""
    _share[0] = count


def waited_seconds() -> float:
    """Seconds for which threads of this process were ready to run and had no core, since it started; 0 where the system does not say."""
    total = 0
    for task in Path("/proc/self/task").glob("*/schedstat"):
        try:
            total += int(task.read_text().split()[1])
        except (OSError, IndexError, ValueError):
            continue
    return total * 1e-9


def idle_seconds() -> float:
    """Seconds for which the cores that this process may use had nothing to do, added up since the machine started; 0 where unknown."""
    try:
        own = {f"cpu{core}" for core in own_cores()}
        rows = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        return sum(int(row[4]) + int(row[5]) for row in rows if row and row[0] in own) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return 0.0


def available_memory(control_groups: Path = CONTROL_GROUPS, own_groups: Path = OWN_GROUPS) -> float:
    """Bytes that are free, or that a control group still leaves.

    Args:
        control_groups: where the file system of control groups is mounted.
        own_groups: the file that names the groups of this process.
    """
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024.0 * int(lines["MemAvailable"].split()[0])
    except (OSError, KeyError, ValueError):
        free = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for group in _groups("memory", control_groups, own_groups):
        for limit_file, used_file in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = _numbers(group / limit_file), _numbers(group / used_file)
            if limit and used:
                free = min(free, limit[0] - used[0])
    return max(0.0, free)


def child_environment(**changes: str) -> dict[str, str]:
    """The environment variables for a child process that imports this project's code from the same folder as this process.

    Args:
        changes: variables to set; they take precedence over those of this process.
    """
    return {**os.environ, "PYTHONPATH": python_path(), **changes}


def python_path() -> str:
    """The value of PYTHONPATH with the project's folder before the present entries, and the current folder after them."""
    present = os.environ.get("PYTHONPATH", "")
    here = [] if os.getcwd() in present.split(os.pathsep) else [os.getcwd()]
    return os.pathsep.join([str(PROJECT_ROOT), *filter(None, [present]), *here])


def run_python(code: str, *arguments: str, seconds: float | None = None) -> Child:
    """Runs `code` in a new interpreter that finds packages where this one does."""
    environment = child_environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path)), PYTHONWARNINGS="ignore")
    seconds = seconds or CHILD_SECONDS
    command = [sys.executable, "-P", "-c", code, *arguments]  # -P: not the current folder's packages
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, env=environment)
    except subprocess.TimeoutExpired:
        return Child("", f"it did not finish within {seconds:g} s")
    if done.returncode == 0:
        return Child(done.stdout, None)
    if done.returncode < 0:
        return Child(done.stdout, f"it crashed with signal {-done.returncode}")
    last = (done.stderr.strip().splitlines() or ["it failed without a word"])[-1]
    return Child(done.stdout, last.removeprefix("envs.errors.SuiteError: "))


def package_version(distribution: str) -> str | None:
    """The version of an installed distribution; None if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def family_of(pid: int) -> list[int]:
    """The living processes among the process, its descendants, and whoever is in the session of one of them.

    Ray's daemons have sessions of their own, and some of their children leave the tree of processes, but not the session.
    """
    parents = {int(entry.name): _parent_and_session(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    members, found = {pid}, {pid}
    while found:
        found = {other for other, origin in parents.items() if other not in members and not members.isdisjoint(origin)}
        members |= found
    return sorted(member for member in members if parents.get(member))


def _groups(controller: str, control_groups: Path, own_groups: Path) -> Iterator[Path]:
    """The folders of this process's groups, of each version the nearest first, and of all groups above: every one of them limits.

    Inside a container the file may name groups that only the host sees; the root, which always comes last, is the container's own then.
    """
    try:
        lines = [line.split(":", 2) for line in own_groups.read_text().splitlines()]
    except OSError:
        lines = []
    places = {control_groups: Path(), control_groups / controller: Path()}
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if not controllers or controller in controllers.split(","):
            own = Path(path.lstrip("/"))
            places[control_groups / controller if controllers else control_groups] = Path() if ".." in own.parts else own
    for root, own in places.items():
        yield from (root / group for group in (own, *own.parents))


def _numbers(path: Path) -> tuple[float, ...]:
    """The numbers of a one-line file; none if it is missing or says `max`."""
    try:
        return tuple(float(word) for word in path.read_text().split())
    except (OSError, ValueError):
        return ()


def _parent_and_session(pid: int) -> tuple[int, ...]:
    """The ids of a process's parent and of its session; empty if it has gone."""
    try:
        state, parent, _, session = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[:4]
    except (OSError, IndexError, ValueError):
        return ()
    return () if state == "Z" else (int(parent), int(session))
