"""A rolling update as the manifests order it, over a Service as kube-proxy is one: nothing fails.

Two real gateways: the new one is ready before it becomes an endpoint, the old one is no endpoint
any more before it gets SIGTERM. Connections that were made before stay where they are.
"""

import selectors
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from fakes import encode, make_photo
from posegate.client import Client
from wire.running import Service, running_service, wait_until

ANSWERED_EACH = 10
FORGETTING_S = 0.5
"""What the manifests' preStop gives as 10 s: the time until every node knows the new endpoints."""


class Balancer:
    """TCP on loopback; each new connection goes to the endpoint of that moment."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        pipes: list[threading.Thread] = []
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                break
            host, port = self.endpoint.rsplit(":", 1)
            try:
                far = socket.create_connection((host, int(port)), timeout=10)
            except OSError:
                near.close()
                continue
            pipes.append(threading.Thread(target=_pipe, args=(near, far)))
            pipes[-1].start()
        for pipe in pipes:
            pipe.join()


def _pipe(near: socket.socket, far: socket.socket) -> None:
    """Both ways, until either side is done."""
    with near, far, selectors.DefaultSelector() as selector:
        selector.register(near, selectors.EVENT_READ, far)
        selector.register(far, selectors.EVENT_READ, near)
        while True:
            for key, _ in selector.select():
                try:
                    data = key.fileobj.recv(1 << 16)
                    key.data.sendall(data)
                except OSError:
                    return
                if not data:
                    return


@contextmanager
def balanced(service: Service) -> Iterator[dict[str, Balancer]]:
    """A balancer for each face, before this gateway at first."""
    balancers = {face: Balancer(place) for face, place in endpoints(service).items()}
    try:
        yield balancers
    finally:
        for balancer in balancers.values():
            balancer.close()


def endpoints(service: Service) -> dict[str, str]:
    return {"http": f"{service.host}:{service.port}", "grpc": service.grpc_address}


def new_connections(url: str, photo: bytes) -> Iterator[str]:
    """A connection for every request, and no second try: curl, an Ingress without keep-alive."""
    while True:
        answer = httpx.post(f"{url}/v1/poses", content=photo, timeout=60, trust_env=False)
        yield str(answer.status_code)


def kept_connection(url: str, photo: bytes) -> Iterator[str]:
    """One connection as long as it lasts, by our own client."""
    with Client(url) as client:
        while True:
            client.estimate(photo)
            yield "200"


def call_on(
    calls: Iterator[str], outcomes: Counter[str], enough: threading.Event
) -> threading.Thread:
    def ask() -> None:
        try:
            for outcome in calls:
                outcomes[outcome] += 1
                if enough.is_set():
                    break
        except Exception as error:
            outcomes[repr(error)] += 1

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


@pytest.mark.slow
def test_no_request_fails_while_a_gateway_takes_the_place_of_another(
    repository: Path, tmp_path: Path
):
    photo = encode(make_photo())
    kinds: dict[str, tuple[Callable[[str, bytes], Iterator[str]], str]] = {
        "new connections": (new_connections, "http"),
        "kept connection": (kept_connection, "http"),
        "gRPC": (kept_connection, "grpc"),
    }
    outcomes: dict[str, Counter[str]] = {kind: Counter() for kind in kinds}
    enough = threading.Event()

    def each_has_more() -> Callable[[], bool]:
        before = {kind: counter["200"] for kind, counter in outcomes.items()}
        return lambda: all(
            set(counter) - {"200"} or counter["200"] >= before[kind] + ANSWERED_EACH
            for kind, counter in outcomes.items()
        )

    with (
        running_service(repository, tmp_path / "new") as new,
        running_service(repository, tmp_path / "old") as old,
        balanced(old) as balancers,
    ):
        threads = [
            call_on(make(f"{face}://{balancers[face].address}", photo), outcomes[kind], enough)
            for kind, (make, face) in kinds.items()
        ]
        try:
            wait_until(each_has_more())
            for face, place in endpoints(new).items():
                balancers[face].endpoint = place
            time.sleep(FORGETTING_S)
            assert old.stop() == 0
            wait_until(each_has_more())
        finally:
            enough.set()
            for thread in threads:
                thread.join(60)
    assert {kind: set(counter) for kind, counter in outcomes.items()} == {
        kind: {"200"} for kind in kinds
    }
