"""Faults inside the service, played by a pipeline of our own behind the real HTTP server."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import uvicorn

from posegate.api.rest import create_app
from posegate.catalog import Catalog
from posegate.errors import BackendDown, Overloaded
from posegate.metrics import Metrics
from posegate.options import EstimateOptions
from posegate.pipeline import Pipeline
from posegate.settings import Settings
from wire.running import problem_of, wait_until


class ScriptedPipeline:
    """Does what the test says: raises `failure`, or works until it is cancelled."""

    def __init__(self) -> None:
        self.catalog = Catalog({}, defaults={})
        self.catalog.get = lambda name, task: SimpleNamespace(name=name)  # type: ignore[method-assign]
        self.failure: Exception | None = None
        self.not_ready: str | None = None
        self._max_people = 100
        self.working = threading.Event()
        self.cancelled = threading.Event()

    def ready(self) -> str | None:
        return self.not_ready

    def _networks_for(self, _: EstimateOptions) -> list[str]:
        return ["scripted"]

    @property
    def networks(self) -> SimpleNamespace:
        return SimpleNamespace(reasons=lambda _: self.not_ready, missing=lambda: None)

    check = Pipeline.check

    async def estimate(self, *_: Any, **__: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.working.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@pytest.fixture
def pipeline() -> ScriptedPipeline:
    return ScriptedPipeline()


@pytest.fixture
def address(pipeline: ScriptedPipeline) -> Iterator[tuple[str, int]]:
    settings = Settings(request_timeout_s=20)
    app = create_app(pipeline, settings, Metrics())  # type: ignore[arg-type]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join(30)


@pytest.fixture
def client(address: tuple[str, int]) -> Iterator[httpx.Client]:
    host, port = address
    with httpx.Client(base_url=f"http://{host}:{port}", trust_env=False) as client:
        yield client


def test_unforeseen_failure_is_a_500_that_tells_nothing(
    client: httpx.Client, pipeline: ScriptedPipeline, caplog: pytest.LogCaptureFixture
):
    pipeline.failure = ZeroDivisionError("secret of the house")
    response = client.post("/v1/poses", content=b"x", headers={"x-request-id": "find-me"})
    problem = problem_of(response, 500, "internal")
    assert problem["request_id"] == "find-me"
    assert "secret" not in response.text
    failed = [record for record in caplog.records if record.exc_info]
    assert [vars(record)["request_id"] for record in failed] == ["find-me"]
    batch = client.post("/v1/poses:batch", files={"image": b"x"}).json()["results"]
    assert [result["type"] for result in batch] == ["internal"]
    assert client.get("/livez").status_code == 200


def test_service_that_is_not_ready_says_why(client: httpx.Client, pipeline: ScriptedPipeline):
    pipeline.not_ready = "the network x is warming up"
    for response in (client.get("/readyz"), client.post("/v1/poses", content=b"x")):
        problem = problem_of(response, 503, "unavailable")
        assert "warming up" in str(problem["detail"])
        assert int(response.headers["retry-after"]) >= 1
    assert client.get("/livez").status_code == 200


@pytest.mark.parametrize(
    ("failure", "status", "slug", "retry_after"),
    [
        (Overloaded("full", retry_after_s=2.2), 429, "overloaded", "3"),
        (Overloaded("full"), 429, "overloaded", "1"),
        (BackendDown("gone"), 503, "unavailable", "1"),
    ],
)
def test_retryable_failures_say_when_to_try_again(
    client: httpx.Client,
    pipeline: ScriptedPipeline,
    failure: Exception,
    status: int,
    slug: str,
    retry_after: str,
):
    pipeline.failure = failure
    response = client.post("/v1/poses", content=b"x")
    problem_of(response, status, slug)
    assert response.headers["retry-after"] == retry_after


def test_work_is_cancelled_when_the_client_hangs_up(
    address: tuple[str, int], client: httpx.Client, pipeline: ScriptedPipeline
):
    with socket.create_connection(address) as connection:
        connection.sendall(b"POST /v1/poses HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert pipeline.working.wait(20)
    assert pipeline.cancelled.wait(20)
    counted = 'request_seconds_count{code="499",face="http",route="/v1/poses"} 1.0'
    wait_until(lambda: counted in client.get("/metrics").text)


def test_work_is_cancelled_at_the_deadline(client: httpx.Client, pipeline: ScriptedPipeline):
    started = time.monotonic()
    response = client.post("/v1/poses", content=b"x", headers={"x-request-timeout": "0.2"})
    assert "0.2 s" in str(problem_of(response, 504, "deadline")["detail"])
    assert time.monotonic() - started < 10  # the service allows 20
    assert pipeline.cancelled.wait(20)
