"""A process that has imported everything, of which Ray's workers on this machine are forked instead of importing it again.

A worker needs four seconds of a core for its imports, a fork a hundredth of one. So a runner that died is back within a second, and
runners, learners and trials share the memory of the packages.

    process of Ray (raylet) ── starts ──> request.py ── asks through a socket ──> server.py ── forks ──> worker

`request.py` starts the worker in Ray's own way where the server does not answer, or where the worker needs another environment.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from mtrl.machine import child_environment, family_of

VARIABLE = "MTRL_FORK_SERVER"  # 0 lets every worker of Ray import its packages itself
FOLDER_PREFIX = "mtrl-fork-"
REQUEST = Path(__file__).parent / "request.py"
SIMULATORS = ("envpool", "minigrid", "metaworld")  # packages that are safe to fork after their import
BIND_SECONDS = 5.0  # for the server's socket to be there

_server: ForkServer | None = None


class ForkServer:
    """The server's process, as this one sees it."""

    def __init__(self, modules: Sequence[str]):
        self._folder = tempfile.mkdtemp(prefix=FOLDER_PREFIX)
        self.socket = Path(self._folder) / "socket"
        command = [sys.executable, "-m", "mtrl.distributed.fork_server.server", str(self.socket), str(os.getpid()), *modules]
        # A session of its own: what ends this process group has to leave the runners alone until the checkpoint is written.
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, env=child_environment(**_of_workers()))

    def worker_command(self, command: str) -> str:
        """Ray's command for workers, changed so that it asks the server; unchanged where the server is not there or the command is another
        one than expected.

        Args:
            command: a command line that begins with Python and the script that sets up workers.
        """
        from ray._private import ray_constants, workers

        setup = str(Path(next(iter(workers.__path__))) / ray_constants.SETUP_WORKER_FILENAME)
        before = subprocess.list2cmdline([sys.executable, setup])
        if not command.startswith(f"{before} ") or not self._listens():
            return command
        # -I -S: neither the environment's settings nor site-packages, of which the request needs nothing.
        return subprocess.list2cmdline([sys.executable, "-I", "-S", str(REQUEST), str(self.socket), setup]) + command[len(before) :]

    def lives(self) -> bool:
        """Whether the process is there. The kernel ends it with the thread that started it."""
        return self._process.poll() is None

    def _listens(self) -> bool:
        end = time.monotonic() + BIND_SECONDS
        while not self.socket.exists():
            if not self.lives() or time.monotonic() > end:
                return False
            time.sleep(0.01)
        return True

    def end(self) -> None:
        """Ends the server and all workers that it has forked."""
        for pid in family_of(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


def start(suite: str | None = None, *, of_cluster: bool = False) -> ForkServer | None:
    """Starts the server of this process, unless there is one; it imports while its caller does.

    Args:
        suite: the name of the tasks, whose packages are imported, too.
        of_cluster: whether this process starts a node of a cluster, which has a token already if it wants one, and does not know what it
            will train.

    Returns:
        the server; None where Ray is not ours to start, or where the user wants none.
    """
    global _server
    if os.environ.get(VARIABLE) == "0" or os.environ.get("RAY_ADDRESS", "local") != "local":
        return None
    if _server is not None and not _server.lives():
        end()
    if _server is None:
        from mtrl.distributed.surroundings import own_token, set_variables

        set_variables()
        if not of_cluster:
            own_token()
        try:
            packages = SIMULATORS if of_cluster else packages_of(suite or "")
            _server = ForkServer(("mtrl.distributed.env_runner", *packages))
        except OSError:  # no process, no folder: workers import their packages themselves
            return None
        atexit.register(end)
    return _server


def end() -> None:
    """Ends the server of this process, if there is one."""
    global _server
    if _server is not None:
        _server.end()
        _server = None


def _of_workers() -> dict[str, str]:
    """Variables that Ray gives each worker, and that its core reads when it is loaded: here before the fork, and in all workers alike.

    A worker of no job can take part in any. A worker ends when the process with that id has ended: Ray's, or as well the one that started
    Ray.
    """
    mode = os.environ.get("RAY_AUTH_MODE", "token")  # the default of Ray's Python, and not that of its core
    return {"RAY_JOB_ID": "ffffffff", "RAY_RAYLET_PID": str(os.getpid()), "RAY_AUTH_MODE": mode}


def packages_of(suite: str) -> list[str]:
    """Those of `SIMULATORS` that the tasks of a suite need."""
    families = {part.strip().partition("/")[0] for part in suite.removeprefix("chaos/").split("+") if part}
    packages = [] if families <= {"toy", "gym"} else ["envpool"]
    if families & {"minigrid", "babyai"}:
        packages.append("minigrid")
    if "metaworld" in families:
        packages.append("metaworld")
    return packages
