"""Traces of a real service, sent over OTLP to a collector that is or is not there."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from wire.running import running_service

collector_pb2 = pytest.importorskip(
    "opentelemetry.proto.collector.trace.v1.trace_service_pb2",
    reason="the extra otel is not installed",
)


@contextmanager
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """Its address, and the path and body of everything that was sent to it."""
    received: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.append((self.path, body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_spans_reach_the_collector_before_the_service_is_gone(
    repository: Path, tmp_path: Path, photo: bytes
):
    with (
        collector() as (address, received),
        running_service(repository, tmp_path / "log", otlp_endpoint=address) as service,
    ):
        with service.client() as client:
            stages = client.post("/v1/poses", content=photo).json()["stages_ms"]
        assert service.stop() == 0
    names = []
    for path, body in received:
        assert path == "/v1/traces"
        for group in collector_pb2.ExportTraceServiceRequest.FromString(body).resource_spans:
            names += [span.name for scope in group.scope_spans for span in scope.spans]
    assert set(names) == {"POST /v1/poses", *stages}


def test_a_collector_that_is_away_costs_no_request_and_little_time_at_the_end(
    repository: Path, tmp_path: Path, photo: bytes
):
    log = tmp_path / "log"
    with running_service(repository, log, otlp_endpoint="http://127.0.0.1:9") as service:
        with service.client() as client:
            assert client.post("/v1/poses", content=photo).status_code == 200
        started = time.monotonic()
        assert service.stop() == 0
        assert time.monotonic() - started < 20  # request_timeout_s is 30
    assert "Failed to export" in log.read_text()
