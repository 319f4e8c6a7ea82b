"""Joining a Ray that somebody else has started: heads that are down, silent, or something else."""

from __future__ import annotations

import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from mtrl.distributed.surroundings import RayUnavailableError, joined_badly, wait_for_head

ROOT = Path(__file__).parents[1]
TOKEN = "ab" * 32


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """A port that greets with `answer`, closes without a word for b"", and keeps silent for None."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def serve() -> None:
            while True:
                try:
                    connections.append(server.accept()[0])
                except OSError:
                    return
                if answer is not None:
                    connections[-1].sendall(answer)
                    connections[-1].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "something listens, but does not answer"),
        (b"", "something else than Ray listens|Connection reset by peer"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "something else than Ray listens|Connection reset by peer"),
    ],
)
def test_what_is_no_head(answer, reason):
    said = []
    with listening(answer) as address, pytest.raises(RayUnavailableError, match=rf"no Ray answers at RAY_ADDRESS={address} \(({reason})\)"):
        wait_for_head(address, said.append, seconds=1.0)


def test_nothing_listens():
    with pytest.raises(RayUnavailableError, match="Connection refused"):
        wait_for_head(f"127.0.0.1:{free_port()}", lambda message: None, seconds=0.5)


def test_a_person_at_a_terminal_waits_five_seconds():
    """On a terminal the command ends within a few seconds more than that, with one sentence."""
    main, terminal = pty.openpty()
    environment = os.environ | {"RAY_ADDRESS": f"127.0.0.1:{free_port()}"}
    program = "import os; from mtrl.distributed.surroundings import wait_for_head; wait_for_head(os.environ['RAY_ADDRESS'], print)"
    command = [sys.executable, "-c", program]
    begin = time.monotonic()
    done = subprocess.Popen(command, env=environment, stdout=terminal, stderr=terminal)
    os.close(terminal)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal
        while part := os.read(main, 4096):
            said += part
    assert done.wait() == 1 and 5.0 <= time.monotonic() - begin < 15.0
    assert b"no Ray answers" in said and b"within 5 s" in said
    os.close(main)


def test_a_head_that_comes_later():
    """A port of gRPC, as Ray's is."""
    port, said, server = free_port(), [], grpc.server(ThreadPoolExecutor(1))
    threading.Timer(3.0, lambda: (server.add_insecure_port(f"127.0.0.1:{port}"), server.start())).start()
    wait_for_head(f"127.0.0.1:{port}", said.append, seconds=30.0)
    assert len(said) == 1 and "nothing answers yet (Connection refused)" in said[0]
    server.stop(None)


@contextlib.contextmanager
def started_head(folder: Path, token: str | None) -> Iterator[str]:
    """`ray start` on loopback, which asks for a token or does not."""
    address = f"127.0.0.1:{free_port()}"
    mode = {"RAY_AUTH_MODE": "disabled"} if token is None else {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--node-ip-address", "127.0.0.1", "--num-cpus", "1"]
    command += ["--port", address.split(":")[1], "--include-dashboard", "false", "--object-store-memory", str(100 * 2**20)]
    environment = os.environ | mode | {"HOME": str(folder)}
    head = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for_head(address, lambda message: None, seconds=60.0)
        yield address
    finally:
        head.terminate()
        head.wait(30)


JOIN = """
import ray
from mtrl.distributed.cluster import start_ray
start_ray()
@ray.remote(num_cpus=0)
class One:
    def answer(self):
        return "joined"
print(ray.get(One.remote().answer.remote(), timeout=60))
"""


def joined(address: str, home: Path, **given: str) -> subprocess.CompletedProcess[str]:
    """A process that joins and has an actor."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    environment |= {"HOME": str(home), "RAY_ADDRESS": address} | given
    return subprocess.run([sys.executable, "-c", JOIN], env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT)


def leave_token(home: Path) -> None:
    """As every local `ray.init` does."""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(TOKEN)


def test_a_cluster_that_asks_for_a_token(tmp_path):
    """The one that does not ask, with a token in the home folder, is in test_cluster.py."""
    with started_head(tmp_path, TOKEN) as address:
        without = joined(address, tmp_path / "user")
        leave_token(tmp_path / "user")
        done = joined(address, tmp_path / "user")
    assert f"Ray at {address} asks for a token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH" in without.stderr
    assert done.stdout.split() == ["joined"], done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("asks", [True, False])
def test_tokens_in_the_environment(tmp_path, asks):
    """Whatever RAY_AUTH_MODE says."""
    with started_head(tmp_path, TOKEN if asks else None) as address:
        for mode in ({}, {"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token"}):
            done = joined(address, tmp_path, RAY_AUTH_TOKEN=TOKEN, **mode)
            assert done.stdout.split() == ["joined"], (mode, done.stdout + done.stderr)
        other = joined(address, tmp_path, RAY_AUTH_TOKEN="cd" * 32)
    assert ("may hold another token than the cluster's" in other.stderr) == asks and (other.stdout.split() == ["joined"]) != asks


@pytest.mark.parametrize(("ray_version", "python_version"), [("2.9.0", None), (None, "3.8.1")])
def test_other_versions_in_the_cluster_are_said_without_a_word_about_tokens(ray_version, python_version, monkeypatch):
    """With the error that Ray itself raises."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    ray_utils = pytest.importorskip("ray._private.utils")
    ours = dict(zip(("ray_version", "python_version"), ray_utils.compute_version_info()[:2], strict=True))
    theirs = {"ray_version": ray_version or ours["ray_version"], "python_version": python_version or ours["python_version"]}
    with pytest.raises(RuntimeError) as mismatch:
        ray_utils.check_version_info(theirs, "127.0.0.1", python_version_match_level="minor")
    said = str(joined_badly("127.0.0.1:6379", mismatch.value))
    assert "\n" not in said and "token" not in said and said.endswith("; install the versions of Ray and Python here that the cluster has")
    assert (ray_version or python_version) in said


CONNECTING = """
import os, signal
import ray
from mtrl.distributed.cluster import end_ray, start_ray

received = []
signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
core = ray._raylet.CoreWorker

class Signalled:
    def __new__(cls, *arguments, **options):
        made = core(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)  # now Ray's own handler is set
        return made

ray._raylet.CoreWorker = Signalled
start_ray()
print("received", received, ray.get(ray.put(7)))
os.kill(os.getpid(), signal.SIGTERM)
print("afterwards", received)
for infos in ray._private.worker._global_node.all_processes.values():
    for info in infos:
        (blocked,) = [line.split()[1] for line in open(f"/proc/{info.process.pid}/status") if line.startswith("SigBlk")]
        print("blocked in a process of Ray:", bool(int(blocked, 16) >> 14 & 1))
end_ray()
"""


def test_a_signal_while_ray_connects_is_ours():
    """Ray's handler would write a stack and end the process."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", CONNECTING], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0 and "SIGTERM received" not in done.stderr, done.stdout + done.stderr
    assert "received [15] 7" in done.stdout and "afterwards [15, 15]" in done.stdout
    assert "blocked in a process of Ray: False" in done.stdout and "blocked in a process of Ray: True" not in done.stdout
