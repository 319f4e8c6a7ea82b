"""What Ray needs of the machine around it: a short folder for sockets, a token, and a head that answers."""

from __future__ import annotations

import os
import resource
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mtrl.config import ConfigError

LONGEST_FOLDER = 40  # characters; a socket's path has at most 107, of which Ray takes up to 67
ADDRESS_SPACE = 5 * 2**30  # bytes that a process of Ray maps, most of which it never uses
ANSWER_SECONDS = 30.0  # for a head that a job script has started and that is not up yet
WATCHED_SECONDS = 5.0  # the same where a person waits at a terminal
SILENT_SECONDS = 2.0  # before it is said what is waited for
RETRY_SECONDS = 0.5
CLIENT_PORT = 10001  # of ray:// addresses
ALIVE = "/ray.rpc.NodeInfoGcsService/CheckAlive"  # Ray's question whether its head lives, without arguments
SETTINGS = bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # HTTP/2's frame of that name, without any


# What Ray's processes inherit. Set only where the user has not.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # RLlib passes its runners their configuration by reference, of which the core warns at every start (ray#53727).
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS": "1",
    # How long a driver waits to hear what a process died of before it says that it is gone; its actor is back long before Ray's second.
    "RAY_timeout_ms_task_wait_for_death_info": "100",
    "PYTHONWARNINGS": "ignore",
}


class RayUnavailableError(ConfigError):
    """Ray cannot be started or joined here."""


def set_variables() -> None:
    """Sets what Ray's processes inherit. Ray reads most of it when it is imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def socket_folder() -> Path:
    """A folder for Ray's sockets and logs: the machine's temporary folder, or another one where that is too long or cannot be written to.

    Raises:
        RayUnavailableError: there is none.
    """
    wanted = [os.environ[name] for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)]
    for folder in (*wanted, "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.path.abspath(folder)) <= LONGEST_FOLDER and _holds_sockets(folder):
            return Path(folder).absolute() / "ray"
    tried = ", ".join((*wanted, "/tmp", "/var/tmp", "/dev/shm"))
    raise RayUnavailableError(
        f"Ray needs a folder for sockets with a path of at most {LONGEST_FOLDER} characters that can be written to, and {tried} are none; "
        "set RAY_TMPDIR to one, or train in one process with --num-env-runners 0"
    )


def _holds_sockets(folder: str) -> bool:
    try:
        os.makedirs(Path(folder) / "ray", mode=0o777, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=Path(folder) / "ray") as inside, socket.socket(socket.AF_UNIX) as probe:
            probe.bind(f"{inside}/socket")
    except OSError:
        return False
    return True


def address_space_warning() -> str | None:
    """Where `ulimit -v` leaves less than Ray's processes may map, without which they die without a word: a sentence about it."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or limit >= ADDRESS_SPACE:
        return None
    return (
        f"`ulimit -v` leaves processes {limit / 2**30:.1f} GiB of addresses, and those of Ray may need {ADDRESS_SPACE / 2**30:.0f} GiB; if "
        "runners do not start, raise the limit, or train in one process with --num-env-runners 0"
    )


def own_token() -> None:
    """Gives a Ray of our own a token of its own; Ray would write one into the home folder, and ask for it on every later cluster."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() == "token" and not _has_token():
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def token_of_cluster(address: str) -> None:
    """Sends the user's token to a cluster that asks for one, and to no other.

    Ray sends it where RAY_AUTH_MODE says so. Sent to a cluster that has none, it breaks what it does not need: the driver then wants the
    token of the head, and Ray cancels all of the driver's actors before they run, for it believes that the driver has gone. Every local
    `ray.init` leaves a token in the home folder.

    Raises:
        RayUnavailableError: the cluster asks for a token, and there is none.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() not in ("token", "disabled"):
        return
    has_token = _has_token() or _token_file_exists()
    asks = _asks_for_token(address)
    if asks and not has_token:
        raise RayUnavailableError(f"Ray at {address} asks for a token; set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH")
    if asks is not None:
        _set_token_mode("token" if asks else "disabled")
    elif "RAY_AUTH_MODE" not in os.environ and has_token:
        _set_token_mode("token")


def _set_token_mode(mode: str) -> None:
    import ray

    os.environ["RAY_AUTH_MODE"] = mode
    ray._raylet.Config.initialize("")  # Ray has read the variable when it was imported


def _asks_for_token(address: str) -> bool | None:
    """Whether the head at an address refuses a question without a token; None where that cannot be found out."""
    import grpc
    from ray._private.services import canonicalize_bootstrap_address

    try:
        head = canonicalize_bootstrap_address(address) if address == "auto" else address
    except ConnectionError:  # there is none, which joining it will say
        return None
    if head is None or head.startswith("ray://") or _encrypted():
        return None
    with grpc.insecure_channel(head, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary(ALIVE)(b"", timeout=ANSWER_SECONDS)
        except grpc.RpcError as error:
            return True if error.code() == grpc.StatusCode.UNAUTHENTICATED else None
    return False


def _encrypted() -> bool:
    return os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true")


def _has_token() -> bool:
    return any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))


def _token_file_exists() -> bool:
    try:
        return (Path.home() / ".ray" / "auth_token").is_file()
    except (OSError, RuntimeError):  # no home folder
        return False


def wait_for_head(address: str, tell: Callable[[str], None], seconds: float | None = None) -> None:
    """Waits until a head answers at a cluster's address.

    Args:
        address: the value of RAY_ADDRESS.
        tell: told after `SILENT_SECONDS` what is waited for.
        seconds: the longest wait; by default `WATCHED_SECONDS` at a terminal, and `ANSWER_SECONDS` in a job that started the head itself.

    Raises:
        RayUnavailableError: nothing listens there, or it is no address of a head.
    """
    if address in ("auto", "local"):
        return
    host, port = _host_and_port(address)
    if seconds is None:
        seconds = WATCHED_SECONDS if sys.stderr.isatty() else ANSWER_SECONDS
    begin, told = time.monotonic(), False
    while True:
        try:
            _greet(host, port, min(SILENT_SECONDS, seconds))
            return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() - begin >= seconds:
            raise RayUnavailableError(
                f"no Ray answers at RAY_ADDRESS={address} ({reason}) within {seconds:.0f} s; start it with `ray start --head`, correct the "
                "address, or unset RAY_ADDRESS to start Ray on this machine"
            )
        if not told and time.monotonic() - begin >= SILENT_SECONDS - RETRY_SECONDS:
            tell(f"joining Ray at {address}: nothing answers yet ({reason}); waiting up to {seconds:.0f} s")
            told = True
        time.sleep(RETRY_SECONDS)


def _greet(host: str, port: int, seconds: float) -> None:
    """Connects and waits for the first frame of HTTP/2 (RFC 9113, section 3.4), which every gRPC server sends. Ray itself would wait for
    minutes for a port that is forwarded to nowhere, or that belongs to something else.

    Raises:
        OSError: nothing listens, nothing is said, or something else than a head answers.
    """
    with socket.create_connection((host, port), timeout=seconds) as connection:
        if _encrypted():
            return
        connection.settimeout(seconds)
        connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SETTINGS)
        try:
            answer = connection.recv(9)
        except TimeoutError:
            raise OSError("something listens, but does not answer") from None
        if len(answer) < 4 or answer[3] != SETTINGS[3]:
            raise OSError("something else than Ray listens")


def _host_and_port(address: str) -> tuple[str, int]:
    kind, _, rest = address.rpartition("://")
    host, _, port = rest.rpartition(":")
    if kind == "ray" and not port.isdecimal():
        host, port = rest, str(CLIENT_PORT)
    if kind not in ("", "ray") or not host or not port.isdecimal() or int(port) > 65535:
        raise RayUnavailableError(
            f"RAY_ADDRESS is {address}; it has to be HOST:PORT of a head (its port is 6379 by default), ray://HOST:{CLIENT_PORT}, or auto"
        )
    return host.strip("[]"), int(port)


def joined_badly(address: str | None, error: BaseException) -> RayUnavailableError:
    """The error of `ray.init` in one sentence."""
    text = " ".join(str(error).split())
    if address is None:
        blocked = os.path.isdir("/dev/shm") and not os.access("/dev/shm", os.W_OK)
        reason = "; /dev/shm, which holds Ray's objects, cannot be written to" if blocked else ""
        return RayUnavailableError(f"Ray cannot be started on this machine{reason}: {type(error).__name__}: {text[:300]}")
    hint = ""
    if "version mismatch" in text.lower():
        hint = "; install the versions of Ray and Python here that the cluster has"
    elif os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        hint = "; RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token may hold another token than the cluster's"
    elif not _has_token() or any(word in text.lower() for word in ("token", "auth", "unauthenticated", "permission denied")):
        hint = "; if the cluster asks for a token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    return RayUnavailableError(f"Ray at {address} cannot be joined: {type(error).__name__}: {text[:300]}{hint}")
