"""A real service in a process of its own, on loopback, for the wire tests."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import httpx

from posegate.api.pb import pose_pb2_grpc as services

START_LIMIT_S = 90.0
PROBLEM_FIELDS = {"type", "title", "status", "detail", "request_id"}


@dataclass(frozen=True)
class Service:
    """The running process, its address and its log."""

    process: "subprocess.Popen[bytes]"
    host: str
    port: int
    log: Path
    grpc_address: str

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def urls(self) -> dict[str, str]:
        """What the Python client takes, by face."""
        return {"http": self.url, "grpc": f"grpc://{self.grpc_address}"}

    def client(self, **options: object) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False, **options)

    def connect(self) -> socket.socket:
        """A bare connection, for what no proper client would do."""
        return socket.create_connection((self.host, self.port), timeout=60)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It does nothing meanwhile, and finds what has come all at once."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    def rss_bytes(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def threads(self) -> int:
        """Threads of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def handles(self) -> int:
        """Open file handles of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    def metrics(self) -> str:
        """The page that Prometheus reads."""
        with self.client() as client:
            return client.get("/metrics").text

    def wait_until_idle(self) -> None:
        """Until nothing is in flight on any face, but the one request that asks."""
        idle = [
            f'posegate_in_flight{{face="{face}"}} 0.0'
            for face in ("grpc", "websocket")
            if f'posegate_in_flight{{face="{face}"}}' in self.metrics()
        ]
        idle.append('posegate_in_flight{face="http"} 1.0')
        wait_until(lambda: (text := self.metrics()) and all(line in text for line in idle))

    def wait_for_in_flight(self, count: int) -> None:
        """Until so many requests are in flight besides the one that asks."""
        with self.client() as client:
            wait_until(
                lambda: (
                    f'posegate_in_flight{{face="http"}} {count + 1}.0'
                    in client.get("/metrics").text
                )
            )

    def stop(self) -> int:
        """SIGTERM, as an orchestrator would; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


def wait_until(condition: Callable[[], bool], limit_s: float = START_LIMIT_S) -> None:
    ends = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < ends, "what the test waits for did not happen"
        time.sleep(0.05)


def launch(
    repository: Path, log: Path, *flags: str, **settings: object
) -> "subprocess.Popen[bytes]":
    """Start `posegate serve` with these flags as a process; it logs to `log`."""
    ports = {"http_port": 0, "grpc_port": 0}
    wanted = {"model_repository": repository, **ports, "threads": 2, **settings}
    environment = {f"POSEGATE_{name.upper()}": str(value) for name, value in wanted.items()}
    paths = os.pathsep.join(path for path in sys.path if path)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "posegate", "serve", *flags],
            env={**os.environ, **environment, "PYTHONPATH": paths},
            stderr=stream,
        )


@contextmanager
def answering(servicer: services.PoseServiceServicer) -> Iterator[str]:
    """A made gRPC server on loopback; yields its URL."""
    with ThreadPoolExecutor(2) as threads:
        server = grpc.server(threads)
        services.add_PoseServiceServicer_to_server(servicer, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield f"grpc://127.0.0.1:{port}"
        finally:
            server.stop(None).wait()


@contextmanager
def running_service(
    repository: Path, log: Path, *flags: str, **settings: object
) -> Iterator[Service]:
    """A ready service; stopped at the end."""
    process = launch(repository, log, *flags, **settings)
    try:
        host, port, grpc_address = _wait_until_ready(process, log)
        yield Service(process, host, port, log, grpc_address)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def problem_of(response: httpx.Response, status: int, slug: str) -> dict[str, object]:
    """The response's problem document, checked to be one of that status and slug."""
    assert response.headers["content-type"] == "application/problem+json", response.text[:300]
    problem = response.json()
    assert set(problem) == PROBLEM_FIELDS
    assert (response.status_code, problem["status"], problem["type"]) == (status, status, slug), (
        problem
    )
    assert problem["request_id"] == response.headers["x-request-id"]
    assert "Traceback" not in problem["detail"]
    return problem


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> tuple[str, int, str]:
    ends = time.monotonic() + START_LIMIT_S
    while time.monotonic() < ends and process.poll() is None:
        match = re.search(r"server ready url=https?://([\d.]+):(\d+) grpc=(\S+)", log.read_text())
        if match:
            return match[1], int(match[2]), match[3]
        time.sleep(0.05)
    raise AssertionError(f"the service did not become ready:\n{log.read_text()}")
