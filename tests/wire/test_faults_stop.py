"""SIGTERM under load: what the service has accepted is answered, on every face."""

import threading
from collections import Counter, deque
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

import grpc
import httpx
import pytest

from posegate.api.pb import pose_pb2 as pb
from posegate.api.pb import pose_pb2_grpc as services
from posegate.client import Client
from posegate.errors import BackendDown
from wire.running import Service, running_service, wait_until

CALLERS = 6
ANSWERED_BEFORE = 20
UNANSWERED = "no connection"
NEVER_TAKEN = ("UNAVAILABLE", "CANCELLED")
"""What gRPC answers of itself for a call that reaches a server that has begun to stop."""


def until_refused(call: Callable[[], str], outcomes: Counter[str]) -> threading.Thread:
    """A caller that asks again and again until the service is gone."""

    def ask() -> None:
        for _ in repeat(None):
            outcome = call()
            outcomes[outcome] += 1
            if outcome == UNANSWERED:
                return

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def http_call(service: Service, photo: bytes) -> Callable[[], str]:
    client = service.client()

    def call() -> str:
        try:
            return str(client.post("/v1/poses", content=photo).status_code)
        except (httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
            return UNANSWERED

    return call


def grpc_call(service: Service, photo: bytes) -> Callable[[], str]:
    stub = services.PoseServiceStub(grpc.insecure_channel(service.grpc_address))

    def call() -> str:
        try:
            stub.Estimate(pb.EstimateRequest(image=photo), timeout=60)
            return "OK"
        except grpc.RpcError as error:
            code = error.code().name
            return UNANSWERED if code in NEVER_TAKEN else code

    return call


@pytest.mark.parametrize("face", ["http", "grpc"])
def test_no_accepted_request_is_lost(repository: Path, tmp_path: Path, photo: bytes, face: str):
    """Callers without pause: each request the service's log knows of was answered with success."""
    make, good, logged = {
        "http": (http_call, "200", "POST /v1/poses "),
        "grpc": (grpc_call, "OK", "/PoseService/Estimate "),
    }[face]
    outcomes: Counter[str] = Counter()
    with running_service(repository, tmp_path / "log") as service:
        threads = [until_refused(make(service, photo), outcomes) for _ in range(CALLERS)]
        wait_until(lambda: outcomes[good] >= ANSWERED_BEFORE)
        assert service.stop() == 0
        for thread in threads:
            thread.join(60)
        log = service.log.read_text()
    assert set(outcomes) == {good, UNANSWERED}, outcomes
    lines = [line for line in log.splitlines() if logged in line.replace("posegate.v1.", "")]
    assert len(lines) == outcomes[good]
    assert all(f"{good} " in line for line in lines)
    assert "Traceback" not in log


def test_every_stream_gets_its_summary(repository: Path, tmp_path: Path, photo: bytes):
    """Streams of both faces and both modes that never pause: every frame taken has its event.

    Behind the summary an error says that the stream is no whole one.
    """
    endings: list[list[dict]] = []
    begun = threading.Semaphore(0)

    def stream(service: Service, face: str, mode: str) -> None:
        with Client(service.urls[face]) as client:
            events = client.stream(repeat(photo), mode=mode)
            taken = [next(events)]
            begun.release()
            with pytest.raises(BackendDown, match="before it had all") as caught:
                deque(map(taken.append, events))
            assert caught.value.retry_after_s is not None
            endings.append(taken)

    with running_service(repository, tmp_path / "log") as service:
        threads = [
            threading.Thread(target=stream, args=(service, face, mode))
            for face in service.urls
            for mode in ("live", "every")
        ]
        for thread in threads:
            thread.start()
        assert all(begun.acquire(timeout=60) for _ in threads)
        answered = 'posegate_stage_seconds_count{model="made-pose",stage="encode"} '
        wait_until(lambda: count_of(service.metrics(), answered) >= ANSWERED_BEFORE)
        assert service.stop() == 0
        for thread in threads:
            thread.join(60)
        assert "Traceback" not in service.log.read_text()
    assert len(endings) == len(threads)
    for *events, summary in endings:
        assert summary["event"] == "summary"
        assert [event["frame"] for event in events] == list(range(summary["frames"]))


def count_of(metrics: str, name: str) -> float:
    found = [line for line in metrics.splitlines() if line.startswith(name)]
    return float(found[0].rpartition(" ")[2]) if found else 0.0
