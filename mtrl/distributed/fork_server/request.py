"""What Ray starts as a worker: asks the fork server for it, and gives way to Ray's own command where there is none.

    python request.py SOCKET SETUP_SCRIPT WORKER_SCRIPT OPTIONS...

Imports nothing but the standard library, and of that little: it runs before every worker.
"""

import json
import os
import socket
import sys
from typing import Any

CONTEXT = "--serialized-runtime-env-context="
FOR_SETUP = (CONTEXT, "--language=")  # options that the script which sets up workers keeps from the worker's script
# The one variable that workers may set beyond those of Ray; Tune sets it for each of its trials, and it is not read before.
HARMLESS = {"PL_DISABLE_FORK"}


def main() -> None:
    """Ends when the server has forked the worker; else becomes the worker."""
    path, *command = sys.argv[1:]
    variables = own_variables(command)
    worker = [word for word in command[1:] if not word.startswith(FOR_SETUP)]
    if variables is None or not forked(path, worker, variables):
        os.execv(sys.executable, [sys.executable, *command])


def own_variables(command: list[str]) -> dict[str, str] | None:
    """The variables that a worker's runtime environment adds; None if it needs more than a fork can give.

    Args:
        command: the scripts and options; the environment is Ray's JSON of it.
    """
    contexts = [word[len(CONTEXT) :] for word in command if word.startswith(CONTEXT)]
    context: dict[str, Any] = json.loads(contexts[-1]) if contexts else {}
    if context.get("command_prefix") or context.get("override_worker_entrypoint") or not command[1].endswith(".py"):
        return None
    if context.get("py_executable", sys.executable) != sys.executable or not HARMLESS.issuperset(context.get("env_vars", ())):
        return None
    variables: dict[str, str] = context.get("env_vars", {})
    return variables


def forked(path: str, command: list[str], variables: dict[str, str]) -> bool:
    """Whether the server has forked the worker.

    Args:
        path: of the server's socket.
        command: the worker's script and options.
        variables: to be set beyond those of this process.
    """
    with open("/proc/self/oom_score_adj") as file:  # Ray gives a worker to the kernel before its driver, if memory runs out
        badness = file.read()
    request = {"command": command, "folder": os.getcwd(), "variables": {**os.environ, **variables}, "badness": badness}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], [0, 1, 2])
            return connection.recv(1) == b"1"  # nothing if the server ends
    except OSError:
        return False


if __name__ == "__main__":
    main()
