"""Serving the dashboard on a port."""

from __future__ import annotations

import secrets
import socket
import sys
from pathlib import Path

import uvicorn

from mtrl.dashboard.app import make_app
from mtrl.dashboard.guard import LOOPBACK
from mtrl.errors import UserError

SWITCH_SECONDS = 0.0002


def serve(root: Path, host: str, port: int, token: str | None) -> None:
    """Serves the runs in `root` until it is interrupted. On an address that others reach, visitors need a token.

    Raises:
        UserError: the port is taken or the address is not this machine's.
    """
    if host not in LOOPBACK and token is None:
        token = secrets.token_urlsafe(16)
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"cannot listen on {host}:{port}: {error.strerror}; choose another --port") from None
    # While a thread computes, another one waits this long whenever it comes back from the file system.
    sys.setswitchinterval(SWITCH_SECONDS)
    print(f"http://{f'[{host}]' if ':' in host else host}:{port}/" + (f"?token={token}" if token else ""), flush=True)
    server = uvicorn.Server(uvicorn.Config(make_app(root, token=token), log_level="warning"))
    with listener:
        server.run(sockets=[listener])
