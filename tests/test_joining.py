"""Joining a Ray that somebody else has started: heads that are down, silent, or something else."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
import ray

from mtrl.distributed.cluster import start_ray
from mtrl.distributed.surroundings import RayUnavailableError, _asks_for_token, token_of_cluster, wait_for_head


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
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


def test_a_head_that_comes_later():
    """A port of gRPC, as Ray's is."""
    port, said, server = free_port(), [], grpc.server(ThreadPoolExecutor(1))
    threading.Timer(3.0, lambda: (server.add_insecure_port(f"127.0.0.1:{port}"), server.start())).start()
    wait_for_head(f"127.0.0.1:{port}", said.append, seconds=30.0)
    assert len(said) == 1 and "nothing answers yet (Connection refused)" in said[0]
    server.stop(None)


def test_a_real_head():
    start_ray()
    address = ray.get_runtime_context().gcs_address
    try:
        wait_for_head(address, lambda message: None, seconds=5.0)
        assert _asks_for_token(address)  # our own always do
    finally:
        ray.shutdown()


@pytest.mark.parametrize("asks", [True, False])
@pytest.mark.parametrize("said", [None, "token", "disabled"])
def test_a_token_goes_to_clusters_that_ask_for_one(monkeypatch, asks, said):
    """Heads of gRPC's own; the real ones that do not ask are in test_cluster.py, and those that do in test_a_real_head."""
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if said is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", said)
    server = grpc.server(ThreadPoolExecutor(1))

    def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
        if asks:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "InvalidAuthToken")
        return b""

    handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    token_of_cluster(f"127.0.0.1:{port}")
    server.stop(None)
    assert os.environ["RAY_AUTH_MODE"] == ("token" if asks else "disabled")
